from __future__ import annotations

import re
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.data.formats.extract import Item
from danlu.data.sources.find import find_files, fingerprint


def _names(spec: str) -> list[str]:
    return [file.name for file in find_files(spec)]


def test_a_folder_is_read_in_order_without_hidden_files_and_caches(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/c.txt", ".git/config", "a/__pycache__/x.py", ".hidden.txt", "image.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert _names(str(tmp_path)) == ["a/c.txt", "a/z.md", "b.txt", "image.png"]
    assert {file.source for file in find_files(str(tmp_path))} == {tmp_path.name}  # no absolute path in a row


def test_one_file(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("text")
    (file,) = find_files(str(tmp_path / "book.txt"))
    assert (file.source, file.name) == ("book.txt", "book.txt")
    assert [item.text for item in file.read() if isinstance(item, Item)] == ["text"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}/bok.txt", 'did you mean "book.txt"'),
        ("{}/elsewhere/deep/x.txt", "there is no file or folder"),
        ("{}/image.png", "no known format"),
        ("{}/empty", "holds no files"),
        ("python:stdlb", 'did you mean "python:stdlib"'),
        ("pyton:stdlib", 'did you mean "python:"'),
        ("npm:../../etc", "names no package"),
    ],
)
def test_mistakes_are_one_sentence_with_a_hint(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "book.txt").write_text("text")
    (tmp_path / "image.png").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=re.escape(message)):
        list(find_files(spec.format(tmp_path)))


def test_the_standard_library_without_its_tests() -> None:
    files = list(find_files("python:stdlib"))
    names = {file.name for file in files}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= names
    assert not any({"test", "tests", "site-packages", "__pycache__"} & set(name.split("/")) for name in names)
    assert {(file.source, file.licence) for file in files} == {("python:stdlib", "PSF-2.0")}


def test_installed_packages() -> None:
    names = set(_names("python:site-packages"))
    assert "pytest/__init__.py" in names and all(name.endswith(".py") for name in names)


def test_the_fingerprint_sees_names_and_contents(tmp_path: Path) -> None:
    spec = str(tmp_path)
    (tmp_path / "a.txt").write_text("one")
    before = fingerprint(spec)
    assert fingerprint(spec) == before and before["bytes"] == 3
    (tmp_path / "a.txt").write_text("two")
    changed = fingerprint(spec)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    renamed = fingerprint(spec)
    assert len({str(f) for f in (before, changed, renamed)}) == 3
