"""The stage compress.quantize: smaller, close, readable by every other room, and honest about what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danlu.compress.quantize import METHODS, QuantizeConfig, choose, quantize
from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load_model, save_model
from danlu.model.presets import resolve_model
from danlu.model.transformer import Transformer


@pytest.fixture
def nano(tmp_path: Path) -> Artifact:
    torch.manual_seed(0)
    save_model(Transformer(resolve_model("nano", 1024)), tmp_path / "nano")
    (tmp_path / "nano" / "report.json").write_text('{"context": 256, "loss": 1.0}')
    return Artifact.from_path(tmp_path / "nano", "model")


def test_int8_of_nano(nano: Artifact, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    metrics = quantize(QuantizeConfig(method="rtn", bits=8), run, nano)
    assert metrics["smaller_than_float32"] >= 0.70
    assert metrics["max_error"] < 0.01
    assert metrics["bytes_after"] == (run.out / "model.safetensors").stat().st_size
    assert json.loads((run.out / "report.json").read_text())["context"] == 256

    config = json.loads((run.out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and config["format"] == "int-quantized"
    tensors = load_file(run.out / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj"
    assert tensors[f"{name}.weight"].dtype == torch.int8
    assert tensors[f"{name}.weight_scale"].shape == (tensors[f"{name}.weight"].shape[0], 1)

    ids = torch.arange(60).view(1, 60)
    with torch.no_grad():
        before, after = load_model(nano.path)(ids), load_model(run.out)(ids)
    assert (after - before).norm() / before.norm() < 0.05


def test_int4_of_nano(nano: Artifact, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    metrics = quantize(QuantizeConfig(method="rtn", bits=4), run, nano)
    assert metrics["smaller_than_float32"] >= 0.83
    assert 0.03 < metrics["mean_error"] < 0.12
    config = json.loads((run.out / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert {group["format"] for group in config["config_groups"].values()} == {"pack-quantized", "int-quantized"}
    ids = torch.arange(60).view(1, 60)
    with torch.no_grad():
        before, after = load_model(nano.path)(ids), load_model(run.out)(ids)
    assert (after - before).norm() / before.norm() < 0.5  # random weights have no structure that rounding could spare


def test_the_same_model_gives_the_same_bytes(nano: Artifact, tmp_path: Path) -> None:
    runs = [StageRun.for_test(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        quantize(QuantizeConfig(), run, nano)
    for file in runs[0].out.iterdir():
        assert file.read_bytes() == (runs[1].out / file.name).read_bytes()


def test_twice_is_a_mistake(nano: Artifact, tmp_path: Path) -> None:
    first, second = StageRun.for_test(tmp_path / "a"), StageRun.for_test(tmp_path / "b")
    quantize(QuantizeConfig(), first, nano)
    with pytest.raises(UserError, match="quantised already"):
        quantize(QuantizeConfig(), second, Artifact.from_path(first.out, "model"))
    assert not list(second.out.iterdir())


def test_unknown_methods_list_what_there_is() -> None:
    assert choose("rtn", 8) is choose("int8", 8) is METHODS["rtn"][0]
    for name, bits in (("gptq", 8), ("rtn", 3)):
        with pytest.raises(UserError, match="available: rtn with 8 bits, rtn with 4 bits"):
            choose(name, bits)
