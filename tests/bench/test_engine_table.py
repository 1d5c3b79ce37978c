"""The rendered tables of the contest, from a small result written by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench.engine_table import WORDS, engine_tables


def figure(value: float) -> dict[str, Any]:
    return {"median": value, "low": value, "high": value, "runs": [value]}


def row(name: str, ranked: bool, left_out: dict[str, str] | None = None, **figures: float) -> dict[str, Any]:
    return {
        "name": name, "bits_per_weight": 4.5, "perplexity": 12.0, "perplexity_change": 0.2, "ranked": ranked,
        "figures": {key: figure(value) | {"share": figure(value / 400)} for key, value in figures.items()},
        "left_out": left_out or {}, "prefill_limit": 1000.0,
    }  # fmt: skip


RESULT = {
    "machine": "a machine", "rounds": 3, "tolerance": [[15.0, 0.01], [0.0, 0.25]],
    "models": [{
        "model": "a model", "reference": "float32", "bandwidth": 4e10, "products": {"float32": 2e11, "int8": 0.0},
        "rows": [
            row("float32", True, {"concurrent": "one at a time"}, decode=50.0),
            row("int4", True, decode=200.0, concurrent=900.0, unshared=80.0, uncached=88.0, intruder=0.04, steady=0.02),
            row("cheat", False, decode=300.0, concurrent=1200.0, intruder=0.01, steady=0.01),
        ],
        "unavailable": {"absent": "ERROR: no wheel"},
    }],
}  # fmt: skip


def cells(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells() -> None:
    text = engine_tables(RESULT, "en")
    assert cells(text, "int4") == [
        "int4", "4.5", "12.00 (+20.0%)", "**200.0 (50%)**", "**900**", "**80 (1.10×)**", "**40 (2.0×)**",
    ]  # fmt: skip
    assert cells(text, "float32")[3:] == ["50.0 (12%)", "–", "–", "–"]
    assert cells(text, "cheat")[0] == "cheat *" and "**" not in "".join(cells(text, "cheat")), "shown, not ranked"
    assert "prefill" not in text, "a column that nobody has is left out"
    assert "- absent: `ERROR: no wheel`" in text and "- float32 (concurrent): `one at a time`" in text
    assert (
        "15 bits: 1%, 0 bits: 25%" in text and "float32 200 GFLOP/s" in text and "int8" not in text.split("products")[1]
    )


@pytest.mark.parametrize("language", WORDS)
def test_every_language_has_every_word(language: str) -> None:
    assert set(WORDS[language]) == set(WORDS["en"])
    text = engine_tables(RESULT, language)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1 and not re.search(r"\{\w*[:}]", text)
