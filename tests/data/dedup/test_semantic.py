"""Semantic duplicates: each dropped one has a kept one at its side, and no two kept ones of a cluster are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.dedup import semantic
from danlu.data.dedup.embed import normalised
from danlu.data.dedup.semantic import Keep, assign, k_means, semantic_duplicates


def _clouds(groups: int, each: int, spread: float, seed: int, dimensions: int = 16) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.repeat(normalised(random.normal(size=(groups, dimensions))), each, axis=0)
    return normalised(centres + spread * random.normal(size=centres.shape))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    groups=st.integers(1, 6),
    each=st.integers(1, 12),
    keep=st.sampled_from(["far", "near"]),
    guarded=st.integers(0, 10),
    clusters=st.sampled_from([None, 1, 3]),
)
def test_what_is_dropped_is_like_what_is_kept(
    seed: int, groups: int, each: int, keep: Keep, guarded: int, clusters: int | None
) -> None:
    vectors = _clouds(groups, each, 0.08, seed)
    found = semantic_duplicates(vectors, threshold=0.95, keep=keep, guarded=guarded, clusters=clusters)
    cosines = vectors @ vectors.T
    dropped = np.flatnonzero(found.dropped)
    assert not found.dropped[found.kept_instead].any() and not found.dropped[:guarded].any()
    for row in dropped:
        assert abs(cosines[row, found.kept_instead[row]] - found.similarity[row]) < 1e-4
        assert found.similarity[row] >= 0.95 and found.cluster[row] == found.cluster[found.kept_instead[row]]
    kept = np.flatnonzero(~found.dropped)
    kept = kept[kept >= guarded]
    alike = (cosines[np.ix_(kept, kept)] >= 0.9501) & ~np.eye(len(kept), dtype=bool)
    assert not (alike & (found.cluster[kept, None] == found.cluster[kept])).any()
    again = semantic_duplicates(vectors, threshold=0.95, keep=keep, guarded=guarded, clusters=clusters)
    assert (again.kept_instead == found.kept_instead).all()


def test_far_and_near_by_hand() -> None:
    """Three directions in a plane, the middle one is nearest to their centroid."""
    angles = np.array([0.0, 0.1, 0.2])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    near = semantic_duplicates(vectors, threshold=0.99, clusters=1, keep="near")
    far = semantic_duplicates(vectors, threshold=0.99, clusters=1, keep="far")
    assert near.kept_instead.tolist() == [1, 1, 1]
    assert far.kept_instead.tolist() == [0, 0, 2]  # cos 0.2 is 0.98: the ends are not alike, the middle is like both


def test_clusters_are_the_clouds_that_were_made() -> None:
    vectors = _clouds(8, 200, 0.1, 3, dimensions=64)
    cluster = assign(vectors, k_means(vectors, 8))
    groups = cluster.reshape(8, 200)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0].tolist())) == 8


def test_many_equal_vectors_cost_one_comparison_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "LARGEST", 1000)
    vectors = np.tile(_clouds(1, 1, 0, 1), (20_000, 1))
    vectors[::2000] = _clouds(10, 1, 0, 2)
    found = semantic_duplicates(vectors)
    assert (~found.dropped).sum() == 11


def test_a_large_cluster_is_clustered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _clouds(40, 20, 0.02, 4)
    whole = semantic_duplicates(vectors, clusters=1)
    monkeypatch.setattr(semantic, "LARGEST", 100)
    pieces = semantic_duplicates(vectors, clusters=1)
    assert (~pieces.dropped).sum() >= (~whole.dropped).sum() >= 40
    assert (~pieces.dropped).sum() <= 60


def test_rows_of_zeros_and_no_rows() -> None:
    found = semantic_duplicates(np.zeros((5, 4), dtype=np.float32))
    assert not found.dropped.any() and (found.cluster == -1).all()
    assert len(semantic_duplicates(np.zeros((0, 4), dtype=np.float32)).kept_instead) == 0


def test_what_is_no_matrix_of_vectors() -> None:
    with pytest.raises(UserError, match="finite"):
        semantic_duplicates(np.full((3, 4), np.nan, dtype=np.float32))
    with pytest.raises(UserError, match="shape"):
        semantic_duplicates(np.zeros(4, dtype=np.float32))
