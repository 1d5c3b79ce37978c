from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.data.document import Document, document_id, read_documents, write_documents


def _documents(n: int) -> list[Document]:
    return [
        Document(f"{i:016x}", f"第{i}首\n", "zh", "test", "CC0-1.0", {"path": f"{i}.txt", "b": 1, "a": "诗"})
        for i in range(n)
    ]


def test_what_is_written_is_read_in_order_across_files(tmp_path: Path) -> None:
    documents = _documents(25)
    assert write_documents(tmp_path, "train", documents, rows_per_file=10) == 25
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"train-{i:05d}.parquet" for i in range(3)]
    assert list(read_documents(tmp_path)) == documents
    assert list(read_documents(tmp_path, "validation")) == []


def test_equal_documents_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_documents(tmp_path / name, "train", iter(_documents(7)))
    a, b = ((tmp_path / name / "train-00000.parquet").read_bytes() for name in ("a", "b"))
    assert a == b


def test_the_id_depends_on_source_path_and_content_and_their_borders() -> None:
    assert document_id("s", "p", "t") == document_id("s", "p", "t")
    assert len({document_id("s", "p", "t"), document_id("sp", "", "t"), document_id("s", "pt", "")}) == 3


def test_no_corpus_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no documents"):
        next(read_documents(tmp_path))
    (tmp_path / "train-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"train-00000.parquet cannot be read"):
        next(read_documents(tmp_path))
