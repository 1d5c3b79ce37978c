"""Compiled code: C++ that lies beside the Python that calls it, built for the machine it is on, once.

    sources + flags + compiler + processor  --sha256-->  ~/.cache/danlu/native/<name>-<key>.so

A room that has a hot loop writes it in plain C++ with a C interface, describes it with one `Native`, and calls it
through ctypes. The first use waits for the compiler (`danlu doctor --build` does it beforehand); afterwards the file
is there. Written beside its place and renamed, so that two processes may build at once and a killed one leaves nothing
half-written. Whoever calls `load` has a slower way in Python: without a compiler everything still works, and one line
says so.

| variable        | meaning                                                                                     |
|-----------------|---------------------------------------------------------------------------------------------|
| `DANLU_KERNELS` | `off`: use no compiled code of danlu's, nor the Triton kernels                               |
| `DANLU_CXX`     | the compiler; default: the first of c++, g++, clang++                                        |
| `DANLU_CXXFLAGS`| flags added at the end, for tests: `-DDANLU_LANES=16`, `-mno-avx2`, `-fsanitize=address`      |
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# No contraction: which products fuse with which sums is written in the source, the same for every shape of a tile.
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-Wno-psabi")
BUILD_SECONDS = 600

log = logging.getLogger("danlu")


class BuildError(Exception):
    """Why there is no library, in one line."""


@dataclass(frozen=True)
class Native:
    """One library: the files of `folder` that are compiled; all .h and .cpp beside them are part of its key."""

    name: str
    folder: Path
    files: tuple[str, ...]
    instead: str  # what runs where it cannot be had, for the one logged line

    def target(self) -> Path:
        """Where the library for this machine is, or will be. Raises BuildError where there is no compiler."""
        return cache_folder() / f"{self.name.replace(' ', '-')}-{_key(self.folder, find_compiler(), flags())}.so"

    def build(self) -> Path:
        """Path of the library for this machine, compiled when it is not there yet. Raises BuildError."""
        place, compiler = self.target(), find_compiler()
        if place.is_file():
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as folder:
                made = Path(folder) / "made.so"
                sources = [str(self.folder / name) for name in self.files]
                command = [*compiler, *flags(), *sources, "-o", str(made)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
                if done.returncode:
                    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
                    raise BuildError(f"{compiler[0]} failed: {lines[0]}")
                os.replace(made, place)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{compiler[0]} took longer than {BUILD_SECONDS} s") from None
        except OSError as error:
            raise BuildError(f"{place.parent} cannot be written: {error.strerror}") from None
        return place


def build_all(natives: Sequence[Native]) -> None:
    """Build several libraries at once, a compiler for each core. Raises BuildError when one of them fails."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for made in [pool.submit(native.build) for native in natives]:
            made.result()


@functools.cache
def load(native: Native) -> ctypes.CDLL | None:
    """The library, built if need be; None (and one logged line, once) where it cannot be had.

    Set `argtypes` and `restype` of its functions in one place beside the caller: ctypes checks nothing by itself.
    """
    if switched_off():
        return None
    try:
        return ctypes.CDLL(str(native.build()))
    except (BuildError, OSError) as error:
        log.warning("the compiled %s is not used (%s); %s", native.name, error, native.instead)
        return None


def switched_off() -> bool:
    return os.environ.get("DANLU_KERNELS", "").lower() in ("off", "0", "no")


def find_compiler() -> list[str]:
    """The command of a C++ compiler. Raises BuildError when there is none."""
    wanted = os.environ.get("DANLU_CXX")
    if wanted:
        command = shlex.split(wanted)
        if command and shutil.which(command[0]):
            return command
        raise BuildError(f"there is no compiler {wanted}")
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("there is no C++ compiler; install g++ or clang")


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "danlu" / "native"


def flags() -> list[str]:
    """What the compiler is told here. On ARM clang before version 15 knows only -mcpu=native, gcc both."""
    instructions = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    return [*FLAGS, instructions, *shlex.split(os.environ.get("DANLU_CXXFLAGS", ""))]


def _key(folder: Path, compiler: list[str], flags: list[str]) -> str:
    """What decides the library's bytes: sources, flags, the compiler's version, the processor's instructions."""
    digest = hashlib.sha256()
    for source in sorted(folder.iterdir()):
        if source.suffix in (".h", ".cpp"):
            digest.update(source.name.encode() + source.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    for part in (*compiler, *flags, version, platform.machine(), _instructions()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _instructions() -> str:
    """The processor's list of instructions, as the system gives it: a cache may travel to another machine."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            return next((line for line in handle if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
