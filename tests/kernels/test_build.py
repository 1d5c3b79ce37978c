"""Compiling on the spot: once, for this processor, and a plain sentence where it cannot be."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core import native
from danlu.kernels import build

needs_compiler = pytest.mark.skipif(build.library() is None, reason="no compiler here")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache and a library() that has not been asked yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    yield tmp_path
    native.load.cache_clear()


def test_no_compiler_is_one_logged_line(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    with caplog.at_level(logging.WARNING, "danlu"):
        assert build.library() is None and build.library() is None
    assert len(caplog.records) == 1 and "install g++ or clang" in caplog.text


def test_a_compiler_that_fails_is_one_logged_line(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = fresh / "broken"
    broken.write_text("#!/bin/sh\n[ $# = 1 ] && exit 0\necho 'fatal error: no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("DANLU_CXX", str(broken))
    with caplog.at_level(logging.WARNING, "danlu"):
        assert build.library() is None
    assert "no such header" in caplog.text
    assert not list(fresh.rglob("*.so")), "nothing half-made is left"


def test_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_KERNELS", "off")
    assert build.library() is None and not list(fresh.iterdir())


@needs_compiler
def test_the_key_knows_flags_and_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build.ENGINE.target()
    monkeypatch.setenv("DANLU_CXXFLAGS", "-DX=1")
    flagged = build.ENGINE.target()
    monkeypatch.setattr(native, "_instructions", lambda: "another processor")
    assert len({here, flagged, build.ENGINE.target()}) == 3


@needs_compiler
@pytest.mark.parametrize(
    "flags",
    [
        "-DDANLU_LANES=16",  # the layout of AVX-512 on any machine
        "-march=x86-64 -O1",  # no vectors to speak of
        pytest.param("-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -static-libasan", id="sanitizers"),
    ],
)
def test_other_machines_and_sanitizers(flags: str) -> None:
    """All that is asked of the decoder again, on the library compiled otherwise."""
    environment = {**os.environ, "DANLU_CXXFLAGS": flags}
    if "sanitize" in flags:
        flags_without = flags.replace(" -static-libasan", "")
        asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
        if not Path(asan).is_file():
            pytest.skip("no libasan here")
        environment |= {"DANLU_CXXFLAGS": flags_without, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    files = ["tests/kernels/test_decoder.py", "tests/kernels/test_offsets.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "skipped" not in done.stdout
