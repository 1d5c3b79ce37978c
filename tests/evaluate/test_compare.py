"""The stage evaluate.compare, with the real int8 model of the compression room beside its original."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.compress.quantize import QuantizeConfig, quantize
from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun
from danlu.evaluate.compare import CompareConfig, compare


@pytest.fixture(scope="module")
def int8(model_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    run = StageRun.for_test(tmp_path_factory.mktemp("int8"))
    quantize(QuantizeConfig(), run, model_artifact)
    return Artifact.from_path(run.out, "model")


def test_int8_beside_float32(model_artifact: Artifact, int8: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    runs = [StageRun.for_test(tmp_path / name) for name in ("a", "b")]
    metrics, _ = (compare(CompareConfig(speed_tokens=8), run, model_artifact, int8, corpus) for run in runs)
    assert abs(metrics["bits_per_byte_change"]) <= 0.02
    assert metrics["change_low"] <= metrics["bits_per_byte_change"] <= metrics["change_high"]
    assert metrics["smaller"] > 0.5  # rows of 32 weights: the scales weigh more than in any real model
    assert metrics["after_decode_tokens_per_second"] > 0 and metrics["before_prefill_tokens_per_second"] > 0
    payload = [(run.out / "report.json").read_text() for run in runs]
    assert payload[0] == payload[1] and "second" not in payload[0]
    assert (runs[0].out / "report.md").read_text().count("\n| ") == 4


def test_the_same_model_has_not_changed(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    metrics = compare(CompareConfig(speed_tokens=8), run, model_artifact, model_artifact, corpus)
    assert metrics["bits_per_byte_change"] == metrics["smaller"] == 0
    assert "warning" not in [json.loads(line).get("event") for line in (tmp_path / "events.jsonl").open()]
