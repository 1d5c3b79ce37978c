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
from danlu.kernels.build import ENGINE

PROGRAMS = Path(__file__).parent / "programs"
KERNELS, SCAN = ENGINE.folder, TEXT.folder
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
DOTPROD = ("armv8.2-a+dotprod", "neoverse-n1")  # nearly every ARM processor since 2018
FIRST = ("armv8-a", "cortex-a72")  # what came before: no products of bytes in one instruction


@pytest.mark.skipif(not (COMPILER and EMULATOR), reason="no compiler for ARM or no emulator here: make cross")
@pytest.mark.parametrize(
    ("program", "folder", "machine"),
    [
        ("products", KERNELS, DOTPROD),
        ("products", KERNELS, FIRST),
        ("engine", KERNELS, DOTPROD),
        ("training", KERNELS, DOTPROD),
        ("signatures", SCAN, DOTPROD),
    ],
    ids=["products", "products-of-old", "engine", "training", "signatures"],
)
def test_on_arm(
    program: str, folder: Path, machine: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    instructions, processor = machine
    made = tmp_path / program
    flags = [f"-march={instructions}" if flag == "-mcpu=native" else flag for flag in native.flags()]
    flags.remove("-shared")
    command = [COMPILER, *flags, f"-I{folder}", PROGRAMS / f"{program}.cpp", "-o", made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [EMULATOR, "-cpu", processor, "-L", "/usr/aarch64-linux-gnu", made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and " 0 wrong" in done.stdout, (done.stdout + done.stderr)[-3000:]
