"""Packing: no token lost, no row too full, no sample that sees another."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.model.attention import SegmentContext
from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer
from danlu.posttrain.packing import PackedSource, Sample, collate, pack
from danlu.train.loss import IGNORE


@given(st.lists(st.integers(1, 50), max_size=60))
def test_every_item_once_and_rows_fit(lengths: list[int]) -> None:
    rows = pack(lengths, 50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    assert rows == pack(lengths, 50)
    assert len(rows) <= 2 * -(-sum(lengths) // 50) + 1


def test_worked_example() -> None:
    assert pack([3, 5, 2, 4], 7) == [[1, 2], [3, 0]]
    micro = collate([[Sample([11, 12, 13, 14], [0, 0, 1, 1]), Sample([21, 22, 23], [0, 1, 1])]], 8)
    assert micro.inputs.tolist() == [[11, 12, 13, 14, 21, 22, 23, 0]]
    assert micro.targets.tolist() == [[IGNORE, 13, 14, IGNORE, 22, 23, IGNORE, IGNORE]]
    assert micro.positions is not None and micro.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert micro.segments is not None and micro.segments.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2]]


def test_no_cross_talk() -> None:
    """A packed sample has the hidden states it has alone, and its neighbour's change does not touch it."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=50, hidden_size=32, n_layers=2, n_heads=2, intermediate_size=48)).eval()
    first, second = Sample([1, 2, 3, 4, 5], [0, 0, 1, 1, 1]), Sample([9, 8, 7], [0, 1, 1])
    packed = collate([[first, second]], 12)
    assert packed.segments is not None
    with torch.no_grad():
        together = model.hidden(packed.inputs, packed.positions, SegmentContext(packed.segments))[0]
        for sample, start in ((first, 0), (second, 5)):
            alone = model.hidden(torch.tensor([sample.ids]))[0]
            torch.testing.assert_close(together[start : start + len(sample.ids)], alone, atol=1e-5, rtol=1e-4)


def test_source_visits_every_row_once_per_epoch_and_resumes() -> None:
    samples = [Sample([i, i, i], [0, 1, 1]) for i in range(1, 11)]
    source = PackedSource(samples, 6, batch_rows=5, micro_rows=2, seed=0)
    assert len(source.rows) == 5
    micros = source.next_step()
    assert [len(m.inputs) for m in micros] == [2, 2, 1]
    assert sorted(int(i) for m in micros for i in m.inputs[:, ::3].flatten()) == list(range(1, 11))
    cursor = source.cursor()
    expected = [m.inputs.tolist() for m in source.next_step()]
    again = PackedSource(samples, 6, batch_rows=5, micro_rows=2, seed=0)
    again.resume(cursor)
    assert [m.inputs.tolist() for m in again.next_step()] == expected
