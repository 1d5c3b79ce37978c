"""Signatures estimate the Jaccard similarity of shingles, as datasketch's do."""

from __future__ import annotations

from pathlib import Path

import datasketch
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.text import shingles, units
from danlu.data.dedup.clusters import near_duplicates
from danlu.data.dedup.signature import (
    PERMUTATIONS,
    permutations,
    shingle_hashes,
    shingle_units,
    signature,
    signatures,
    unit_hash,
)
from danlu.data.scan import scan

HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"


def _jaccard(a: str, b: str, n: int) -> float:
    one, two = set(shingles(a, n)), set(shingles(b, n))
    return len(one & two) / len(one | two)


def _hashes(text: str) -> np.ndarray:
    return np.array([unit_hash(unit) for unit in units(text.lower())], dtype=np.uint64)


def _pairs(language: str, count: int) -> list[tuple[str, str]]:
    """Random pages and copies of them with edits: similarities from 0.3 to 1."""
    random = np.random.default_rng(11)
    words = list(HAN) if language == "zh" else [f"{a}{b}" for a in "bcdfgklmnpr" for b in ("a", "en", "or", "ust")]
    pages = []
    for number in range(count):
        page = [words[i] for i in random.integers(0, len(words), 200)]
        copy = list(page)
        for place in random.integers(0, len(page), number % 12):
            copy[place] = words[random.integers(0, len(words))]
        joiner = "" if language == "zh" else " "
        pages.append((joiner.join(page), joiner.join(copy)))
    return pages


@given(st.text(alphabet="ab 天地，", max_size=40), st.integers(1, 5))
def test_shingles_are_those_of_the_one_segmenter(text: str, n: int) -> None:
    ours, theirs = shingle_hashes(_hashes(text), n), shingles(text, n)
    assert len(ours) == len(theirs)
    names: dict[int, str] = {}
    assert all(names.setdefault(int(a), b) == b for a, b in zip(ours, theirs, strict=True))
    assert len(names) == len(set(theirs))


def test_the_numbers_are_the_same_in_every_process_and_on_every_machine() -> None:
    assert unit_hash("天") == 0x9875EADBE8742CED
    assert signature("天地玄黄", "zh")[:3].tolist() == [397217683, 908979861, 797763230]
    assert all(factor % 2 for factor in permutations()[0].tolist())


def test_a_text_shorter_than_a_shingle_is_one_shingle() -> None:
    one, spaced, longer, turned = signatures(["天地", "天 地", "天地玄", "地天"], ["zh"] * 4)
    assert (one == spaced).all() and (one != longer).all() and (one != turned).all()


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_estimate_is_as_good_as_the_theory_says(language: str) -> None:
    """Error of the estimated similarity over many pairs: unbiased, and sqrt(J (1 - J) / 128) on average."""
    pairs, n = _pairs(language, 240), shingle_units(language)
    flat = [text for pair in pairs for text in pair]
    signs = scan(flat, [language] * len(flat)).signatures
    estimates = (signs[::2] == signs[1::2]).mean(axis=1)
    truth = np.array([_jaccard(a, b, n) for a, b in pairs])
    error = (estimates - truth) / np.maximum(np.sqrt(truth * (1 - truth) / PERMUTATIONS), 1e-3)
    assert abs(error.mean()) < 0.25 and 0.75 < error.std() < 1.25
    assert (estimates[truth == 1] == 1).all()


def test_no_worse_than_datasketch() -> None:
    pairs = _pairs("en", 120)
    signs = scan([text for pair in pairs for text in pair], ["en"] * 240).signatures
    ours, theirs, truth = (signs[::2] == signs[1::2]).mean(axis=1), [], []
    for a, b in pairs:
        both = [datasketch.MinHash(num_perm=PERMUTATIONS) for _ in range(2)]
        for sketch, text in zip(both, (a, b), strict=True):
            sketch.update_batch([shingle.encode() for shingle in shingles(text, 5)])
        theirs.append(both[0].jaccard(both[1]))
        truth.append(_jaccard(a, b, 5))
    errors = [np.abs(np.array(estimate) - truth).mean() for estimate in (ours, theirs)]
    assert errors[0] < 1.2 * errors[1]


def test_planted_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    pairs = _pairs("zh", 150)
    flat = [text for pair in pairs for text in pair]
    found = scan(flat, ["zh"] * len(flat))
    together = near_duplicates([found.signatures], np.arange(len(flat), dtype=np.uint64), tmp_path).near
    for number, (a, b) in enumerate(pairs):
        if _jaccard(a, b, 3) >= 0.8:
            assert together[2 * number] == together[2 * number + 1]
    assert len(set(together[::2].tolist())) == len(pairs), "unrelated pages stay apart"
