"""The compiled code of this room built otherwise: for a plain processor, and with the sanitizers watching."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.tokenizer import encoder

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(encoder.load() is None, reason="no compiler here")
@pytest.mark.parametrize(
    "flags", ["-march=x86-64 -O1", "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"]
)
def test_other_machines_and_sanitizers(flags: str) -> None:
    """The tests of encoder and trainer again, on the library compiled with these flags."""
    environment = {**os.environ, "DANLU_CXXFLAGS": flags}
    if "sanitize" in flags:
        # libstdc++ too: the sanitizer looks for its `throw` when the process starts, long before ours is loaded
        found = [_library("libasan.so"), _library("libstdc++.so")]
        if not all(Path(name).is_file() for name in found):
            pytest.skip("no libasan here")
        environment |= {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0"}
    files = ["tests/tokenizer/test_encoder.py", "tests/tokenizer/test_trainer.py"]
    chosen = "not table_of_characters and not every_kind and not killed"  # what is slow there and says nothing new
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", chosen, *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=ROOT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "skipped" not in done.stdout


def _library(name: str) -> str:
    return subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
