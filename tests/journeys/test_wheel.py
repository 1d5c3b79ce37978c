"""The wheel: it builds, and what danlu needs beside its code is inside."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import danlu
from danlu.core.recipe import bundled_recipes

ROOT = Path(danlu.__file__).resolve().parents[1]


@pytest.mark.journey
def test_recipes_and_assets_travel_with_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (wheel,) = tmp_path.glob("danlu-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"danlu/recipes/{name}.yaml" for name in bundled_recipes()} <= names
    assets = {p.relative_to(ROOT).as_posix() for p in (ROOT / "danlu" / "serve" / "assets").iterdir() if p.is_file()}
    assert assets and assets <= names
    assert {"danlu/py.typed", "danlu/kernels/cpu/step.cpp", "danlu/kernels/cpu/matrix.h"} <= names
    assert {"danlu/tokenizer/cpp/tokenizer.cpp", "danlu/tokenizer/cpp/characters.h"} <= names
    assert not [name for name in names if name.startswith("tests/")]
