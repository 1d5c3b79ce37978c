"""Attention over the paged cache: mixed batches, windows, splits, against a softmax in plain torch."""

from __future__ import annotations

import random as py_random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels.gpu.batch import SHORT, SPLIT, PagedBatch
from tests.kernels.on_gpu import ATOL, DEVICE, FLOATS, attention, kernels_on, random  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")
paged_attention, paged_attention_reference = attention.paged_attention, attention.paged_attention_reference

PAGE = 16
Sizes = list[tuple[int, int]]  # (rows, length) of each sequence


def make(
    sizes: Sizes, group: int = 1, kv_heads: int = 1, head_dim: int = 16, dtype: torch.dtype = torch.float32,
    page: int = PAGE, seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PagedBatch]:  # fmt: skip
    """Queries, keys, values and the batch. Blocks are dealt out at random; those of nobody hold NaN."""
    dealer = py_random.Random(seed)
    needed = [-(-length // page) for _, length in sizes]
    n_blocks = sum(needed) + 3
    blocks = dealer.sample(range(n_blocks), n_blocks)
    tables = [[blocks.pop() for _ in range(n)] for n in needed]
    rows = [sum(n for n, _ in sizes[:i]) for i in range(len(sizes))]
    spans = [(row, n, length, table) for row, (n, length), table in zip(rows, sizes, tables, strict=True)]
    q = random(sum(n for n, _ in sizes), group * kv_heads, head_dim, dtype=dtype, seed=seed)
    keys = random(n_blocks, page, kv_heads, head_dim, dtype=dtype, seed=seed + 1)
    values = random(n_blocks, page, kv_heads, head_dim, dtype=dtype, seed=seed + 2)
    keys[blocks] = values[blocks] = torch.nan
    for (_, length), table in zip(sizes, tables, strict=True):
        values[table[-1], (length - 1) % page + 1 :] = torch.nan  # behind the end nothing was ever written
    return q, keys, values, PagedBatch.of(spans, DEVICE)


def check(sizes: Sizes, window: int | None = None, **shape: int | torch.dtype) -> None:
    q, keys, values, batch = make(sizes, **shape)  # type: ignore[arg-type]
    scale = q.shape[2] ** -0.5
    got = paged_attention(q, keys, values, batch, scale, window)
    wanted = paged_attention_reference(q, keys, values, batch, scale, window)
    torch.testing.assert_close(got, wanted, atol=ATOL[q.dtype], rtol=1e-2)


def test_worked_example() -> None:
    """Two keys with scores 0 and ln 3: the second value counts three times as much."""
    q = torch.ones(1, 1, 16, device=DEVICE)
    keys = torch.zeros(1, 2, 1, 16, device=DEVICE)
    values = torch.zeros(1, 2, 1, 16, device=DEVICE)
    keys[0, 1, 0, 0] = torch.tensor(3.0).log()
    values[0, 0], values[0, 1] = 4.0, 8.0
    batch = PagedBatch.of([(0, 1, 2, [0])], DEVICE)
    torch.testing.assert_close(paged_attention(q, keys, values, batch, 1.0), torch.full_like(q, 7.0))


@pytest.mark.parametrize("group", [1, 3, 4, 7, 8, 20])
def test_groups_of_heads(group: int) -> None:
    check([(1, 1), (3, 21), (17, 30)], group=group, kv_heads=2)


@pytest.mark.parametrize(("head_dim", "dtype"), [(8, FLOATS[0]), (64, FLOATS[1]), (80, FLOATS[2]), (96, FLOATS[0]),
                                                 (128, FLOATS[2]), (256, FLOATS[1])])  # fmt: skip
def test_widths_and_dtypes(head_dim: int, dtype: torch.dtype) -> None:
    check([(1, 33), (17, 20)], group=2, head_dim=head_dim, dtype=dtype)


@pytest.mark.parametrize("window", [1, 16, 300, 5000])
def test_windows(window: int) -> None:
    check([(1, 3), (1, 2 * SPLIT + 9), (5, SPLIT + 4), (18, 40)], window=window, group=2)


def test_keys_in_several_splits() -> None:
    check([(1, SPLIT), (1, SPLIT + 1), (1, 3 * SPLIT - 7), (4, 2 * SPLIT + 1)], group=7)


@settings(max_examples=10)
@given(st.data())
def test_any_batch(data: st.DataObject) -> None:
    rows = st.one_of(st.just(1), st.integers(1, 4), st.integers(SHORT, 24))
    size = rows.flatmap(lambda n: st.tuples(st.just(n), st.integers(n, n + 60)))
    sizes = data.draw(st.lists(size, min_size=1, max_size=5), label="rows and lengths")
    check(
        sizes,
        window=data.draw(st.sampled_from([None, 1, 7, 33]), label="window"),
        group=data.draw(st.sampled_from([1, 3, 4]), label="group"),
        page=data.draw(st.sampled_from([1, 3, 16]), label="block size"),
        seed=data.draw(st.integers(0, 99), label="seed"),
    )


@pytest.mark.parametrize("window", [None, 40])
def test_bits_do_not_depend_on_the_batch(window: int | None) -> None:
    q, keys, values, batch = make([(1, 20), (1, SPLIT + 50), (5, SPLIT + 9), (21, 70), (33, 33)], group=3)
    together = paged_attention(q, keys, values, batch, 0.25, window)
    for index in range(5):
        row, count, length, *table = batch.lines[index].tolist()
        own = PagedBatch.of([(0, count, length, table)], DEVICE)
        alone = paged_attention(q[row : row + count], keys, values, own, 0.25, window)
        assert torch.equal(together[row : row + count], alone)


def test_bits_do_not_depend_on_how_a_prompt_was_cut() -> None:
    """Rows 40 .. 100 of a prompt in one chunk, and in three: all long, so all the same kernel."""
    q, keys, values, batch = make([(60, 100)], group=2)
    table = batch.lines[0, 3:].tolist()
    whole = paged_attention(q, keys, values, batch, 0.25)
    for begin, end in ((0, 17), (17, 40), (40, 60)):
        part = PagedBatch.of([(0, end - begin, 40 + end, table)], DEVICE)
        assert torch.equal(paged_attention(q[begin:end], keys, values, part, 0.25), whole[begin:end])


def test_nan_stays_in_its_sequence() -> None:
    q, keys, values, batch = make([(1, 40), (20, 30), (1, 9)])
    wanted = paged_attention(q, keys, values, batch, 0.25)
    values[int(batch.lines[0, 3])] = torch.nan
    got = paged_attention(q, keys, values, batch, 0.25)
    sick = slice(0, 1)
    assert got[sick].isnan().all() and torch.equal(got[1:], wanted[1:])


def test_wrong_input_is_named() -> None:
    q, keys, values, batch = make([(2, 5)], group=3, kv_heads=2)
    with pytest.raises(ValueError, match=r"q is \[1, 6, 16\], it must be \[2, any, 16\]"):
        paged_attention(q[:1], keys, values, batch, 1.0)
    with pytest.raises(ValueError, match="5 heads, which is not a multiple of the 2"):
        paged_attention(q[:, :5].contiguous(), keys, values, batch, 1.0)
    with pytest.raises(ValueError, match=r"keys is torch\.float16, it must be torch\.float32"):
        paged_attention(q, keys.half(), values, batch, 1.0)
    with pytest.raises(ValueError, match="values has gaps"):
        paged_attention(q, keys, values.transpose(0, 1).contiguous().transpose(0, 1), batch, 1.0)
    with pytest.raises(ValueError, match="window is 0"):
        paged_attention(q, keys, values, batch, 1.0, 0)
    wide = torch.zeros(1, 1, 512, device=DEVICE)
    with pytest.raises(ValueError, match="at most 256"):
        paged_attention(wide, wide[None], wide[None], PagedBatch.of([(0, 1, 1, [0])], DEVICE), 1.0)
