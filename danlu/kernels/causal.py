"""Attention of a training step: its two halves between the product that makes q, k, v and the one that reads o.

    norm_and_rotate    a norm of each head and its turn by the angle of its position (cpu/heads.h)
    causal_attention   softmax(q k^T scale) v over what is before, tile by tile, forward and backward (cpu/causal.h)

torch's own attention on a CPU took a third of a training step of the smallest preset: its tiles are made for long rows.
Both functions return None where the library cannot compute them (kernels/call.py); the reference is the same formula
in torch, in model/attention.py.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from danlu.kernels.call import DTYPES, compiled, kernels, pointer

HEAD_DIMS = 16  # their width is a multiple of this: whole vectors


def norm_and_rotate(
    qkv: Tensor,
    heads: tuple[int, int, int],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
    rotary: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """qkv [B, T, H + 2 Hkv, hd] -> q [B, T, H, hd], k and v [B, T, Hkv, hd].

    weights: of the norms of q and k, [hd] float32, None without norms; rotary: cos and sin, float32
    [T, 1, hd / 2] or [B, T, 1, hd / 2], None without rotary positions.
    """
    tables = () if rotary is None else rotary
    vectors = (*(weights or ()), *tables)
    if qkv.shape[-1] % 2 or not compiled(qkv, *vectors) or any(v.dtype != torch.float32 for v in vectors):
        return None
    q_weight, k_weight = weights or (None, None)
    cos, sin = (t.contiguous() for t in tables) if tables else (None, None)
    return _NormAndRotate.apply(qkv, q_weight, k_weight, cos, sin, heads, eps)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, segments: Tensor | None = None) -> Tensor | None:
    """q [B, T, H, hd], k and v [B, T, Hkv, hd] -> [B, T, H, hd]; each token sees itself and what is before it.

    segments [B, T] int64: only tokens of the same number in the same row see each other.
    """
    same = q.dtype == k.dtype == v.dtype
    if q.shape[-1] % HEAD_DIMS or not same or not compiled(q, k, v):
        return None
    if segments is not None and segments.dtype != torch.int64:
        segments = segments.long()
    return _CausalAttention.apply(q, k, v, scale, segments)


class _Heads(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("tokens", "heads", "kv_heads", "head_dim", "tables")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("q_weight", "k_weight", "cos", "sin")),
    ]


class _NormAndRotate(torch.autograd.Function):
    """One pass each way. The norm's own root is computed again on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: tuple[int, int, int],
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv = qkv.contiguous()
        tokens = qkv.shape[0] * qkv.shape[1]
        tables = 1 if cos is None else cos.numel() // cos.shape[-1]
        ctx.shape = _Heads(
            tokens, *heads[:2], qkv.shape[-1], tables, eps, *(pointer(t) for t in (q_weight, k_weight, cos, sin))
        )
        ctx.save_for_backward(qkv, q_weight, k_weight, cos, sin)
        y = torch.empty_like(qkv)
        kernels().danlu_norm_and_rotate(
            torch.get_num_threads(), ctypes.byref(ctx.shape), DTYPES[qkv.dtype], pointer(qkv), pointer(y)
        )
        return y.split(heads, dim=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_weight = ctx.saved_tensors[:2]
        q, k, v = (_by_token(g) for g in gradients)
        strides = (ctypes.c_int64 * 3)(*(g.stride(1) for g in (q, k, v)))
        d_qkv, d_weights = torch.empty_like(qkv), torch.empty(2, qkv.shape[-1])
        kernels().danlu_norm_and_rotate_backward(
            torch.get_num_threads(), ctypes.byref(ctx.shape), DTYPES[qkv.dtype], pointer(q), pointer(k), pointer(v),
            strides, pointer(qkv), pointer(d_qkv), pointer(d_weights),
        )  # fmt: skip
        d_q, d_k = (None, None) if q_weight is None else d_weights.unbind()
        return d_qkv, d_q, d_k, None, None, None, None


class _Causal(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("batch", "length", "heads", "kv_heads", "head_dim")),
        ("scale", ctypes.c_float),
        ("segments", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("q_stride", "k_stride", "v_stride")),
    ]


class _CausalAttention(torch.autograd.Function):
    """Keeps its inputs, its output and one number a query, from which the way back makes the probabilities again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, segments: Tensor | None) -> Tensor:
        q, k, v = (_by_token(t) for t in (q, k, v))
        segments = None if segments is None else segments.contiguous()
        batch, length, heads, head_dim = q.shape
        ctx.shape = _Causal(
            batch, length, heads, k.shape[2], head_dim, scale, pointer(segments), *(t.stride(1) for t in (q, k, v))
        )
        out, log_sums = torch.empty(q.shape, dtype=q.dtype), torch.empty(batch, heads, length)
        kernels().danlu_causal_attention(
            torch.get_num_threads(), ctypes.byref(ctx.shape), DTYPES[q.dtype], pointer(q), pointer(k), pointer(v),
            pointer(out), pointer(log_sums),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, log_sums, segments)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sums, _ = ctx.saved_tensors
        heads = q.shape[2], k.shape[2], k.shape[2]
        together = torch.empty(*q.shape[:2], sum(heads), q.shape[3], dtype=q.dtype)  # [B, T, H + 2 Hkv, hd]
        d_q, d_k, d_v = together.split(heads, dim=2)
        gradient = gradient.contiguous()
        kernels().danlu_causal_attention_backward(
            torch.get_num_threads(), ctypes.byref(ctx.shape), DTYPES[q.dtype], pointer(q), pointer(k), pointer(v),
            pointer(out), pointer(log_sums), pointer(gradient), pointer(d_q), pointer(d_k), pointer(d_v),
            together.stride(1),
        )  # fmt: skip
        return d_q, d_k, d_v, None, None


def _by_token(x: Tensor) -> Tensor:
    """x [B, T, heads, hd] as the kernels read it: heads side by side, tokens at one distance throughout the batch."""
    batch_stride, token_stride, head_stride, last = x.stride()
    fits = last == 1 and head_stride == x.shape[3] and batch_stride == x.shape[1] * token_stride
    return x if fits else x.contiguous()
