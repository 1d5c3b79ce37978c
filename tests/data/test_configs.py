# ruff: noqa: E501  (tables, one key a line)
"""Every key of the forms of `data.measure` and `data.select` with values it cannot have: one sentence, exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import UserError
from danlu.core.run import run_stage
from danlu.core.store import Store
from danlu.data.prepare import PrepareConfig

NAN = float("nan")
# What each key refuses. A key that is new must be given its line here.
WRONG: dict[str, list[Any]] = {
    "source": ["", [""], 5, None, {"a": 1}, "nope:x", "/nowhere/x", "python:x", "a\0b", "\ud800", ["a", "a"], "~nobody9/x"],
    "licence": [None, 5, ["MIT"], "\ud800"],
    "text_field": [5, ["text"], "\ud800"],
    "clean": [None, "x", {"nope": 1}, {"convert": "klingon"}, {"html": "maybe"}],
    "line_filter": [None, "x", 2, []],
    "personal": ["x", [], {"nope": 1}, {"action": "x"}, {"actions": {"mail": "drop"}}, {"actions": {"email": "x"}}, {"skip": ["x"]}, {"skip": "email"}],
    "neutralise_markers": [None, "x", 7],
    "benchmarks": [None, "nope", ["nope"], [5], ["x=/nowhere"]],
    "max_document_chars": [None, 0, -1, 999, 1.5, "x", NAN],
    "languages": [[], "zh", ["ZH"], ["klingon"], [""], [5], ["code:\n"], ["\ud800"]],
    "confidence": [-0.1, 1.5, NAN, "sure", {"zh": 2}, {"zh": NAN}, {"zh": "x"}, []],
    "licences": [None, [], {"allow": "MIT"}, {"allow": ["x"]}, {"deny": ["gpl"]}, {"honour_opt_out": "x"}, {"nope": 1}],
    "safety": [None, [], {"nope": 1}, {"adult": -1}, {"adult": "x"}, {"adult": NAN}],
    "quality": [None, "x", 2],
    "rules": [None, "danlu", ["nope"], ["danlu", "nope"], [5], ["\ud800"]],
    "thresholds": [None, [], {"nope": 1}, {"too_short": "x"}, {"too_short": NAN}, {"too_short": {"klingon": 1}}, {"too_short": {"zh": NAN}}, {"gopher_short": 1}],
    "min_units": [-1, 1.5, "x", NAN],
    "url_duplicates": [None, "x", 2],
    "near_duplicates": [None, -0.1, 1.1, NAN, "x", 0.3],  # 0.3: below split_similarity
    "split_similarity": [None, 0, -0.1, 1.1, NAN, "x", 0.9],
    "semantic_duplicates": [0, 1.1, NAN, "x"],
    "repeated_lines": [0, -1, 1.5, "x"],
    "repeated_passages": [19, 1.5, "x"],
    "topics": [None, -1, 201, 1.5, "x"],
    "memory_mb": [None, 63, 64.5, "x"],
    "validation_share": [None, -0.1, 0.6, NAN, "x"],
    "max_documents": [0, -1, 1.5, "x"],
    "max_bytes": [0, -1, 1.5, "x"],
}  # fmt: skip


def test_every_key_has_its_wrong_values() -> None:
    assert set(WRONG) == set(PrepareConfig.model_fields)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_sentence_before_anything_runs(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("春眠不觉晓，处处闻啼鸟。\n")
    with pytest.raises(UserError) as refused:
        run_stage("data.prepare", {"source": str(tmp_path / "in"), key: value}, Store(tmp_path / "s"))
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert "nothing is left" not in str(refused.value) and not list((tmp_path / "s").glob("work/*/"))


def test_an_unknown_key_is_told_its_nearest_neighbour(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='"max_documents"'):
        run_stage("data.prepare", {"source": str(tmp_path), "max_document": 5}, Store(tmp_path / "s"))
