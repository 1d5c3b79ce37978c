from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.mixing.streams import Stream, draws, make_stream, times


def stream(sizes: list[int], repeats: list[int] | None = None) -> Stream:
    n = len(sizes)
    ids = [f"d{i}" for i in range(n)]
    array = np.array(sizes, dtype=np.int64)
    counts = np.array(repeats or [1] * n, dtype=np.int64)
    return make_stream(ids, np.arange(n), array, array.astype(np.float64), counts, "salt")


def test_nothing_is_repeated_before_everything_was_read() -> None:
    one = stream([10] * 10)
    first, epochs = one.take(70)
    assert len(set(first.tolist())) == 7 and not epochs.any()
    second, epochs = one.take(70)
    assert epochs.tolist() == [0] * 3 + [1] * 4
    assert sorted([*first.tolist(), *second[:3].tolist()]) == list(range(10))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.lists(st.integers(0, 200), max_size=5))
def test_phases_take_what_one_phase_would(sizes: list[int], amounts: list[int]) -> None:
    parts, whole = stream(sizes), stream(sizes)
    taken = [entry for amount in amounts for entry in parts.take(amount)[0].tolist()]
    entries, _ = whole.take(sum(amounts))
    assert taken == entries.tolist()
    got = int(whole.sizes[entries].sum())
    assert abs(got - sum(amounts)) < max(sizes)  # to within one document


def test_places_interleave_and_curricula_sort() -> None:
    one = stream([5, 1, 3, 2])
    entries, epochs = one.take(22)
    order, places = one.places(entries, epochs, "ascending")
    assert one.sizes[entries[order]].tolist() == [1, 2, 3, 5, 1, 2, 3, 5]
    assert (np.diff(places) > 0).all() and places[0] > 0 and places[-1] < 1
    order, _ = one.places(entries, epochs, "shuffle")
    assert order.tolist() == list(range(8))


def test_rehydrated_documents_are_in_an_epoch_several_times() -> None:
    counts = times(np.array([1, 2, 4, 5, 900]), {2: 2, 5: 3})
    assert counts.tolist() == [1, 2, 2, 3, 3]
    one = stream([10] * 5, counts.tolist())
    assert np.bincount(one.documents).tolist() == [1, 2, 2, 3, 3] and one.epoch == 110


def test_draws_depend_on_id_and_salt_alone() -> None:
    assert draws(["a", "b"], "s").tolist() == draws(["b", "a"], "s")[::-1].tolist()
    assert draws(["a"], "s").tolist() != draws(["a"], "t").tolist()
    assert draws(["a"], "s").tolist() == [draws(["a"], "s")[0]]
