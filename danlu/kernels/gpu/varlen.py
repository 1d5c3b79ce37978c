"""Chunks of a prompt through torch's own attention for sequences of different lengths (torch.nn.attention.varlen).

It is FlashAttention, tuned for each generation of GPUs, where ours is one Triton kernel with guessed tiles. It takes
the rows of all sequences one behind the other, and where each begins:

    q [T, H, hd], begins 0 | 20 | 50          rows of two sequences, 20 and 30
    k [L, Hkv, hd], begins 0 | 20 | 130       their keys; the last row of a sequence sees its last key

Keys come out of the cache first: its pages are of 16 tokens, and FlashAttention 2 wants pages of 256. That is a copy
of L rows a layer, beside T L products. Of a sliding window only what the chunk can see is copied.

Splitting keys among programs is refused (`num_splits`), so that a row keeps its bits whatever else is in the batch.
What the kernel promises about a prompt that is cut into other chunks is not known; ours promises equal bits.

Used for bfloat16 and float16 on CUDA where torch has it and a first launch gives the numbers of the reference; on the
GPU that the rest was run on, with torch 2.11, it was not. `DANLU_VARLEN=off` goes back to our own.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danlu.kernels.gpu.batch import HEADER, PagedBatch

NEEDED = {"scale", "window_size", "enable_gqa"}  # younger than the function itself

log = logging.getLogger("danlu")


class Layout(NamedTuple):
    """Where the rows and keys of the long sequences are, for layers of one window. Made once a step."""

    rows: Tensor | slice  # of q
    q_begins: Tensor  # int32 [S + 1]
    slots: Tensor  # [L], of the cache
    k_begins: Tensor  # int32 [S + 1]
    most_rows: int
    most_keys: int


def enabled(q: Tensor) -> bool:
    """Whether chunks of a prompt with such queries [T, H, hd] go this way."""
    head_dim = q.shape[2]
    return _device_takes(q.device.type, q.dtype) and head_dim % 8 == 0 and _works(q.device, q.dtype, head_dim)


def attend_long(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scale: float, window: int | None
) -> None:
    """Fill the rows of `out` that belong to long sequences; all else as in attention.py."""
    if window not in batch.layouts:
        batch.layouts[window] = layout(batch, keys.shape[1], window)
    at: Layout = batch.layouts[window]
    k, v = (x.flatten(0, 1).index_select(0, at.slots) for x in (keys, values))  # [L, Hkv, hd]
    function = torch_function()
    assert function is not None
    options = {"num_splits": 1} if "num_splits" in inspect.signature(function).parameters else {}
    out[at.rows] = function(
        q[at.rows], k, v, at.q_begins, at.k_begins, at.most_rows, at.most_keys, scale=scale,
        window_size=(window - 1 if window else -1, 0), enable_gqa=q.shape[1] != k.shape[1], **options,
    )  # fmt: skip


def layout(batch: PagedBatch, page: int, window: int | None) -> Layout:
    """Where the long sequences lie in q and in a cache of pages of so many tokens."""
    first_long = batch.n_short
    lines = batch.lines[first_long:]
    firsts, counts, lengths = (x[first_long:] for x in (batch.firsts, batch.counts, batch.lengths))
    lows = [max(0, n - count + 1 - window) if window else 0 for n, count in zip(lengths, counts, strict=True)]
    device = lines.device
    slots = []
    for line, low, length in zip(lines, lows, lengths, strict=True):
        at = torch.arange(low, length, device=device)
        slots.append(line[HEADER + at // page].long() * page + at % page)
    spans = list(zip(firsts, counts, strict=True))
    rows: Tensor | slice = slice(firsts[0], firsts[-1] + counts[-1])
    if any(first + n != then for (first, n), (then, _) in itertools.pairwise(spans)):
        rows = torch.tensor([row for first, n in spans for row in range(first, first + n)], device=device)
    n_keys = [length - low for length, low in zip(lengths, lows, strict=True)]
    return Layout(rows, _begins(counts, device), torch.cat(slots), _begins(n_keys, device), max(counts), max(n_keys))


@functools.cache
def torch_function() -> Callable[..., Any] | None:
    """torch's function, if it takes what is needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if set(inspect.signature(varlen_attn).parameters) >= NEEDED else None


def _device_takes(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == "cuda" and dtype in (torch.bfloat16, torch.float16)


@functools.cache
def _works(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Launches and compares once, like every probe of danlu; says in one line why not."""
    if os.environ.get("DANLU_VARLEN", "").lower() in ("off", "0", "no") or torch_function() is None:
        return False
    from danlu.kernels.gpu.attention import paged_attention_reference

    generator = torch.Generator().manual_seed(0)
    q, keys, values = (
        torch.randn(shape, generator=generator).to(device, dtype)
        for shape in ((37, 4, head_dim), (4, 16, 2, head_dim), (4, 16, 2, head_dim))
    )
    batch = PagedBatch.of([(0, 17, 41, [3, 0, 2]), (17, 20, 20, [1, 0])], device)
    try:
        for window in (None, 7):
            wanted, got = (torch.zeros_like(q) for _ in range(2))
            wanted = paged_attention_reference(q, keys, values, batch, head_dim**-0.5, window)
            attend_long(got, q, keys, values, batch, head_dim**-0.5, window)
            if not torch.allclose(got.float(), wanted.float(), atol=2e-2, rtol=2e-2):
                raise RuntimeError("a first launch gave wrong numbers")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        log.warning("torch's varlen_attn is not used for heads of %d (%s); our own kernel is", head_dim, reason)
        return False
    return True


def _begins(sizes: Any, device: torch.device) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32, device=device)
