"""Scales and norms trained towards the float model when all is rounded."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from danlu.compress.quantize import QuantizeConfig, quantize, tune
from danlu.compress.quantize.stage import estimate
from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import Interrupted, UserError
from danlu.model.hub import load_model
from danlu.model.presets import resolve_model
from danlu.model.quantized import Quantized, QuantizedLinear, Scheme, quantize_
from danlu.model.transformer import Transformer
from tests.compress.quantize.test_stage import SMALL, corpus, nano, run_in, warnings_of  # noqa: F401

FOUR = Scheme(4, 32, False)


def test_worked_example() -> None:
    module = QuantizedLinear(Scheme(4, 32), 32, 1, bias=False)
    weight = torch.zeros(1, 32)
    weight[0, :2] = torch.tensor([-4.0, 1.5])  # a scale of 0.5, and the numbers -8 and 3
    module.fill(weight)
    scaled = tune.Scaled(module)
    torch.testing.assert_close(scaled(torch.eye(32))[:2, 0], torch.tensor([-4.0, 1.5]))
    with torch.no_grad():
        scaled.more.fill_(0.04)
    torch.testing.assert_close(scaled(torch.eye(32))[1, 0], torch.tensor(1.56), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(8, 32, False), Scheme(4, 64), FOUR], ids=str)
def test_at_first_a_layer_is_what_it_was(scheme: Scheme) -> None:
    torch.manual_seed(0)
    module = QuantizedLinear(scheme, 128, 24, bias=True)
    module.fill(torch.randn(24, 128) + 1)
    module.bias.data.normal_()  # type: ignore[union-attr]
    x = torch.randn(3, 128)
    torch.testing.assert_close(tune.Scaled(module)(x), x @ module.widen().T + module.bias, atol=1e-4, rtol=1e-4)


def test_predictions_come_closer_and_whole_numbers_stay(nano: Artifact, tmp_path: Path) -> None:  # noqa: F811
    original, model = load_model(nano.path), load_model(nano.path)
    quantize_(model, FOUR)
    for block in model.blocks:  # random weights are rounded without a bias: here is one
        block.mlp.down.weight_scale *= 1.2  # type: ignore[union-attr]
    before = copy.deepcopy(model)
    torch.manual_seed(1)
    seen, others = torch.randint(300, (2, tune.rows_for(100), 16))
    found = tune.tune_(model, nano, seen, run_in(tmp_path))
    assert found["tuned_steps"] == 100 and 0 < found["divergence_after"] < found["divergence_before"]

    def apart(one: Transformer) -> float:
        with torch.no_grad():
            wanted, got = (x(others).log_softmax(-1) for x in (original, one))
        return float((wanted.exp() * (wanted - got)).sum(-1).mean())

    assert apart(model) < 0.96 * apart(before)
    scales = 0
    for name, module in model.named_modules():
        if isinstance(module, Quantized):
            own = before.get_submodule(name)
            assert torch.equal(module.stored, own.stored) and module.weight_scale.dtype == own.weight_scale.dtype  # type: ignore
            scales += not torch.equal(module.weight_scale, own.weight_scale)  # type: ignore[arg-type]
    assert scales == 4 * model.config.n_layers  # the embedding keeps its own
    assert not torch.equal(model.norm.weight, before.norm.weight)


def test_what_brings_nothing_is_thrown_away(
    nano: Artifact,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model(nano.path)
    quantize_(model, FOUR)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(tune, "LEARNING_RATE", 0.5)
    found = tune.tune_(model, nano, torch.randint(300, (tune.rows_for(2), 16)), run_in(tmp_path))
    assert found["divergence_after"] > found["divergence_before"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_it_takes() -> None:
    small = resolve_model("nano", 512)
    large = small.model_copy(update={"n_layers": 40})
    assert tune.planned_bytes(large, 512) > tune.planned_bytes(small, 512) > tune.planned_bytes(small, 64) > 0
    assert tune.rows_for(0) == 0 < tune.rows_for(1) < tune.rows_for(2)


def test_the_plan_counts_it(nano: Artifact) -> None:  # noqa: F811
    def memory(manifest: Manifest | None, steps: int) -> float | None:
        return estimate(QuantizeConfig(method="gptq", bits=4, tune=steps), {"model": manifest}).memory_bytes

    foreign = nano.manifest
    parameters = sum(parameter.numel() for parameter in load_model(nano.path).parameters())
    own = dataclasses.replace(foreign, metrics={"parameters": parameters})
    without = memory(foreign, 0)
    assert without is not None and without == memory(own, 0) < tune.BYTES_EACH * parameters == memory(own, 48)
    assert memory(foreign, 48) == tune.BYTES_EACH * foreign.size / 2
    assert memory(None, 48) is None


def test_less_text_than_was_asked_for(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:  # noqa: F811
    config = QuantizeConfig(method="rtn", bits=4, tune=10_000, rows=1, length=256)
    found = quantize(config, run_in(tmp_path), nano, corpus)["tuned_steps"]
    assert 0 < found < 10_000
    assert any(f"enough for {found:,} of 10,000 steps" in message for message in warnings_of(tmp_path))


def test_in_the_stage(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:  # noqa: F811
    run = run_in(tmp_path / "gptq")
    metrics = quantize(QuantizeConfig(method="gptq", bits=4, tune=3, **SMALL), run, nano, corpus)
    assert metrics["tuned_steps"] == 3 and metrics["divergence_before"] > 0
    assert metrics["calibration_tokens"] == 4 * 64
    assert "tuned_steps" in json.loads((run.out / "report.json").read_text())
    plain = quantize(QuantizeConfig(method="gptq", bits=4, **SMALL), run_in(tmp_path / "0"), nano, corpus)
    assert "tuned_steps" not in plain
    rounded = QuantizeConfig(method="rtn", bits=4, tune=2, **SMALL)
    assert quantize(rounded, run_in(tmp_path / "rtn"), nano, corpus)["tuned_steps"] == 2
    with pytest.raises(UserError, match="needs text"):
        quantize(rounded, run_in(tmp_path / "none"), nano)


@pytest.mark.parametrize(("method", "bits"), [("nf4", 4), ("fp8", 8)])
def test_norms_alone(nano: Artifact, corpus: Artifact, tmp_path: Path, method: str, bits: int) -> None:  # noqa: F811
    config = QuantizeConfig(method=method, bits=bits, tune=2, **SMALL)
    assert quantize(config, run_in(tmp_path), nano, corpus)["tuned_steps"] == 2
    assert any("trains the norms alone" in message for message in warnings_of(tmp_path))
    quantize(QuantizeConfig(method="rtn", bits=4, tune=2, **SMALL), run_in(tmp_path / "rtn"), nano, corpus)
    assert not any("norms alone" in message for message in warnings_of(tmp_path / "rtn"))


def test_no_text_beside_that_of_rounding(nano: Artifact, corpus: Artifact, tmp_path: Path) -> None:  # noqa: F811
    run = run_in(tmp_path)
    metrics = quantize(QuantizeConfig(method="gptq", bits=4, tune=1, rows=10_000, length=64), run, nano, corpus)
    assert "tuned_steps" not in metrics
    assert any("has no rows beside those that rounding read" in message for message in warnings_of(tmp_path))


def test_stopped_while_tuning(
    nano: Artifact,  # noqa: F811
    corpus: Artifact,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = QuantizeConfig(method="gptq", bits=4, tune=4, **SMALL)
    whole, stopped = run_in(tmp_path / "whole"), run_in(tmp_path / "stopped")
    quantize(config, whole, nano, corpus)
    progress = stopped.progress

    def stop(done: int, total: int | None, unit: str) -> None:
        progress(done, total, unit)
        stopped.stop_requested = unit == "steps" and done == 2

    monkeypatch.setattr(stopped, "progress", stop)
    with pytest.raises(Interrupted, match="begin anew"):
        quantize(config, stopped, nano, corpus)
    assert not (stopped.out / "model.safetensors").exists()
    monkeypatch.setattr(stopped, "progress", progress)
    stopped.stop_requested = False
    quantize(config, stopped, nano, corpus)
    for file in whole.out.iterdir():
        assert file.read_bytes() == (stopped.out / file.name).read_bytes()
