"""Compile the C++ of this room for the machine it is on, once, and load it.

    sources + flags + compiler + processor  --sha256-->  ~/.cache/danlu/kernels/<key>.so

The first use waits for the compiler (`danlu doctor --build` does it beforehand); afterwards the file is there. Written
beside its place and renamed, so that two processes may build at once and a killed one leaves nothing half-written.
Without a compiler everything runs on torch's operators, and one line says so.

| variable        | meaning                                                                                     |
|-----------------|---------------------------------------------------------------------------------------------|
| `DANLU_KERNELS` | `off`: do not use the library, nor the Triton kernels (gpu/)                                |
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
from pathlib import Path

SOURCES = Path(__file__).parent / "cpu"
UNITS = ("step.cpp", "train.cpp")  # what is compiled; the rest is included
# No contraction: which products fuse with which sums is written in the source, the same for every shape of a tile.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-Wno-psabi")
BUILD_SECONDS = 600

log = logging.getLogger("danlu")


class BuildError(Exception):
    """Why there is no library, in one line."""


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, built if need be; None (and one logged line, once) where they cannot be had."""
    if switched_off():
        return None
    try:
        return ctypes.CDLL(str(build()))
    except (BuildError, OSError) as error:
        log.warning("the compiled kernels are not used (%s); torch's own operators are, which is slower", error)
        return None


def switched_off() -> bool:
    return os.environ.get("DANLU_KERNELS", "").lower() in ("off", "0", "no")


def instructions() -> str:
    """The instructions the library was compiled for: avx512-vnni, avx2, neon, plain. Raises BuildError."""
    loaded = ctypes.CDLL(str(build()))
    loaded.danlu_instructions.restype = ctypes.c_char_p
    return str(loaded.danlu_instructions().decode())


def target() -> Path:
    """Where the library for this machine is, or will be. Raises BuildError where there is no compiler."""
    return cache_folder() / f"{_key(find_compiler(), _flags())}.so"


def build() -> Path:
    """Path of the library for this machine, compiled when it is not there yet. Raises BuildError."""
    place, compiler = target(), find_compiler()
    if place.is_file():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            made = Path(folder) / "kernels.so"
            command = [*compiler, *_flags(), *(str(SOURCES / name) for name in UNITS), "-o", str(made)]
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


def _flags() -> list[str]:
    return [*FLAGS, *shlex.split(os.environ.get("DANLU_CXXFLAGS", ""))]


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
    return Path(base) / "danlu" / "kernels"


def _key(compiler: list[str], flags: list[str]) -> str:
    """What decides the library's bytes: sources, flags, the compiler's version, the processor's instructions."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
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
