"""Packages of Debian and Ubuntu as sources: manual pages and documentation in many languages.

    debian:manpages-zh      the newest version that apt knows
    debian:manpages-zh=1.6.4.0-1

The package is fetched with apt (`apt-get download`) because the user named it, unpacked without installing anything
(`dpkg-deb -x`), and read from there ever after:

    $DANLU_DEBIAN_CACHE  or  ~/.cache/danlu/debian  /  NAME=VERSION/      what the package holds

Read are the files of known formats below usr/share; changelogs and copyright files are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from danlu.core.errors import UserError

_SPEC = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?:=(?P<version>[\w.+:~-]+))?")
_LEFT_OUT = re.compile(r"changelog|copyright|NEWS|README", re.IGNORECASE)


def parse(text: str) -> str:
    """Check "name" or "name=version"."""
    if _SPEC.fullmatch(text) is None:
        raise UserError(f'"debian:{text}" names no package', "write debian:NAME or debian:NAME=VERSION")
    return text


def fetch(package: str) -> Path:
    """The folder of the unpacked package; fetched on first use.

    Raises UserError where there is no apt, or it does not know the package.
    """
    cache = Path(os.environ.get("DANLU_DEBIAN_CACHE") or Path.home() / ".cache" / "danlu" / "debian")
    folder = cache / package
    if folder.is_dir():
        return folder
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(f"debian:{package} needs {tool}, which is not here", "name a folder of files instead")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as temporary:
        made = Path(temporary) / "unpacked"
        _run(["apt-get", "download", "--quiet", package], Path(temporary), package)
        archives = list(Path(temporary).glob("*.deb"))
        if len(archives) != 1:
            raise UserError(f"apt gave {len(archives)} archives for {package}", "check the name")
        _run(["dpkg-deb", "-x", str(archives[0]), str(made)], Path(temporary), package)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster with the same package
                raise
    return folder


def files(folder: Path) -> Iterator[Path]:
    """What of an unpacked package is text for readers, in the order of names."""
    for path in sorted((folder / "usr" / "share").rglob("*")):
        if path.is_file() and not path.is_symlink() and not _LEFT_OUT.match(path.name):
            yield path


def _run(command: list[str], folder: Path, package: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
        hint = "check the name, and run apt-get update once"
        raise UserError(f"apt could not fetch {package}: {said[0].removeprefix('E:').strip()}", hint)
