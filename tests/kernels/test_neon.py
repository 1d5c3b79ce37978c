"""The compiled code on an ARM processor: built for one, run in an emulator, compared with plain loops (programs/).

An emulator shows that results are right. It shows nothing about speed, and not what weakly ordered memory would do to
threads, because the machine below keeps its own order.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from danlu.core import native
from danlu.data.scan.batch import TEXT
from danlu.kernels.build import ENGINE, library

PROGRAMS = Path(__file__).parent / "programs"
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
DOTPROD = ("armv8.2-a+dotprod", "neoverse-n1")  # nearly every ARM processor since 2018
FIRST = ("armv8-a", "cortex-a72")  # what came before: no products of bytes in one instruction


def run(program: str, folder: Path, compiler: list[str], flags: list[str], below: list[str], place: Path) -> None:
    """Compile a program against the headers in `folder` as a library would be, and run it."""
    flags = [flag for flag in flags if flag != "-shared"]
    source, made = PROGRAMS / f"{program}.cpp", place / program
    done = subprocess.run([*compiler, *flags, f"-I{folder}", source, "-o", made], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    done = subprocess.run([*below, made], capture_output=True, text=True)
    assert done.returncode == 0 and " 0 wrong" in done.stdout, (done.stdout + done.stderr)[-3000:]


@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="no compiler for ARM or no emulator here: make cross")
@pytest.mark.parametrize(
    ("program", "sources", "machine"),
    [
        ("products", ENGINE, DOTPROD),
        ("products", ENGINE, FIRST),
        ("engine", ENGINE, DOTPROD),
        ("training", ENGINE, DOTPROD),
        ("signatures", TEXT, DOTPROD),
    ],
    ids=["products", "products-without-dotprod", "engine", "training", "signatures"],
)
def test_on_arm(
    program: str, sources: native.Native, machine: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    instructions, processor = machine
    flags = native.flags()
    flags[flags.index("-mcpu=native")] = f"-march={instructions}"
    emulator = [str(EMULATOR), "-cpu", processor, "-L", "/usr/aarch64-linux-gnu"]
    run(program, sources.folder, [str(COMPILER)], flags, emulator, tmp_path)


@pytest.mark.skipif(library() is None, reason="no compiler here")
def test_conversions_and_products_here(tmp_path: Path) -> None:
    run("products", ENGINE.folder, native.find_compiler(), native.flags(), [], tmp_path)
