"""A store on a disk that really is full: two mebibytes of memory, mounted for the test.

The stage that does not fit ends with exit code 1 and one sentence, and nothing in the store can be mistaken for its
result; what was finished before it stays, and with room the same command goes through.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from danlu.core.store import Store

RECIPE = """\
name: toy
stages:
  text:
    use: tests.core.toys:source
  large:
    use: tests.core.toys:fill
    corpus: $text
    size: 4000000
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root and a kernel that lets it")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def danlu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "danlu.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.journey
@pytest.mark.parametrize("how", ["python", "safetensors"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    tmp_path: Path, small_disk: Path, how: str
) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE + f"    how: {how}\n")
    store = ["--store", str(small_disk / "s")]
    done = danlu("run", str(recipe), *store)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == 1 and "is full; nothing half-written was kept" in done.stderr
    assert "Traceback" not in done.stderr and "No space left" not in done.stderr

    kept = Store(small_disk / "s")
    assert [m.name for m in kept.manifests()] == ["text"] and kept.damaged() == []
    assert list(kept.root.glob("*/.*")) == [] and list(kept.root.glob("work/*.uses")) == []
    assert {"text", "toy.text"} == set(kept.names())
    assert danlu("verify", "text", *store).returncode == danlu("gc", *store).returncode == 0

    done = danlu("run", str(recipe), *store, "--set", "large.size=1000", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])["artifacts"]) == {"text", "large"}


@pytest.mark.journey
def test_a_disk_full_to_the_last_byte_still_says_so_and_can_be_freed(tmp_path: Path, small_disk: Path) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(RECIPE)
    (small_disk / "s").mkdir()
    with pytest.raises(OSError), open(small_disk / "ballast", "wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))
    done = danlu("run", str(recipe), "--store", str(small_disk / "s"))
    assert done.returncode == 2 and "this plan writes about 6 B, and the disk has 0 B free" in done.stderr
    done = danlu("stage", "tests.core.toys:source", "--store", str(small_disk / "s"))
    assert done.returncode == 1 and "is full" in done.stderr and "Traceback" not in done.stderr
    assert danlu("gc", "--store", str(small_disk / "s")).returncode == 0
    assert Store(small_disk / "s").manifests() == []


@pytest.mark.journey
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_corpus_that_does_not_fit(tmp_path: Path, small_disk: Path, workers: str) -> None:
    """Whichever process meets the end of the disk: one sentence, and no piece that looks complete and is not."""
    source = tmp_path / "in"
    source.mkdir()
    draw = random.Random(1)
    for i in range(3):
        rows = [{"text": "".join(chr(draw.randrange(0x4E00, 0x8000)) for _ in range(400))} for _ in range(1_000)]
        (source / f"{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = (
        "from danlu.data.measuring import walk as w; w.PIECE_BYTES = 400_000; from danlu.cli.main import main; main()"
    )
    arguments = ["stage", "data.prepare", "--set", f"source={source}", "--store", str(small_disk / "s")]
    environment = {**os.environ, "DANLU_WORKERS": workers}
    for _ in range(2):  # what is left of the first try does not confuse the second
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments], capture_output=True, text=True, timeout=120, env=environment
        )
        assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
        assert "is full" in done.stderr and "Traceback" not in done.stderr
        for piece in (small_disk / "s").glob("work/*/pieces/0*"):
            assert pq.read_table(io.BytesIO((piece / "measured.parquet").read_bytes())).num_rows  # no handle stays open
            assert json.loads((piece / "counts.json").read_text())
    assert Store(small_disk / "s").manifests() == []
