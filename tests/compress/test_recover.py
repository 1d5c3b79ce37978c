"""A pruned model trained on: it gets better, and what is 0 stays 0."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.compress.prune import PruneConfig, prune
from danlu.compress.recover import RecoverConfig, recover
from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import quantize_
from danlu.tokenizer.pack import PackConfig, pack
from danlu.train.constraint import Zeros
from danlu.train.optim import Group, Optimizer
from tests.compress.models import saved_corpus, saved_model
from tests.tokenizer.shared import TEXTS


@pytest.fixture
def tokens(tmp_path: Path) -> Artifact:
    run = StageRun.for_test(tmp_path / "tokens")
    pack(PackConfig(), run, saved_corpus(tmp_path / "corpus", TEXTS * 8), saved_model(tmp_path / "model"))
    return Artifact.from_path(run.out, "tokens")


def quick(**values: object) -> RecoverConfig:
    settings = {"budget": "12 steps", "context": 64, "batch_tokens": 256, "dtype": "float32", "learning_rate": 3e-3}
    return RecoverConfig.model_validate({**settings, **values})


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_zeros_stay(optimizer: str, tmp_path: Path, tokens: Artifact) -> None:
    pruned, run = StageRun.for_test(tmp_path / "pruned"), StageRun.for_test(tmp_path / "run")
    prune(PruneConfig(method="magnitude", pattern="2:4"), pruned, Artifact.from_path(tmp_path / "model", "model"))
    metrics = recover(quick(optimizer=optimizer), run, Artifact.from_path(pruned.out, "model"), tokens)
    assert metrics["zeros"] == 0.5
    before, after = load_model(pruned.out), load_model(run.out)
    for name, weight in before.blocks.named_parameters():
        now = after.blocks.get_parameter(name)
        assert not torch.equal(now, weight)
        if weight.dim() == 2:
            assert torch.equal(now == 0, weight == 0)
    ids = torch.tensor([[5, 300, 301, 302] * 8])
    assert torch.isfinite(after(ids)).all()
    free = StageRun.for_test(tmp_path / "free")
    metrics = recover(quick(keep_zeros=False), free, Artifact.from_path(pruned.out, "model"), tokens)
    assert metrics["zeros"] < 0.01


def test_smaller_models_learn_again(tmp_path: Path, tokens: Artifact) -> None:
    for method in ("channels", "svd"):
        pruned, run = StageRun.for_test(tmp_path / method), StageRun.for_test(tmp_path / f"{method} run")
        config = PruneConfig(method=method, share=0.5, rows=4, length=32)
        prune(config, pruned, Artifact.from_path(tmp_path / "model", "model"),
              Artifact.from_path(tmp_path / "corpus", "corpus"))  # fmt: skip
        metrics = recover(quick(), run, Artifact.from_path(pruned.out, "model"), tokens)
        assert metrics["parameters"] == load_model(run.out).n_params == load_model(pruned.out).n_params
        report = (run.out / "report.json").read_text()
        assert '"curve"' in report and metrics["loss"] < 5.9  # log(420) is 6.04


def test_keep_zeros_by_hand() -> None:
    """Muon turns [[0, 1], [1, 0]] and this gradient into an update without zeros; the two stay all the same."""
    param = torch.nn.Parameter(torch.tensor([[0.0, 1], [1, 0]]))
    optimizer = Optimizer([Group("muon", ["w"], [param], 0.1, 0.0, [(2,)])])
    zeros = Zeros([param])
    for _ in range(3):
        param.grad = torch.tensor([[1.0, 2], [3, 4]])
        zeros.before_update()
        optimizer.step()
        zeros.after_update()
    assert param[0, 0] == param[1, 1] == 0 and param[0, 1] != 1


def test_what_is_refused(tmp_path: Path, tokens: Artifact) -> None:
    network = load_model(tmp_path / "model")
    save_model(network, tmp_path / "bare")
    run = StageRun.for_test(tmp_path / "run")
    with pytest.raises(UserError, match="carries no tokenizer"):
        recover(quick(), run, Artifact.from_path(tmp_path / "bare"), tokens)
    quantize_(network, 8)
    save_model(network, tmp_path / "int8")
    with pytest.raises(UserError, match="quantised and cannot be trained"):
        recover(quick(), run, Artifact.from_path(tmp_path / "int8"), tokens)
