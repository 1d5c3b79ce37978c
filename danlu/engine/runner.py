"""A step through the model on torch: a flat batch (batch.py), attention through the block tables.

`PagedContext.attend` writes the new keys and values to their slots (block * block_size + offset), then splits the rows
into parts:

    decode      S sequences of similar length, one query each. The heads of a group share a KV head, so they are laid
                side by side as if they were queries of it (q [S, Hkv, G, hd]): keys and values are read once a group.
    chunk       one sequence, n queries, causal.

Both read K and V as [S, L, Hkv, hd] and go through torch's fused attention. What is read is a view of the cache when
the blocks lie in a row (the usual case for one stream), else a gather of whole blocks. A sliding window reads only
the blocks it can see. All indices and masks are made once a step and window, not once a layer.

The head (a matrix of the vocabulary's height) runs only for rows whose logits are wanted.

On a GPU fused kernels take the same batch through the same model (fused.py).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.engine.batch import Batch, Logits, Span
from danlu.engine.fused import FusedForward
from danlu.engine.kv_cache import KVCache
from danlu.engine.lora import AdapterHooks, Plan, Weights, weights_of

if TYPE_CHECKING:
    from danlu.engine.adapters import LoadedAdapter
    from danlu.model.adapter import Adapter
    from danlu.model.transformer import Transformer


class Runner:
    """Runs steps of a model over a cache: on a GPU through the fused kernels, else on torch's operators.

    `alone`: the model is whole, and its pass waits for no other process.
    """

    def __init__(self, model: Transformer, cache: KVCache, device: torch.device, alone: bool = True) -> None:
        self.model, self.cache, self.device = model, cache, device
        self._fused = FusedForward(model, cache, device, alone) if FusedForward.fits(model, device) else None
        self._no_hidden = torch.empty(0, model.config.hidden_size, device=device)
        self._adapters: WeakKeyDictionary[LoadedAdapter, Weights] = WeakKeyDictionary()
        self._hooks: AdapterHooks | None = None  # with the first adapter

    def add_adapter(self, loaded: LoadedAdapter, adapter: Adapter) -> None:
        """Lay out an adapter for the spans that will name `loaded`."""
        self._hooks = self._hooks or AdapterHooks(self.model)
        self._adapters[loaded] = weights_of(adapter, self.cache.shape.dtype, self.device)

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[Logits, Tensor]:
        """Fills the cache; logits of `batch.rows` and hidden states [H, D] of `batch.hidden_rows`."""
        if self._fused is not None and (logits := self._fused.decode(batch)) is not None:
            return logits, self._no_hidden
        with self._hooks.applied(self._plan(batch)) if self._hooks else nullcontext():
            hidden = self._fused.hidden(batch) if self._fused is not None else self._hidden(batch)  # [T, D]
        return Logits.of(self.model.head(_pick(hidden, batch.rows))), _pick(hidden, batch.hidden_rows)

    def _hidden(self, batch: Batch) -> Tensor:
        context = PagedContext(self.cache, batch, self.device)
        ids, positions = (torch.tensor([row], device=self.device) for row in (batch.ids, batch.positions))
        return self.model.hidden(ids, positions, context)[0]

    def _plan(self, batch: Batch) -> Plan:
        """The rows of each adapter in the batch."""
        rows: dict[LoadedAdapter, list[int]] = {}
        for span in batch.spans:
            if span.adapter is not None:
                rows.setdefault(span.adapter, []).extend(range(span.row, span.row + span.n))
        return [(torch.tensor(own, device=self.device), self._adapters[loaded]) for loaded, own in rows.items()]


@dataclass(frozen=True)
class _Part:
    """One attention call: rows `row .. row + n_rows` of the batch.

    What is read: slots `low .. high` of the cache in place when `blocks` is None; else tokens `low .. high` of the
    gathered `blocks`, those of all sequences one behind the other.
    """

    row: int
    n_rows: int
    n_sequences: int
    blocks: Tensor | None
    low: int
    high: int
    mask: Tensor | None  # added to the scores; broadcasts to [S, heads, queries, high - low]
    causal: bool


class PagedContext:
    """The engine's answer to "who may look at whom": the context that the model's attention asks (attention.py)."""

    def __init__(self, cache: KVCache, batch: Batch, device: torch.device) -> None:
        self.cache, self.spans, self.device = cache, batch.spans, device
        self._slots = torch.tensor(batch.slots(cache.block_size), device=device)  # [T]
        self._parts: dict[int | None, list[_Part]] = {}  # by window

    def attend(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
        """q [1, T, H, hd], k and v [1, T, Hkv, hd] -> [1, T, H, hd]. Writes k and v to the cache."""
        cache, dtype = self.cache, self.cache.shape.dtype
        cache.key_slots[layer_index].index_copy_(0, self._slots, k[0].to(dtype))
        cache.value_slots[layer_index].index_copy_(0, self._slots, v[0].to(dtype))
        parts = self._parts.get(window)
        if parts is None:
            parts = self._parts[window] = self._plan(window)
        queries = q[0].to(dtype)
        if len(parts) == 1:
            return self._attend(parts[0], queries, layer_index, scale)[None].to(q.dtype)
        pieces = [self._attend(p, queries[p.row : p.row + p.n_rows], layer_index, scale) for p in parts]
        return torch.cat(pieces)[None].to(q.dtype)

    def _attend(self, part: _Part, q: Tensor, layer: int, scale: float) -> Tensor:
        """q [rows, H, hd] over what `part` reads -> [rows, H, hd]."""
        k = _read(part, self.cache.keys[layer], self.cache.key_slots[layer])  # [S, Hkv, L, hd]
        v = _read(part, self.cache.values[layer], self.cache.value_slots[layer])
        n_rows, n_heads, head_dim = q.shape
        n_kv_heads = k.shape[1]
        if n_rows == part.n_sequences:  # one query each: fold the group into the queries
            grouped = q.reshape(n_rows, n_kv_heads, n_heads // n_kv_heads, head_dim)
            out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=part.mask, scale=scale)
            return out.reshape(n_rows, n_heads, head_dim)
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],  # [1, H, n, hd]
            k,
            v,
            attn_mask=part.mask,
            is_causal=part.causal,
            scale=scale,
            enable_gqa=n_heads != n_kv_heads,
        )
        return out[0].transpose(0, 1)  # [n, H, hd]

    def _plan(self, window: int | None) -> list[_Part]:
        parts: list[_Part] = []
        group: list[Span] = []
        for span in self.spans:
            if span.n == 1 and (not group or _similar(group[0].length, span.length, window, self.cache.block_size)):
                group.append(span)
                continue
            if group:
                parts.append(self._decode(group, window))
            group = [span] if span.n == 1 else []
            if span.n > 1:
                parts.append(self._chunk(span, window))
        if group:
            parts.append(self._decode(group, window))
        return parts

    def _decode(self, group: list[Span], window: int | None) -> _Part:
        """One query each. Padding to the longest is masked; a lone sequence is read exactly and needs no mask."""
        size = self.cache.block_size
        tables, bounds = [], []  # per sequence: the blocks seen, and [first, end) seen in them
        for span in group:
            first = max(0, span.length - window) if window else 0
            skip = first // size
            tables.append(span.table[skip : self.cache.blocks_for(span.length)])
            bounds.append((first - skip * size, span.length - skip * size))
        row, n = group[0].row, len(group)
        if n == 1:
            return _Part(row, 1, 1, *self._source(tables[0], *bounds[0]), None, False)
        width = max(len(table) for table in tables)
        padded = [block for table in tables for block in table + [table[-1]] * (width - len(table))]
        high = max(end for _, end in bounds)
        at = torch.arange(high, device=self.device)
        limits = torch.tensor(bounds, device=self.device)  # [S, 2]
        hidden = (at < limits[:, :1]) | (at >= limits[:, 1:])  # [S, L]
        mask = self._additive(hidden)[:, None, None, :] if bool(hidden.any()) else None
        return _Part(row, n, n, torch.tensor(padded, device=self.device), 0, high, mask, False)

    def _chunk(self, span: Span, window: int | None) -> _Part:
        """n queries of one sequence; the first may see tokens from before the chunk."""
        start = span.length - span.n
        first = max(0, start - window + 1) if window else 0
        skip = first // self.cache.block_size
        behind = skip * self.cache.block_size
        table = span.table[skip : self.cache.blocks_for(span.length)]
        source = self._source(table, first - behind, span.length - behind)
        if start == 0 and (window is None or span.length <= window):
            return _Part(span.row, span.n, 1, *source, None, True)
        query = torch.arange(start, span.length, device=self.device)[:, None]
        key = torch.arange(first, span.length, device=self.device)
        hidden = key > query  # [n, L]
        if window:
            hidden |= key <= query - window
        return _Part(span.row, span.n, 1, *source, self._additive(hidden), False)

    def _source(self, table: list[int], low: int, high: int) -> tuple[Tensor | None, int, int]:
        """Where tokens `low .. high` of the blocks in `table` are read: (blocks, low, high) of a `_Part`."""
        if self.cache.contiguous(table):
            begin = table[0] * self.cache.block_size
            return None, begin + low, begin + high
        return torch.tensor(table, device=self.device), low, high

    def _additive(self, hidden: Tensor) -> Tensor:
        """Boolean to 0 / -inf: the fused kernel would otherwise convert it in every layer."""
        zeros = torch.zeros(hidden.shape, dtype=self.cache.shape.dtype, device=self.device)
        return zeros.masked_fill_(hidden, -torch.inf)


def _pick(hidden: Tensor, rows: list[int]) -> Tensor:
    """Some rows of hidden [T, D], in order."""
    if not rows or len(rows) == len(hidden):
        return hidden[: len(rows)]
    return hidden[torch.tensor(rows, device=hidden.device)]


def _similar(shortest: int, length: int, window: int | None, block_size: int) -> bool:
    """Whether padding both to one length wastes little: at most a half, or four blocks. Not tuned."""
    if window:
        shortest, length = min(shortest, window), min(length, window)
    return length <= max(shortest + shortest // 2, shortest + 4 * block_size)


def _read(part: _Part, blocks: Tensor, slots: Tensor) -> Tensor:
    """Keys or values of a part, [S, Hkv, L, hd], from [n_blocks, block_size, Hkv, hd], alias [n_slots, Hkv, hd]."""
    if part.blocks is None:
        return slots[part.low : part.high].transpose(0, 1)[None]
    gathered = blocks.index_select(0, part.blocks)  # [S * blocks, block_size, Hkv, hd]
    tokens = gathered.view(part.n_sequences, -1, *slots.shape[1:])  # [S, blocks * block_size, Hkv, hd]
    return tokens[:, part.low : part.high].transpose(1, 2)
