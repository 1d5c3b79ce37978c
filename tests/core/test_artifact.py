import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core import artifact
from danlu.core.artifact import (
    Artifact,
    Manifest,
    artifact_id,
    atomic_directory,
    atomic_write,
    describe_files,
    guess_kind,
    read_json,
    remove_abandoned,
)
from danlu.core.errors import UserError


def test_the_id_is_a_function_of_what_goes_in() -> None:
    one = artifact_id("corpus", "data.prepare", "1", {"a": 1, "b": 2}, {"x": "p", "y": "q"})
    same = artifact_id("corpus", "data.prepare", "1", {"b": 2, "a": 1}, {"y": "q", "x": "p"})
    assert one == same and one.startswith("corpus-") and len(one) == len("corpus-") + 16
    for other in (
        artifact_id("corpus", "data.prepare", "2", {"a": 1, "b": 2}, {"x": "p", "y": "q"}),
        artifact_id("corpus", "data.prepare", "1", {"a": 1, "b": 3}, {"x": "p", "y": "q"}),
        artifact_id("corpus", "data.prepare", "1", {"a": 1, "b": 2}, {"x": "p", "y": "r"}),
    ):
        assert other != one


def test_content_depends_on_the_payload_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.txt").write_text("a")
    make = {n: Manifest("report", "report-1", "s", "1", {}, {}, describe_files(tmp_path / n)) for n in ("one", "two")}
    assert make["one"].content == make["two"].content
    (tmp_path / "two" / "deep" / "a.txt").write_text("b")
    assert (
        Manifest("report", "report-1", "s", "1", {}, {}, describe_files(tmp_path / "two")).content
        != make["one"].content
    )


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        with atomic_directory(tmp_path / "x") as directory:
            (directory / "half").write_text("half")
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_replaced_in_one_step(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_directory(tmp_path / "x") as directory:
            (directory / "file").write_text(text)
    assert (tmp_path / "x" / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """A process that ended in the block without a word; one that lives, and another place, are left alone."""
    write = (
        "import os, sys; from pathlib import Path; from danlu.core.artifact import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "a[1]"
    assert subprocess.run([sys.executable, "-c", write, str(target)]).returncode == -signal.SIGKILL
    [scrap] = tmp_path.iterdir()
    kept = [f".a[1].{os.getppid()}.tmp", scrap.name.replace("a[1]", "a1"), ".a[1].notes.tmp"]
    for name in kept:
        (tmp_path / name).mkdir()
    remove_abandoned(target)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_a_file_system_that_takes_no_new_names() -> None:
    with pytest.raises(PermissionError, match="nothing can be made there"), atomic_directory(Path("/proc/x")):
        pass


def test_atomic_write(tmp_path: Path) -> None:
    atomic_write(tmp_path / "f", b"1")
    atomic_write(tmp_path / "f", b"22")
    assert (tmp_path / "f").read_bytes() == b"22" and len(list(tmp_path.iterdir())) == 1


def test_directories_made_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert guess_kind(tmp_path / "m") == "model"
    first = Artifact.from_path(tmp_path / "m")
    assert first.kind == "model" and first.id.startswith("model-")
    (tmp_path / "m" / "config.json").write_text('{"a": 1}')
    assert Artifact.from_path(tmp_path / "m").id != first.id
    with pytest.raises(UserError, match="does not exist"):
        Artifact.from_path(tmp_path / "n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no artifact"):
        Artifact.from_path(tmp_path / "empty")


def test_a_directory_made_elsewhere_is_read_when_its_id_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    read: list[Path] = []
    monkeypatch.setattr(artifact, "sha256_file", lambda path: read.append(path) or "0")
    found = Artifact.from_path(tmp_path)
    assert (found.kind, found.path, read) == ("model", tmp_path, [])
    assert found.id == found.manifest.id and list(found.manifest.files) == ["config.json"]
    assert read == [tmp_path / "config.json"], "and once"


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_text('{"kind": "mod')
    with pytest.raises(UserError, match="damaged"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b'{"a": ', "cannot be read"), (b"\xff", "cannot be read"), (b"[1]", "does not hold a JSON object")],
)
def test_a_json_object_or_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "it.json"
    with pytest.raises(UserError, match=r"it.json cannot be read .*copy it again"):
        read_json(file, "copy it again")
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"it.json {says}.*copy it again"):
        read_json(file, "copy it again")
    file.write_text('{"a": "床"}', encoding="utf-8")
    assert read_json(file, "") == {"a": "床"}
