"""Attention over the paged cache: each query against all keys its sequence has, block tables read inside.

The step is one flat batch of rows (engine/runner.py). A sequence's rows are its last `count` tokens, and row i of them
stands at position length - count + i: it sees the keys at 0 .. position, or the last `window` of these.

One program takes a tile of one sequence's rows and one KV head. The heads that share this KV head are laid side by
side with the rows in the M dimension of the matrix product, so that keys and values are read once a group and even one
query fills a tile. Two queries and a group of 3 heads in a tile of 16 (the rest is padding, never written):

                          keys ->  BLOCK_N tokens at a time, found through the block table
    m = 0   query 0  head 0    [ s s s s s s s . ]         s   scores in float32, in powers of two:
        1            head 1    [ s s s s s s s . ]             2^(x log2 e) = e^x, and 2^x is the cheaper one
        2            head 2    [ s s s s s s s . ]         .   later than the query: -inf
        3   query 1  head 0    [ s s s s s s s s ]
        .. 5                                               running maximum, sum and output per m: online softmax
        6 .. 15 padding                                    (Milakov and Gimelshein, arXiv:1805.02867)

This kernel is launched at most twice a layer, for two kinds of sequence:

    short    at most SHORT rows: those that decode. Tiles are as small as the matrix unit allows, and the keys are
             split among programs, SPLIT tokens each, because one tile a sequence would leave most of a GPU idle. The
             partial results are joined by a second kernel (flash-decoding, Dao et al. 2023):

                 keys    |-- SPLIT --|-- SPLIT --|-- ... --|    each: maximum m, sum of weights l, weighted values a
                 joined  o = sum_i 2^(m_i - m) a_i / sum_i 2^(m_i - m) l_i,    m = max_i m_i

    long     more rows: chunks of a prompt. Large tiles and no split; there are enough of them. The last tiles of a
             chunk see the most keys and are launched first. Where torch brings a kernel for these, it is used instead
             (varlen.py).

Where keys are split depends on their positions alone, so a row's result does not depend on what else is in the batch.
Nor, among long sequences, on how a prompt was cut into chunks: a block of keys that a row may not see changes nothing
of its maximum, sum and output, not even in the last bit.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu import MAX_HEAD_DIM, varlen
from danlu.kernels.gpu.batch import HEADER, SPLIT, PagedBatch
from danlu.kernels.gpu.checks import check, same_device
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn

UNSPLIT = 1 << 30
# Tiles in M and N, warps, and tiles of keys on their way. 16 in M is the least that the matrix unit takes.
SMALL, LARGE, LARGE_FLOAT32 = (16, 128, 4, 2), (64, 64, 4, 3), (16, 64, 4, 3)
TILE_BYTES = 1 << 14  # of a tile of keys, at most: with the values, and the next two on their way, it fits every GPU
LOG2_E = math.log2(math.e)
BEFORE_TABLE = tl.constexpr(HEADER)


def paged_attention_reference(
    q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scale: float, window: int | None = None
) -> Tensor:
    out = torch.empty_like(q)
    group = q.shape[1] // keys.shape[2]
    for row, count, length, *table in batch.lines.tolist():
        blocks = torch.tensor(table[: -(-length // keys.shape[1])], device=q.device)
        k, v = (x[blocks].flatten(0, 1)[:length].float().repeat_interleave(group, dim=1) for x in (keys, values))
        scores = torch.einsum("nhd,lhd->hnl", q[row : row + count].float(), k) * scale
        query = torch.arange(length - count, length, device=q.device)[:, None]
        key = torch.arange(length, device=q.device)
        hidden = key > query
        if window:
            hidden |= key <= query - window
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        out[row : row + count] = torch.einsum("hnl,lhd->nhd", weights, v).to(q.dtype)
    return out


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scale: float, window: int | None = None
) -> Tensor:
    """q [T, H, hd] against keys and values [n_blocks, block_size, Hkv, hd] of the same dtype -> [T, H, hd].

    The keys of the rows themselves must be in the cache already. Block numbers are trusted to be inside it.
    """
    _check(q, keys, values, batch, window)
    out = torch.empty_like(q)
    with on(q):
        if batch.n_short:
            _attend_short(out, q, keys, values, batch, scale, window)
        if batch.n_long and varlen.enabled(q):
            varlen.attend_long(out, q, keys, values, batch, scale, window)
        elif batch.n_long:
            _attend_long(out, q, keys, values, batch, scale, window)
    return out


def _attend_short(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scale: float, window: int | None
) -> None:
    n, n_splits = batch.n_short, batch.n_splits(window)
    lines, n_rows = batch.lines[:n], max(batch.counts[:n])
    sizes = _sizes(q, keys, window, SMALL) | {"SPLIT": SPLIT}
    n_heads, head_dim = q.shape[1:]
    parts = ends = out  # with one split the kernel writes to `out` itself, and no ends
    if n_splits > 1:
        parts = torch.empty(n_splits, n * n_rows, n_heads, head_dim, dtype=torch.float32, device=q.device)
        ends = torch.empty(n_splits, n * n_rows, n_heads, 2, dtype=torch.float32, device=q.device)  # m and l
    n_tiles = -(-n_rows // sizes["QUERIES"])
    _attend[n * n_tiles, keys.shape[2], n_splits](
        parts, ends, q, keys, values, lines, lines.stride(0), n_tiles, n_rows, scale * LOG2_E,
        PARTIAL=n_splits > 1, **sizes, **early(q),
    )  # fmt: skip
    if n_splits > 1:
        _join[n * n_rows, n_heads](
            out, parts, ends, lines, lines.stride(0), n_rows,
            **{name: sizes[name] for name in ("N_HEADS", "HEAD_DIM", "WINDOW", "QUERIES", "BLOCK_D", "SPLIT")},
            **early(q),
        )  # fmt: skip


def _attend_long(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scale: float, window: int | None
) -> None:
    lines, n_rows = batch.lines[batch.n_short :], max(batch.counts[batch.n_short :])
    # float32 has no matrix unit: a large tile does not fit the registers
    sizes = _sizes(q, keys, window, LARGE_FLOAT32 if q.dtype == torch.float32 else LARGE) | {"SPLIT": UNSPLIT}
    n_tiles = -(-n_rows // sizes["QUERIES"])
    _attend[len(lines) * n_tiles, keys.shape[2], 1](
        out, out, q, keys, values, lines, lines.stride(0), n_tiles, n_rows, scale * LOG2_E,
        PARTIAL=False, **sizes, **early(q),
    )  # fmt: skip


def _sizes(q: Tensor, keys: Tensor, window: int | None, tile: tuple[int, int, int, int]) -> dict[str, int]:
    """What the kernel is compiled for. It depends on the model and on the kind of launch, not on the batch."""
    n_heads, head_dim = q.shape[1:]
    group = n_heads // keys.shape[2]
    block_m, block_n, n_warps, n_stages = tile
    block_m, block_d = max(block_m, power_of_two(group)), max(16, power_of_two(head_dim))
    block_n = max(16, min(block_n, TILE_BYTES // (block_d * q.element_size())))
    return {
        "N_HEADS": n_heads, "GROUP": group, "HEAD_DIM": head_dim, "PAGE": keys.shape[1], "WINDOW": window or 0,
        "QUERIES": block_m // group, "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_D": block_d,
        "num_warps": n_warps, "num_stages": n_stages,
    }  # fmt: skip


def _check(q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, window: int | None) -> None:
    n_blocks, block_size, n_kv_heads, head_dim = keys.shape
    check("q", q, (batch.n_rows, None, head_dim))
    check("keys", keys, (n_blocks, block_size, n_kv_heads, head_dim), (q.dtype,))
    check("values", values, (n_blocks, block_size, n_kv_heads, head_dim), (q.dtype,))
    if q.shape[1] % n_kv_heads:
        raise ValueError(f"q has {q.shape[1]} heads, which is not a multiple of the {n_kv_heads} heads of the keys")
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"heads are {head_dim} wide, at most {MAX_HEAD_DIM} are computed here")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, it must be at least 1")
    same_device(q, keys=keys, values=values, lines=batch.lines)


@triton.jit
def _seen(count, length, first, WINDOW: tl.constexpr, QUERIES: tl.constexpr):
    """The keys that a tile reads, low .. high: what its first query sees to what its last one sees."""
    start = length - count + first
    high = tl.minimum(start + QUERIES, length)
    low = start * 0
    if WINDOW:
        low = tl.maximum(start - WINDOW + 1, 0)
    return low, high


# What changes from step to step is not compiled in: Triton would make another program for a number that 16 divides.
@triton.jit(do_not_specialize=["width", "n_tiles", "n_rows"], do_not_specialize_on_alignment=["lines"])
def _attend(
    out, ends, q, keys, values, lines, width, n_tiles, n_rows, scale,
    N_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    QUERIES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr,
    PARTIAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (sequence and tile, KV head, split): a tile of the output, or with PARTIAL its part of one split."""
    wait_turn(EARLY)
    N_KV_HEADS: tl.constexpr = N_HEADS // GROUP
    sequence, kv_head = tl.program_id(0) // n_tiles, tl.program_id(1)
    line = lines + sequence.to(tl.int64) * width
    row, count, length = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    first = (n_tiles - 1 - tl.program_id(0) % n_tiles) * QUERIES
    low, high = _seen(count, length, first, WINDOW, QUERIES)
    split = low // SPLIT + tl.program_id(2)
    begin = tl.maximum(low // BLOCK_N * BLOCK_N, split * SPLIT)
    end = tl.minimum(high, (split + 1) * SPLIT)
    if first >= count or begin >= end:
        return

    m = tl.arange(0, BLOCK_M)
    query, head = first + m // GROUP, kv_head * GROUP + m % GROUP
    mine = (m < QUERIES * GROUP) & (query < count)
    position = length - count + query  # [M]
    d = tl.arange(0, BLOCK_D)
    real = d < HEAD_DIM
    q_at = ((row + query).to(tl.int64) * N_HEADS + head) * HEAD_DIM  # [M]
    q_tile = tl.load(q + q_at[:, None] + d[None, :], mask=mine[:, None] & real[None, :], other=0.0)  # [M, D]

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)  # running maximum of the scores
    total = tl.full([BLOCK_M], 0.0, tl.float32)  # sum of the weights 2^(score - top)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)  # weighted sum of the values
    for start in range(begin, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < end
        block = tl.load(line + BEFORE_TABLE + at // PAGE, mask=inside, other=0).to(tl.int64)
        kv_at = ((block * PAGE + at % PAGE) * N_KV_HEADS + kv_head) * HEAD_DIM  # [N]
        kv_mask = inside[:, None] & real[None, :]
        k_tile = tl.load(keys + kv_at[:, None] + d[None, :], mask=kv_mask, other=0.0)  # [N, D]
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale  # [M, N]
        visible = (at[None, :] <= position[:, None]) & inside[None, :]
        if WINDOW:
            visible = visible & (at[None, :] > position[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # nothing seen so far: weights of 0, not NaN
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(weights, axis=1)
        v_tile = tl.load(values + kv_at[:, None] + d[None, :], mask=kv_mask, other=0.0)
        acc = acc * shrink[:, None] + tl.dot(weights.to(v_tile.dtype), v_tile, input_precision="ieee")
        top = new_top

    if PARTIAL:
        n_parts = tl.num_programs(0) // n_tiles * n_rows
        part = (tl.program_id(2).to(tl.int64) * n_parts + sequence * n_rows + query) * N_HEADS + head  # [M]
        tl.store(out + part[:, None] * HEAD_DIM + d[None, :], acc, mask=mine[:, None] & real[None, :])
        tl.store(ends + part * 2, top, mask=mine)
        tl.store(ends + part * 2 + 1, total, mask=mine)
    else:
        acc = acc / tl.where(mine, total, 1.0)[:, None]
        tl.store(out + q_at[:, None] + d[None, :], acc, mask=mine[:, None] & real[None, :])


@triton.jit(do_not_specialize=["width", "n_rows"], do_not_specialize_on_alignment=["lines"])
def _join(
    out, parts, ends, lines, width, n_rows,
    N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, WINDOW: tl.constexpr, QUERIES: tl.constexpr,
    BLOCK_D: tl.constexpr, SPLIT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (sequence and query, head): the splits of its keys into one output. Short sequences only."""
    wait_turn(EARLY)
    sequence, query = tl.program_id(0) // n_rows, tl.program_id(0) % n_rows
    line = lines + sequence.to(tl.int64) * width
    row, count, length = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    if query >= count:
        return
    low, high = _seen(count, length, query // QUERIES * QUERIES, WINDOW, QUERIES)
    d = tl.arange(0, BLOCK_D)
    real = d < HEAD_DIM
    top = float("-inf")
    total = 0.0
    acc = tl.full([BLOCK_D], 0.0, tl.float32)
    for split in range((high + SPLIT - 1) // SPLIT - low // SPLIT):
        part = (tl.program_id(0).to(tl.int64) + split * tl.num_programs(0)) * N_HEADS + tl.program_id(1)
        its_top = tl.load(ends + part * 2)
        new_top = tl.maximum(top, its_top)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        shrink, weight = tl.exp2(top - base), tl.exp2(its_top - base)
        total = total * shrink + tl.load(ends + part * 2 + 1) * weight
        acc = acc * shrink + tl.load(parts + part * HEAD_DIM + d, mask=real, other=0.0) * weight
        top = new_top
    tl.store(out + ((row + query).to(tl.int64) * N_HEADS + tl.program_id(1)) * HEAD_DIM + d, acc / total, mask=real)
