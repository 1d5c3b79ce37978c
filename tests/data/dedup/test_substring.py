"""Repeated passages against brute force, in Chinese and English."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.core.text import units
from danlu.data.dedup import substring
from danlu.data.dedup.substring import Symbols, cut, repeated_spans


def _brute_force(sequences: list[list[object]], at_least: int) -> list[list[tuple[int, int]]]:
    first: dict[tuple[object, ...], int] = {}
    out = []
    for number, sequence in enumerate(sequences):
        spans: list[tuple[int, int]] = []
        for begin in range(len(sequence) - at_least + 1):
            run = tuple(sequence[begin : begin + at_least])
            if first.setdefault(run, number) != number:
                if spans and begin <= spans[-1][1]:
                    spans[-1] = (spans[-1][0], begin + at_least)
                else:
                    spans.append((begin, begin + at_least))
        out.append(spans)
    return out


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="天地 ，", max_size=60) | st.text(alphabet="a b天", max_size=40), max_size=8),
    at_least=st.integers(4, 12),
    kind=st.sampled_from(["units", "bytes"]),
    memory=st.sampled_from([1, 1 << 30]),
    batch=st.sampled_from([1, 50, 1 << 17]),
)
def test_spans_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], at_least: int, kind: Symbols, memory: int, batch: int
) -> None:
    before, substring._BATCH = substring._BATCH, batch
    try:
        numbered = list(enumerate(texts))[::-1]  # in any order
        work = tmp_path_factory.mktemp("work")
        spans = repeated_spans(lambda: numbered, work, kind=kind, at_least=at_least, memory_bytes=memory)
    finally:
        substring._BATCH = before
    sequences: list[list[object]] = [list(text.encode()) if kind == "bytes" else list(units(text)) for text in texts]
    assert [spans.of(number) for number in range(len(texts))] == _brute_force(sequences, at_least)
    assert [path.name for path in work.iterdir()] == ["spans.u32"]


def test_a_passage_in_two_documents_is_cut_from_the_second(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    han = [chr(0x4E00 + int(k)) for k in random.integers(0, 3000, 1200)]
    passage = "，".join("".join(han[i : i + 7]) for i in range(0, 140, 7)) + "。"
    one = "".join(han[200:500]) + "\n" + passage + "".join(han[500:700])
    two = "".join(han[700:900]) + "\n" + passage.replace("，", "\n") + "".join(han[900:1200])
    english = " ".join(f"word{k}" for k in random.integers(0, 5000, 600))
    texts = [one, two, english, english[100:]]
    spans = repeated_spans(lambda: enumerate(texts), tmp_path)
    assert spans.of(0) == [] and spans.of(2) == [] and spans.of(1) == [(200, 340)]
    kept, removed = cut(two, spans.of(1))
    assert units(kept) == units("".join(han[700:900])) + units("".join(han[900:1200]))
    assert units(removed[0]) == units(passage) and kept.startswith("".join(han[700:900]))
    last, _ = cut(texts[3], spans.of(3))
    assert len(units(last)) <= 1  # the word that was cut in two


@example("天", 1, 1)  # a span inside one character
@given(st.text(alphabet="a天é\U00020000 ", max_size=30), st.integers(0, 60), st.integers(1, 60))
def test_bytes_never_cut_a_character(text: str, begin: int, length: int) -> None:
    size = len(text.encode())
    begin, end = min(begin, size), min(begin + length, size)
    kept, removed = cut(text, [(begin, end)] if end > begin else [], "bytes")
    assert len(kept.encode()) + len("".join(removed).encode()) == size
    assert len("".join(removed).encode()) <= length


def test_one_sentence_10_000_times_stays_linear(tmp_path: Path) -> None:
    sentence = "".join(chr(0x4E00 + k) for k in range(150))
    texts = [f"{n} {sentence}" for n in range(10_000)]
    spans = repeated_spans(lambda: enumerate(texts), tmp_path, memory_bytes=1 << 20)
    assert spans.of(0) == [] and len(spans) == 9_999 and spans.of(9_999) == [(1, 151)]


def test_too_short_passages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="everywhere"):
        repeated_spans(list, tmp_path, at_least=3)
