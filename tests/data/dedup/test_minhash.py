"""MinHash against exact Jaccard, against datasketch, and on planted near-duplicates in Chinese and English."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.text import shingles, units
from danlu.data.dedup.minhash import (
    PERMUTATIONS,
    Signatures,
    UnitHashes,
    clusters,
    shingle_hashes,
    similar_pairs,
    text_hash,
)

_HASHES = UnitHashes()


def _unit_hashes(text: str) -> np.ndarray:
    parts = units(text.lower())
    return np.fromiter((_HASHES[unit] for unit in parts), dtype=np.uint64, count=len(parts))


def _signatures(texts: list[str], n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    signatures = Signatures()
    for text in texts:
        signatures.add(_unit_hashes(text), n)
    return signatures.finish()


def _jaccard(a: str, b: str, n: int = 3) -> float:
    one, two = set(shingles(a, n)), set(shingles(b, n))
    return len(one & two) / len(one | two)


def _pages(count: int, length: int, alphabet: str, joiner: str, seed: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    vocabulary = list(alphabet) if joiner == "" else [f"{a}{b}" for a in alphabet for b in alphabet]
    return [[vocabulary[i] for i in random.integers(0, len(vocabulary), length)] for _ in range(count)]


HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈"
LATIN = "abcdefghijklmnop"


@given(st.lists(st.text(alphabet="ab 天地，", max_size=30), max_size=6), st.integers(1, 4))
def test_shingles_are_those_of_the_one_segmenter(texts: list[str], n: int) -> None:
    hashed = [hashes for hashes in map(_unit_hashes, texts) if len(hashes) >= n]
    if hashed:
        lengths = np.array(list(map(len, hashed)))
        ours = shingle_hashes(np.concatenate(hashed), lengths, n)
        theirs = [shingle for text in texts if len(units(text)) >= n for shingle in shingles(text, n)]
        assert len(ours) == len(theirs)
        names: dict[int, str] = {}
        assert all(names.setdefault(int(a), b) == b for a, b in zip(ours, theirs, strict=True))
        assert len(names) == len(set(theirs))


def test_a_text_shorter_than_a_shingle_is_one() -> None:
    signatures, empty = _signatures(["天地", "天 地", "天地玄", "地天"], n=3)
    assert not empty.any()
    assert (signatures[0] == signatures[1]).all()
    assert not (signatures[0] == signatures[3]).any() and not (signatures[0] == signatures[2]).any()


def test_the_hash_of_a_unit_is_the_same_in_every_process() -> None:
    assert UnitHashes()["天"] == 17853420683740717047


@pytest.mark.parametrize(("alphabet", "joiner"), [(HAN, ""), (LATIN, " ")])
def test_planted_near_duplicates_are_found_and_others_are_not(alphabet: str, joiner: str) -> None:
    """Every page gets a copy with edits; pairs of true similarity 0.75 or more must be found, unrelated ones not."""
    random = np.random.default_rng(5)
    pages = _pages(150, 120, alphabet, joiner, seed=1)
    copies = []
    for page in pages:
        copy = list(page)
        for place in random.integers(0, len(copy), random.integers(1, 9)):
            copy[place] = page[0]
        copies.append(copy)
    texts = [joiner.join(page) for page in pages + copies]
    truth = {(i, i + 150): _jaccard(texts[i], texts[i + 150]) for i in range(150)}
    pairs, similarity = similar_pairs(*_signatures(texts), threshold=0.5)
    found = {(int(i), int(j)): float(s) for (i, j), s in zip(pairs, similarity, strict=True)}
    must = [pair for pair, j in truth.items() if j >= 0.65]
    assert len(must) > 80
    assert sum(pair in found for pair in must) / len(must) >= 0.99
    assert set(found) <= set(truth)
    errors = np.array([found[pair] - truth[pair] for pair in must if pair in found])
    assert abs(errors.mean()) < 0.015 and np.abs(errors).max() < 0.18  # 4 standard deviations of 0.044


def test_the_estimate_agrees_with_datasketch() -> None:
    """Same texts, same number of permutations: both lie around the true similarity with the spread of theory."""
    datasketch = pytest.importorskip("datasketch")
    pages = _pages(40, 150, HAN, "", seed=3)
    ours, theirs = [], []
    for k, page in enumerate(pages):
        a, b = "".join(page), "".join(page[: 150 - 2 * k] + pages[(k + 1) % 40][: 2 * k])
        truth = _jaccard(a, b)
        signatures, _ = _signatures([a, b])
        ours.append(float((signatures[0] == signatures[1]).mean()) - truth)
        sketches = []
        for text in (a, b):
            sketch = datasketch.MinHash(num_perm=PERMUTATIONS)
            sketch.update_batch([shingle.encode() for shingle in shingles(text, 3)])
            sketches.append(sketch)
        theirs.append(sketches[0].jaccard(sketches[1]) - truth)
    for errors in (ours, theirs):
        assert abs(np.mean(errors)) < 0.02
        assert np.sqrt(np.mean(np.square(errors))) < 1.25 * 0.044  # 40 pairs: the spread itself is known to 11 %


def test_recall_is_no_less_than_that_of_datasketch_lsh() -> None:
    datasketch = pytest.importorskip("datasketch")
    pages = _pages(120, 100, HAN, "", seed=9)
    random = np.random.default_rng(2)
    texts = ["".join(page) for page in pages]
    for page in pages:
        copy = list(page)
        for place in random.integers(0, 100, 5):
            copy[place] = "春"
        texts.append("".join(copy))
    truth = {i for i in range(120) if _jaccard(texts[i], texts[i + 120]) >= 0.7}
    index = datasketch.MinHashLSH(threshold=0.7, num_perm=PERMUTATIONS)
    sketches = []
    for i, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([shingle.encode() for shingle in shingles(text, 3)])
        index.insert(i, sketch)
        sketches.append(sketch)
    theirs = {i for i in truth if i + 120 in index.query(sketches[i])}
    pairs, _ = similar_pairs(*_signatures(texts), threshold=0.6)
    ours = {int(i) for i, j in pairs if j == i + 120} & truth
    assert len(ours) >= len(theirs) and len(ours) >= 0.99 * len(truth)


def test_texts_without_units_are_like_nothing() -> None:
    texts = ["，，。！", "……——", "", "天地玄黄宇宙洪荒", "天地玄黄宇宙洪荒"]
    signatures, empty = _signatures(texts)
    assert empty.tolist() == [True, True, True, False, False]
    pairs, similarity = similar_pairs(signatures, empty, 0.5)
    assert pairs.tolist() == [[3, 4]] and similarity.tolist() == [1.0]


def test_nothing_at_all_has_no_pairs() -> None:
    pairs, similarity = similar_pairs(*_signatures([]), 0.5)
    assert pairs.shape == (0, 2) and similarity.shape == (0,)
    assert clusters(0, pairs).tolist() == []


def test_a_bucket_of_many_equal_texts_becomes_one_cluster() -> None:
    texts = ["天地玄黄宇宙洪荒" for _ in range(200)] + ["日月盈昃辰宿列张"]
    pairs, _ = similar_pairs(*_signatures(texts), 0.7)
    assert len(pairs) < 200 * 5  # not all 19,900 of them
    assert clusters(len(texts), pairs).tolist() == [0] * 200 + [200]


def test_batches_do_not_matter() -> None:
    texts = ["".join(page) for page in _pages(50, 40, HAN, "", seed=4)]
    together, _ = _signatures(texts)
    alone = np.concatenate([_signatures([text])[0] for text in texts])
    assert (together == alone).all()


def test_clusters_by_hand() -> None:
    #  0-3-5   1   2-4
    assert clusters(6, [(3, 5), (2, 4), (0, 3)]).tolist() == [0, 1, 2, 0, 2, 0]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.randoms())
def test_clusters_do_not_depend_on_the_order_of_pairs(pairs: list[tuple[int, int]], random: object) -> None:
    shuffled = [(j, i) for i, j in pairs]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    roots = clusters(20, pairs)
    assert roots.tolist() == clusters(20, shuffled).tolist()
    assert all(roots[i] == roots[j] and roots[i] <= min(i, j) for i, j in pairs)


def test_text_hash_tells_texts_apart() -> None:
    assert text_hash("天") == text_hash("天") != text_hash("地")
