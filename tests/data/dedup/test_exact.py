"""Equal documents and repeated lines: exact counts in bounded memory, and clean text survives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.core.text import units
from danlu.data.dedup.exact import Kind, PieceCounter, equal_documents, hash_rows, piece_hashes, pieces
from tests.data.dedup.signatures import some_keys


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.sampled_from([None, "", "天", "地", "天 ", "a", "b"]), max_size=30),
    guarded=st.integers(0, 30),
    memory=st.sampled_from([1, 1 << 30]),
)
def test_the_smallest_id_stays(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], guarded: int, memory: int
) -> None:
    keys, guarded = some_keys(len(texts), len(texts)), min(guarded, len(texts))
    work = tmp_path_factory.mktemp("work")
    first = equal_documents(hash_rows(texts), keys, work, guarded=guarded, memory_bytes=memory)
    for i, text in enumerate(texts):
        same = [i] if text is None else [j for j, other in enumerate(texts) if other == text]
        assert first[i] == min(same, key=lambda j: (j >= guarded, keys[j]))


def test_100_000_equal_and_100_000_different_documents(tmp_path: Path) -> None:
    hashes = np.concatenate([np.tile(hash_rows(["x"]), (100_000, 1)), hash_rows(map(str, range(100_000)))])
    keys = some_keys(200_000)
    one, two = (equal_documents(hashes, keys, tmp_path, memory_bytes=memory) for memory in (1 << 20, 1 << 30))
    assert (one == two).all() and (one != np.arange(200_000)).sum() == 99_999
    with pytest.raises(UserError, match="both"):
        equal_documents(hashes, keys[:5], tmp_path)


@given(st.text(alphabet="a天 \n\t，", max_size=60))
def test_pieces_joined_are_the_text(text: str) -> None:
    for kind in ("line", "paragraph"):
        assert "".join(pieces(text, kind)) == text


def test_paragraphs_by_hand() -> None:
    assert pieces("一\n二\n\n \n三\n", "paragraph") == ["一\n二\n", "\n", " \n", "三\n"]


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.lists(st.sampled_from(["天", "地  玄", " 地 玄", "--", "", "b"]), max_size=6), max_size=20),
    more_than=st.integers(0, 4),
    kind=st.sampled_from(["line", "paragraph"]),
    memory=st.sampled_from([1, 1 << 30]),
)
def test_counts_are_exact(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]], more_than: int, kind: Kind, memory: int
) -> None:
    texts = ["\n".join(lines) for lines in documents]
    counter = PieceCounter(tmp_path_factory.mktemp("work"), kind, memory_bytes=memory)
    for text in texts:
        counter.add(piece_hashes(text, kind))
    repeated = counter.finish(more_than)
    plain = [{" ".join(piece.split()) for piece in pieces(text, kind) if units(piece)} for text in texts]
    counts = Counter(piece for pieces_ in plain for piece in pieces_)
    assert len(repeated) == sum(count > more_than for count in counts.values())
    for text in texts:
        kept, removed = repeated.remove(text)
        expected = [piece for piece in pieces(text, kind) if counts[" ".join(piece.split())] <= more_than]
        assert kept == "".join(expected)
        for one in removed:
            assert text[one.start : one.start + len(one.text)] == one.text
            assert one.documents == counts[" ".join(one.text.split())]


def test_boilerplate_goes_and_the_page_stays(tmp_path: Path) -> None:
    poem = "白日依山尽，\n黄河入海流。\n欲穷千里目，\n更上一层楼。\n"
    english = "The lake was still.\nNobody had come since spring.\n"
    pages = [f"首页 | 关于我们\n{n} {poem if n % 2 else english}版权所有，转载请注明出处\n" for n in range(5)]
    pages += [f"首页 | 关于我们\n第{n}回　甄士隐梦幻识通灵\n  版权所有，转载请注明出处\n" for n in range(4)]
    counter = PieceCounter(tmp_path, "line")
    for page in pages:
        counter.add(piece_hashes(page, "line"))
    repeated = counter.finish()
    kept, removed = repeated.remove(pages[1])
    assert kept == f"1 {poem}"
    assert [(one.text.strip(), one.documents) for one in removed] == [
        ("首页 | 关于我们", 9),
        ("版权所有，转载请注明出处", 9),
    ]
    assert repeated.remove(poem) == (poem, [])


def test_a_line_on_every_one_of_100_000_pages_is_counted_in_little_memory(tmp_path: Path) -> None:
    counter = PieceCounter(tmp_path, "line", hashes=200_000, memory_bytes=1 << 18)
    common = hash_rows(["common"])
    for n in range(100):
        counter.add(np.concatenate([np.tile(common, (1000, 1)), hash_rows(f"{n} {k}" for k in range(1000))]))
    repeated = counter.finish()
    assert len(repeated) == 1 and repeated.documents(common).tolist() == [100_000]
    assert [path.name for path in tmp_path.iterdir()] == ["repeated-lines"]
