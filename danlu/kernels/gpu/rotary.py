"""Everything between the projection and attention, in one pass over its output.

    qkv [T, H + 2 Hkv, hd]     q heads | k heads | v heads     one program = all heads of one kind of one token
            |
      q, k: RMSNorm over hd (where the model has it), then turned by the angle of the token's position (rope.py)
            |
      q  -> [T, H, hd] for attention
      k, v -> row slots[t] of the cache [n_slots, Hkv, hd]; nowhere where slots[t] is negative, a row of padding

In plain torch this is a dozen kernels and as many round trips of q and k through memory. Everything is float32 from
the first read to the last write.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu import MAX_HEAD_DIM
from danlu.kernels.gpu.checks import FLOATS, check, same_device
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn

Norms = tuple[Tensor, Tensor, float]  # weights of query and key norm, [hd] each, and eps
Tables = tuple[Tensor, Tensor]  # cos and sin, float32 [T, hd / 2]


def rotate_and_store_reference(
    qkv: Tensor, key_slots: Tensor, value_slots: Tensor, slots: Tensor, rotary: Tables | None, norms: Norms | None
) -> Tensor:
    n_kv_heads, head_dim = key_slots.shape[1:]
    n_heads = qkv.shape[1] - 2 * n_kv_heads
    q, k, v = qkv.float().split((n_heads, n_kv_heads, n_kv_heads), dim=1)
    if norms is not None:
        q = F.rms_norm(q, (head_dim,), norms[0].float(), norms[2])
        k = F.rms_norm(k, (head_dim,), norms[1].float(), norms[2])
    if rotary is not None:
        q, k = _turned(q, *rotary), _turned(k, *rotary)
    kept = slots >= 0
    key_slots[slots[kept].long()] = k[kept].to(key_slots.dtype)
    value_slots[slots[kept].long()] = v[kept].to(value_slots.dtype)
    return q.to(qkv.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotate_and_store(
    qkv: Tensor, key_slots: Tensor, value_slots: Tensor, slots: Tensor, rotary: Tables | None, norms: Norms | None
) -> Tensor:
    """qkv [T, H + 2 Hkv, hd] -> q [T, H, hd]; writes keys and values to rows `slots` [T] of the cache's slots.

    key_slots and value_slots [n_slots, Hkv, hd] may have another dtype than qkv. `slots` are trusted to be inside.
    """
    n_slots, n_kv_heads, head_dim = key_slots.shape
    n_tokens, n_heads = qkv.shape[0], qkv.shape[1] - 2 * n_kv_heads
    check("qkv", qkv, (n_tokens, None, head_dim))
    check("key_slots", key_slots, (n_slots, n_kv_heads, head_dim))
    check("value_slots", value_slots, (n_slots, n_kv_heads, head_dim), (key_slots.dtype,))
    check("slots", slots, (n_tokens,), (torch.int64, torch.int32))
    if n_heads < 1 or head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise ValueError(
            f"qkv has {n_heads} query heads of {head_dim}; at least one is needed, even and at most {MAX_HEAD_DIM} wide"
        )
    cos = sin = q_norm = k_norm = qkv  # stand-ins that the kernel does not read
    eps = 0.0
    if rotary is not None:
        cos, sin = rotary
        check("cos", cos, (n_tokens, head_dim // 2), (torch.float32,))
        check("sin", sin, (n_tokens, head_dim // 2), (torch.float32,))
    if norms is not None:
        q_norm, k_norm, eps = norms
        check("q_norm", q_norm, (head_dim,), FLOATS)
        check("k_norm", k_norm, (head_dim,), FLOATS)
    same_device(
        qkv, key_slots=key_slots, value_slots=value_slots, slots=slots, cos=cos, sin=sin, q_norm=q_norm, k_norm=k_norm
    )
    q = torch.empty(n_tokens, n_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if n_tokens:
        with on(qkv):
            _rotate_and_store[n_tokens, 3](
                qkv, key_slots, value_slots, slots, cos, sin, q_norm, k_norm, q, eps,
                N_HEADS=n_heads, N_KV_HEADS=n_kv_heads, HALF=head_dim // 2,
                BLOCK_H=power_of_two(max(n_heads, n_kv_heads)), BLOCK_I=power_of_two(head_dim // 2),
                ROTARY=rotary is not None, NORM=norms is not None, **early(qkv),
            )  # fmt: skip
    return q


@triton.jit(do_not_specialize_on_alignment=["slots"])
def _rotate_and_store(
    qkv, key_slots, value_slots, slots, cos, sin, q_norm, k_norm, q, eps,
    N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_I: tl.constexpr,
    ROTARY: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (token, kind): the queries (0), the keys (1) or the values (2) of a token."""
    wait_turn(EARLY)
    token, kind = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n_heads = tl.where(kind == 0, N_HEADS, N_KV_HEADS)
    before = tl.where(kind == 0, 0, N_HEADS + (kind - 1) * N_KV_HEADS)  # heads of other kinds in the row
    h, i = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_I)
    half = i < HALF
    inside = (h < n_heads) & half[None, :]
    at = h * (2 * HALF) + i[None, :]  # [H, hd / 2] of this kind's heads
    source = qkv + (token * (N_HEADS + 2 * N_KV_HEADS) + before) * (2 * HALF) + at
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    if kind < 2:
        if NORM:
            squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)  # [H]
            scale = tl.rsqrt(squares / (2 * HALF) + eps)[:, None]
            weight = q_norm if kind == 0 else k_norm
            first = first * scale * tl.load(weight + i, mask=half, other=0.0).to(tl.float32)[None, :]
            second = second * scale * tl.load(weight + HALF + i, mask=half, other=0.0).to(tl.float32)[None, :]
        if ROTARY:
            c = tl.load(cos + token * HALF + i, mask=half, other=0.0)[None, :]
            s = tl.load(sin + token * HALF + i, mask=half, other=0.0)[None, :]
            first, second = first * c - second * s, second * c + first * s
    if kind == 0:
        to = q + token * (N_HEADS * 2 * HALF) + at
        tl.store(to, first, mask=inside)
        tl.store(to + HALF, second, mask=inside)
    else:
        cache = key_slots if kind == 1 else value_slots
        slot = tl.load(slots + token).to(tl.int64)
        to = cache + slot * (N_KV_HEADS * 2 * HALF) + at
        tl.store(to, first, mask=inside & (slot >= 0))
        tl.store(to + HALF, second, mask=inside & (slot >= 0))
