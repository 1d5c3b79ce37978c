"""The sample of cases: a function of ids, sizes and seed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.data.document import Document, write_documents
from danlu.evaluate import samples

DOCUMENTS = [Document(f"id{n}", "x" * (n % 7 + 1), "en", "t") for n in range(50)]


@given(st.integers(1, 300), st.integers(0, 5), st.randoms())
def test_order_does_not_matter_and_only_the_last_goes_beyond(limit: int, seed: int, shuffle: random.Random) -> None:
    shuffled = list(DOCUMENTS)
    shuffle.shuffle(shuffled)
    chosen = samples.take(DOCUMENTS, limit, seed)
    assert samples.take(shuffled, limit, seed) == chosen
    sizes = [len(d.text) for d in chosen]
    assert sum(sizes[:-1]) < limit
    assert sum(sizes) >= limit or len(chosen) == len(DOCUMENTS)
    assert len({d.id for d in chosen}) == len(chosen) > 0


def test_no_held_out_text_is_said(tmp_path: Path) -> None:
    write_documents(tmp_path, "train", DOCUMENTS)
    with pytest.raises(UserError, match="no held-out documents"):
        samples.held_out(Artifact.from_path(tmp_path, "corpus"), 100)


def test_a_file_as_data(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。\n")
    (document,) = samples.documents_of_source(str(tmp_path / "poem.txt"))
    assert document.language == "zh" and document.text.startswith("白日")
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(UserError, match="no text"):
        samples.documents_of_source(str(tmp_path / "empty.txt"))
