"""The stage evaluate.report: complete, readable, and the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun
from danlu.evaluate import report as module
from danlu.evaluate.report import ReportConfig, report
from danlu.evaluate.tasks import TASKS


def test_report(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    config = ReportConfig(tasks=["perplexity", "python", "poems"], cases=2)
    runs = [StageRun.for_test(tmp_path / name) for name in ("a", "b")]
    metrics = [report(config, run, model_artifact, corpus, model_artifact) for run in runs]
    assert metrics[0] == metrics[1]
    for name in ("report.json", "report.md"):
        assert (runs[0].out / name).read_bytes() == (runs[1].out / name).read_bytes()
    assert {"bits_per_byte", "xz_bits_per_byte", "ngram_bits_per_byte", "parses", "oracle_regular"} <= set(metrics[0])
    assert metrics[0]["bits_per_byte"] == metrics[0]["other_bits_per_byte"]
    table = (runs[0].out / "report.md").read_text()
    for words in ("| ngram |", "| model |", "| other model |", "| oracle (the held-out text) |", "n = 6 documents"):
        assert words in table
    payload = json.loads((runs[0].out / "report.json").read_text())
    assert set(payload["results"]["model"]) == set(config.tasks)


def test_unknown_task_is_a_config_error() -> None:
    with pytest.raises(ValidationError, match='did you mean "python"'):
        ReportConfig(tasks=["pyhton"])
    with pytest.raises(ValidationError, match="name at least one"):
        ReportConfig(tasks=[])


def test_the_names_of_tasks_are_the_table() -> None:
    assert set(module._TASK_NAMES) == set(TASKS)
