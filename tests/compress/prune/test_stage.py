"""The stage compress.prune on small models of two families: right, resumable, and open about what it cannot do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.compress.prune import METHODS, PruneConfig, prune
from danlu.compress.prune.pruner import Zeros
from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import quantize_
from tests.compress.models import GPT2, LLAMA, saved_corpus, saved_model

IDS = torch.arange(60).view(1, 60)


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    return saved_corpus(tmp_path / "corpus")


def settings(**values: Any) -> PruneConfig:
    text = {} if values.get("method") == "magnitude" else {"rows": 4, "length": 32}
    return PruneConfig(**text | values)


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "heads"])
def test_every_method(method: str, family: dict[str, Any], tmp_path: Path, corpus: Artifact) -> None:
    model, run = saved_model(tmp_path / "model", family), StageRun.for_test(tmp_path)
    share = 0.5 if method in ("channels", "layers") else None
    metrics = prune(settings(method=method, share=share), run, model, corpus if METHODS[method].calibrated else None)
    found = load_model(run.out)
    assert torch.isfinite(found(IDS)).all()
    assert metrics["parameters"] == found.n_params
    report = json.loads((run.out / "report.json").read_text())
    assert len(report["layers"]) == 4
    if METHODS[method].patterns:
        assert metrics["zeros"] == pytest.approx(0.5, abs=0.001)
        assert report["layers"][2]["matrices"]["mlp.down"] == 0.5
        assert found.n_params == metrics["parameters_before"]
    else:
        assert found.n_params < metrics["parameters_before"]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_two_of_four(method: str, tmp_path: Path, corpus: Artifact) -> None:
    run = StageRun.for_test(tmp_path)
    prune(settings(method=method, pattern="2:4"), run, saved_model(tmp_path / "model"),
          corpus if METHODS[method].calibrated else None)  # fmt: skip
    for block in load_model(run.out).blocks:
        for weight in (p for p in block.parameters() if p.dim() == 2):
            assert ((weight.view(-1, 4) != 0).sum(dim=1) == 2).all()


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("method", ["heads", "channels", "layers"])
def test_what_does_nothing_goes_and_nothing_changes(
    method: str, family: dict[str, Any], tmp_path: Path, corpus: Artifact
) -> None:
    if method == "heads" and family is GPT2:
        with pytest.raises(UserError, match="a gpt2 model cannot have head_dim"):
            prune(settings(method="heads", share=0.5), StageRun.for_test(tmp_path), saved_model(tmp_path / "m", GPT2),
                  corpus)  # fmt: skip
        return
    model = load_model(saved_model(tmp_path / "plain", family).path)
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            if method == "heads":  # the first group of one layer, the second of the next
                block.attention.out.weight[:, 32 * (index % 2) : 32 * (index % 2) + 32] = 0
            if method == "channels":
                block.mlp.down.weight[:, torch.randperm(64)[:32]] = 0
            if method == "layers" and index in (1, 2):
                for matrix in (block.attention.out, block.mlp.down):
                    for parameter in matrix.parameters():
                        parameter.zero_()
    save_model(model, tmp_path / "model")
    saved_model(tmp_path / "tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tokenizer" / name).rename(tmp_path / "model" / name)
    run = StageRun.for_test(tmp_path)
    metrics = prune(settings(method=method, share=0.5), run, Artifact.from_path(tmp_path / "model"), corpus)
    assert metrics["parameters"] < metrics["parameters_before"]
    with torch.no_grad():
        assert torch.allclose(load_model(run.out)(IDS), model(IDS), atol=2e-5)


def test_killed_between_layers(tmp_path: Path, corpus: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved_model(tmp_path / "model")
    whole, killed = StageRun.for_test(tmp_path / "whole"), StageRun.for_test(tmp_path / "killed")
    prune(settings(method="sparsegpt"), whole, model, corpus)
    seen: list[str] = []
    visit = Zeros.visit

    def fatal(self: Zeros, *rest: Any) -> None:
        seen.append("")
        if len(seen) == 11:  # in the third block
            os.kill(os.getpid(), signal.SIGKILL)
        visit(self, *rest)

    monkeypatch.setattr(Zeros, "visit", fatal)
    if (child := os.fork()) == 0:
        prune(settings(method="sparsegpt"), killed, model, corpus)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not list(killed.out.iterdir()) and len(list(killed.work.glob("block-*.safetensors"))) == 2

    monkeypatch.setattr(Zeros, "visit", lambda self, *rest: (seen.append(""), visit(self, *rest))[1])
    prune(settings(method="sparsegpt"), killed, model, corpus)
    assert len(seen) == 8  # two blocks were left
    for file in whole.out.iterdir():
        assert file.read_bytes() == (killed.out / file.name).read_bytes()


@pytest.mark.parametrize("method", ["channels", "layers", "svd"])
def test_stopped_between_layers(method: str, tmp_path: Path, corpus: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = saved_model(tmp_path / "model"), settings(method=method, share=0.5)
    whole, stopped = StageRun.for_test(tmp_path / "whole"), StageRun.for_test(tmp_path / "stopped")
    prune(config, whole, model, corpus)
    monkeypatch.setattr(stopped, "progress", lambda done, total, unit: setattr(stopped, "stop_requested", done == 3))
    with pytest.raises(Interrupted, match="3 of 4 blocks are done"):
        prune(config, stopped, model, corpus)
    prune(config, again := StageRun(stopped.out, stopped.work, stopped.events), model, corpus)
    for file in whole.out.iterdir():
        assert file.read_bytes() == (again.out / file.name).read_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "guess"}, "available: magnitude, wanda, sparsegpt, heads, channels, layers, svd"),
        ({"share": 1.0}, "not between 0 and 1"),
        ({"share": -0.5}, "not between 0 and 1"),
        ({"method": "layers", "pattern": "2:4"}, "knows no pattern"),
        ({"share": 0.5, "pattern": "2:4"}, "two answers"),
        ({"pattern": "5:7"}, "does not divide the 32 columns"),
        ({"method": "svd", "share": 0.99}, "rank of 0"),
        ({"share": float("nan")}, "not between 0 and 1"),
        ({"share": 1e-9}, "makes 0 of 32 weights 0"),
        ({"share": 0.9999}, "makes 32 of 32 weights 0"),
        ({"method": "magnitude"}, "magnitude looks at no text"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], message: str, tmp_path: Path, corpus: Artifact) -> None:
    run = StageRun.for_test(tmp_path)
    with pytest.raises(UserError, match=message):
        prune(settings(**values), run, saved_model(tmp_path / "model"), corpus)
    assert not list(run.out.iterdir())


def test_models_and_texts_that_do_not_fit(tmp_path: Path, corpus: Artifact) -> None:
    model, run = saved_model(tmp_path / "model"), StageRun.for_test(tmp_path)
    with pytest.raises(UserError, match="wanda needs text"):
        prune(settings(), run, model)
    with pytest.raises(UserError, match="no text to calibrate with"):
        prune(settings(), run, model, saved_corpus(tmp_path / "empty", [""]))
    with pytest.raises(UserError, match="magnitude has no use for rows"):
        prune(PruneConfig(method="magnitude", rows=4), run, model)
    rounded = load_model(model.path)
    quantize_(rounded, 8)
    save_model(rounded, tmp_path / "int8")
    with pytest.raises(UserError, match="quantised already"):
        prune(settings(), run, Artifact.from_path(tmp_path / "int8"), corpus)
    prune(settings(method="svd"), run, model, corpus)
    with pytest.raises(UserError, match="of low rank already"):
        prune(settings(), run, Artifact.from_path(run.out, "model"), corpus)
