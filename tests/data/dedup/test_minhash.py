"""What the search for duplicates shares: hashes of units and texts, union-find."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.dedup.minhash import UnitHashes, clusters, text_hash


def test_the_hash_of_a_unit_is_the_same_in_every_process() -> None:
    assert UnitHashes()["天"] == 17853420683740717047


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
