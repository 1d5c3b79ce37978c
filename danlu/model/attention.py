"""Attention, and the contexts that say who may look at whom.

    q = x Wq, k = x Wk, v = x Wv        heads of width hd: q has H of them, k and v have Hkv
    o[h] = softmax(q[h] k[h // (H / Hkv)]^T * scale + mask) v[...]        scale = 1 / sqrt(hd)
    out = concat(o) Wo                  arXiv:1706.03762, eq. 1; grouped heads arXiv:2305.13245

The layer computes q, k and v; what they are compared with is not its business. It hands them to a *context*:

    context.attend(layer_index, q, k, v, window, scale) -> o
        q [B, T, H, hd], k and v [B, T, Hkv, hd] (rotary positions already applied) -> o [B, T, H, hd]
        window: None, or how many tokens back (itself included) this layer may see

and so one model definition serves training (`CausalContext`), packed samples (`SegmentContext`) and the engine, whose
context writes k and v into a paged cache and attends over all of it.

A context lives for one forward pass: it may keep masks for that pass, all layers share them.

Query, key and value are one matrix `qkv` [(H + 2 Hkv) hd, D], so that the input is read once.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.kernels.causal import causal_attention, norm_and_rotate
from danlu.model.config import ModelConfig
from danlu.model.layers import Linear, RMSNorm
from danlu.model.rope import rotate


class Context(Protocol):
    """What a forward pass attends over; see the head of this file for shapes."""

    def attend(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor: ...


class CausalContext:
    """Every row of the batch is one sequence; a token sees itself and all before it (within the window)."""

    def __init__(self) -> None:
        self._masks: dict[int, Tensor] = {}  # window -> [T, T], True = may look

    def attend(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
        length = q.shape[1]
        if window is None or window >= length:
            compiled = causal_attention(q, k, v, scale)
            return sdpa(q, k, v, None, scale) if compiled is None else compiled
        if window not in self._masks:
            self._masks[window] = causal_mask(length, window, q.device)
        return sdpa(q, k, v, self._masks[window], scale)


class SegmentContext:
    """Several samples packed in one row: a token sees only what is before it *and in its own segment*.

    segment_ids [B, T] integers; equal numbers in one row are one segment. The caller passes positions that restart
    with every segment. Padding is a segment of its own.
    """

    def __init__(self, segment_ids: Tensor) -> None:
        self.segment_ids = segment_ids
        self._masks: dict[int | None, Tensor] = {}  # window -> [B, 1, T, T]

    def attend(self, layer_index: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float) -> Tensor:
        if window is None or window >= q.shape[1]:
            compiled = causal_attention(q, k, v, scale, self.segment_ids)
            if compiled is not None:
                return compiled
        if window not in self._masks:
            same = self.segment_ids[:, :, None] == self.segment_ids[:, None, :]  # [B, T, T]
            self._masks[window] = (same & causal_mask(q.shape[1], window, q.device))[:, None]
        return sdpa(q, k, v, self._masks[window], scale)


def causal_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """[T, T], True where row (the query) may look at column (the key): 0 <= row - column < window."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's attention on [B, T, heads, hd] layouts; mask None means causal.

    The transposes are views, and the fused kernels return memory in [B, T, H, hd] order, so nothing is copied.
    Grouped heads go in as they are: on the CPU that was as fast as repeating k and v first, and needs less memory.
    """
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


class Attention(nn.Module):
    """One attention layer: x [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ModelConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        self.head_dim = config.head_dim
        self.window = config.window(layer_index)
        self.scale = config.head_dim**-0.5
        self.qkv = Linear(config.hidden_size, sum(config.qkv_sizes), bias=config.qkv_bias)
        self.out = Linear(config.n_heads * config.head_dim, config.hidden_size, bias=config.output_bias)
        self.eps = config.norm_eps
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, context: Context) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, sum(self.heads), self.head_dim)  # [B, T, H + 2 Hkv, hd]
        q, k, v = self.positioned(qkv, rotary)
        o = context.attend(self.layer_index, q, k, v, self.window, self.scale)  # [B, T, H, hd]
        return self.out(o.reshape(batch, length, -1))

    def positioned(self, qkv: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [B, T, H + 2 Hkv, hd] -> q, k (their norms and rotary positions applied) and v."""
        weights = None
        if self.q_norm is not None and self.k_norm is not None:
            weights = self.q_norm.weight, self.k_norm.weight
        if weights is not None or rotary is not None:
            compiled = norm_and_rotate(qkv, self.heads, weights, self.eps, rotary)
            if compiled is not None:
                return compiled
        q, k, v = qkv.split(self.heads, dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
            if rotary is not None:
                q, k = rotate(q, *rotary), rotate(k, *rotary)
        elif rotary is not None:  # neighbours in memory, so one turn serves both
            q, k = rotate(qkv[:, :, : -self.heads[2]], *rotary).split(self.heads[:2], dim=2)
        return q, k, v
