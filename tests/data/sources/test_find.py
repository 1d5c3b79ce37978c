from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow.parquet as pq
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


def test_the_nearest_licence_holds(tmp_path: Path) -> None:
    mit = "Permission is hereby granted, free of charge; the above copyright notice and this permission notice"
    for name, text in (
        ("LICENSE", mit),
        ("a/x.py", "1"),
        ("b/COPYING.txt", "Apache License, Version 2.0"),
        ("b/c/y.py", "2"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = {file.name: file.licence for file in find_files(str(tmp_path))}
    assert found["a/x.py"] == "MIT" and found["b/c/y.py"] == "Apache-2.0"


def test_saved_datasets_are_read_without_their_bookkeeping(tmp_path: Path) -> None:
    import pyarrow as pa

    saved, hub = tmp_path / "saved", tmp_path / "hub"
    (saved / "train").mkdir(parents=True)
    (hub / "data").mkdir(parents=True)
    table = pa.table({"text": ["one", "two"]})
    with pa.ipc.new_stream(saved / "train" / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("dataset_dict.json", "train/state.json", "train/dataset_info.json", "train/cache-12ab.arrow"):
        (saved / name).write_text("{}")
    pq.write_table(table, hub / "data" / "train-00000-of-00001.parquet")
    (hub / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage: zh\n---\n# Card\n")
    assert _names(str(saved)) == ["train/data-00000-of-00001.arrow"]
    (file,) = find_files(str(hub))
    assert (file.name, file.licence) == ("data/train-00000-of-00001.parquet", "cc-by-4.0")
    for folder in (saved, hub):
        texts = [item.text for file in find_files(str(folder)) for item in file.read() if isinstance(item, Item)]
        assert texts == ["one", "two"]


def test_an_artifact_is_read_without_what_is_said_about_it(tmp_path: Path) -> None:
    for name in ("train-00000.jsonl", "rejected-00000.jsonl", "scores-00000.jsonl", "report.json", "README.md"):
        (tmp_path / name).write_text('{"text": "one"}\n')
    assert len(_names(str(tmp_path))) == 5  # somebody's folder, whatever the names
    (tmp_path / "artifact.json").write_text("{}")
    assert _names(str(tmp_path)) == ["train-00000.jsonl"]


def test_object_stores_are_listed_and_streamed() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe(
        {"/find/b.txt": b"second", "/find/a/x.jsonl.gz": gzip.compress(b'{"text": "first"}'), "/find/.hidden": b"x"}
    )
    files = list(find_files("memory://find"))
    assert [file.name for file in files] == ["a/x.jsonl.gz", "b.txt"]
    assert [item.text for file in files for item in file.read() if isinstance(item, Item)] == ["first", "second"]
    before = fingerprint("memory://find")
    assert before["files"] == 2 and fingerprint("memory://find") == before
    fs.pipe("/find/b.txt", b"another")
    assert fingerprint("memory://find") != before
    with pytest.raises(UserError, match="nothing at"):
        list(find_files("memory://nowhere"))
    with pytest.raises(UserError, match="no source"):
        list(find_files("gopher://x/y"))


def test_secrets_of_an_address_stay_out_of_the_rows(tmp_path: Path) -> None:
    from danlu.data.sources.objects import public

    assert public("s3://key:secret@bucket/a?token=1") == "s3://bucket/a"
    (tmp_path / "a.txt").write_text("x")
    (file,) = find_files(f"file://{tmp_path}")
    assert [item.text for item in file.read() if isinstance(item, Item)] == ["x"]
