"""The doors of `import danlu`: what is no path, no mapping, no list is one sentence and a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import danlu


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DANLU_STORE", raising=False)
    (tmp_path / "toy.yaml").write_text("name: toy\nstages:\n  text:\n    use: tests.core.toys:source\n")
    return "toy.yaml"


@pytest.mark.parametrize("value", [5, None, b"x", [], {}, True, 1.5])
def test_what_is_no_path(value: Any) -> None:
    for door, what in ((danlu.load_model, "a model"), (danlu.Engine, "a model"), (danlu.run, "a recipe")):
        with pytest.raises(danlu.UserError, match=f"^{what} is .* it must be "):
            door(value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"overrides": 5}, "overrides is 5"),
        ({"overrides": ["text.lines=1"]}, "overrides is .* it must be a mapping"),
        ({"overrides": {5: 1}}, "a key of the overrides is 5"),
        ({"only": "text"}, "only is 'text'"),
        ({"only": [None]}, "a stage is None"),
        ({"store": 5}, "store is 5"),
        ({"budget": 5}, '"5" is no budget'),
    ],
)
def test_what_a_run_cannot_take(recipe: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(danlu.UserError, match=says):
        danlu.run(recipe, quiet=True, **options)
    assert not Path(".danlu").exists()


def test_a_store_may_be_a_path(recipe: str, tmp_path: Path) -> None:
    made = danlu.run(recipe, store=tmp_path / "store", quiet=True)
    assert made["text"].path.is_relative_to(tmp_path / "store")
