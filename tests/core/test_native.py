"""What is compiled, compiled for other machines: every source of danlu must build for ARM as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from danlu.cli.machine import _natives
from danlu.core import native

ARM = shutil.which("aarch64-linux-gnu-g++")


@pytest.mark.skipif(ARM is None, reason="no compiler for ARM here")
@pytest.mark.parametrize("library", _natives(), ids=lambda library: library.name)
def test_sources_compile_for_arm(library: native.Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_CXX", str(ARM))
    flags = [flag for flag in native.FLAGS if flag != "-O3"]
    monkeypatch.setattr(native, "flags", lambda: [*flags, "-O0", "-march=armv8.2-a+dotprod"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = library.build()
    header = made.read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_several_are_built_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    natives = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cpp").write_text(f'extern "C" int {name}() {{ return 1; }}\n')
        natives.append(native.Native(name, tmp_path / name, ("a.cpp",), "nothing"))
    try:
        native.build_all(natives)
    except native.BuildError:
        pytest.skip("no compiler here")
    assert all(made.target().is_file() for made in natives)
    (tmp_path / "two" / "a.cpp").write_text("this is no C++\n")
    with pytest.raises(native.BuildError, match="error"):
        native.build_all(natives)
