"""Low rank: the worked example, the best loss there is, and models that open, train and serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.compress.export import export_model
from danlu.compress.prune import PruneConfig, prune
from danlu.compress.prune.low_rank import factorise, rank_of
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load, load_model, save_model
from danlu.model.low_rank import LowRankLinear, ranks_of
from danlu.model.quantized import quantize_
from tests.compress.models import saved_corpus, saved_model


def test_worked_example() -> None:
    weight = torch.tensor([[1.0, 0], [0, 2]])
    left, right, lost, _ = factorise(weight, torch.diag(torch.tensor([9.0, 1.0])), 1)
    assert torch.allclose(left @ right, torch.tensor([[1.0, 0], [0, 0]]), atol=1e-5)
    assert lost == pytest.approx(4 / 13, abs=1e-5)
    left, right, *_ = factorise(weight, torch.eye(2), 1)
    assert torch.allclose(left @ right, torch.tensor([[0.0, 0], [0, 2]]), atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_no_other_pair_of_this_rank_loses_less(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(shape), torch.randn(200, shape[1]) * torch.linspace(0.1, 3, shape[1])
    left, right, lost, _ = factorise(weight, inputs.T @ inputs, 8)
    outputs = inputs @ weight.T
    best = torch.linalg.svdvals(outputs)[8:].square().sum() / outputs.square().sum()  # Eckart and Young
    mine = (inputs @ (weight - left @ right).T).square().sum() / outputs.square().sum()
    assert float(mine) == pytest.approx(float(best), rel=1e-3) == pytest.approx(lost, rel=1e-3)


def test_rank() -> None:
    assert rank_of(576, 576, 0.5) == 144
    assert 144 * (576 + 576) == 576 * 576 // 2


def test_inputs_that_span_a_part_or_nothing() -> None:
    weight, inputs = torch.randn(8, 8), torch.randn(3, 8)
    for h in (inputs.T @ inputs, torch.zeros(8, 8)):
        left, right, lost, _ = factorise(weight, h, 3)
        assert torch.isfinite(left @ right).all() and 0 <= lost < 1
    assert factorise(weight, inputs.T @ inputs, 3)[2] < 1e-4


def test_files_and_modules(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = PruneConfig(method="svd", share=0.3, rows=4, length=32)
    prune(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    model = load_model(run.out)
    ranks = ranks_of(model)
    assert len(ranks) == 16 and ranks["blocks.0.mlp.down"] == rank_of(32, 64, 0.3)
    raw = json.loads((run.out / "config.json").read_text())["quantization_config"]
    assert (raw["quant_method"], raw["format"]) == ("danlu", "low-rank")
    ids = torch.arange(40).view(1, 40)
    with torch.no_grad():
        logits = model(ids)
    save_model(model, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (run.out / "model.safetensors").read_bytes()

    for name, rank in ranks.items():  # multiplied out it is the same model
        module = model.get_submodule(name)
        assert isinstance(module, LowRankLinear) and torch.linalg.matrix_rank(module.weight) <= rank
        dense = torch.nn.Linear(module.in_features, module.out_features, bias=False)
        dense.weight = torch.nn.Parameter(module.weight.detach())
        model.set_submodule(name, dense)
    with torch.no_grad():
        assert torch.allclose(model(ids), logits, atol=1e-4)


def test_other_formats_have_the_product(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = PruneConfig(method="svd", rows=4, length=32)
    prune(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    (tmp_path / "gguf").mkdir()
    export_model(run.out, tmp_path / "gguf", "gguf", "F32")
    ids = torch.arange(40).view(1, 40)
    with torch.no_grad():
        theirs = load(next((tmp_path / "gguf").glob("*.gguf")))[0](ids)
        assert torch.allclose(theirs, load_model(run.out)(ids), atol=1e-4)


def test_what_it_cannot_be(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = PruneConfig(method="svd", rows=4, length=32)
    prune(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    model = load_model(run.out)
    quantize_(model, 8)
    with pytest.raises(UserError, match="cannot be quantised as well"):
        save_model(model, tmp_path / "both")
    raw = json.loads((run.out / "config.json").read_text())
    raw["quantization_config"]["ranks"]["blocks.0.mlp.sideways"] = 3
    (run.out / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"gives blocks\.0\.mlp\.sideways the rank 3"):
        load_model(run.out)
