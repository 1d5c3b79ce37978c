"""Quantisation: weights into the bytes of GGUF's blocks, the way back of `blocks.py`, whose table has the layouts.

    quantize(weights, "Q4_K")         floats: scales are searched for (fit.py), and the outcome packed
    q8_0(d, q), q4_0(d, q), q4_1(d, m, q)    numbers that are quantised already: packed as they are

Float16 scales are rounded first and whole numbers chosen for the rounded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from danlu.model.gguf.blocks import BLOCK_TYPES, Bytes
from danlu.model.gguf.fit import TINY, affine, divided, importance, stored, symmetric

PIECE = 1 << 15
_LOW, _FOUR, _SIX = np.uint8(15), np.uint8(4), np.uint8(6)  # numpy's typing makes bytes and Python's ints integers


def quantize(weights: Tensor, type_name: str) -> Bytes:
    """Finite weights of any shape, a whole number of blocks -> uint8 `[n_blocks * size]`.

    Works on `PIECE` values at a time, which torch leaves to one thread, on two threads of its own: a machine that has
    other work would make torch's threads wait for each other at every single operation. KeyError: see `QUANTIZERS`.
    """
    block = BLOCK_TYPES[type_name].values
    pieces = weights.detach().reshape(-1, block).split(PIECE // block)

    def convert(piece: Tensor) -> Bytes:
        return np.ascontiguousarray(QUANTIZERS[type_name](piece.float())).reshape(-1)

    if len(pieces) < 2:
        return np.concatenate([convert(piece) for piece in pieces])
    with ThreadPoolExecutor(2) as pool:
        return np.concatenate(list(pool.map(convert, pieces)))


def q8_0(d: Tensor, q: Tensor) -> Bytes:
    """Scales `[n, 1]` and int8 `[n, 32]` -> `[n, 34]`."""
    return _join(_half(d), q.to(torch.int8).numpy().view(np.uint8))


def q4_0(d: Tensor, q: Tensor) -> Bytes:
    """Scales `[n, 1]` and whole numbers from -8 to 7 `[n, 32]` -> `[n, 18]`."""
    return _join(_half(d), _nibbles(_bytes(q + 8)))


def q4_1(d: Tensor, m: Tensor, q: Tensor) -> Bytes:
    """Scales and offsets `[n, 1]` and whole numbers from 0 to 15 `[n, 32]`, meaning d * q + m -> `[n, 20]`."""
    return _join(_half(d), _half(m), _nibbles(_bytes(q)))


# ---- from floats: x [n, values] -> bytes [n, size] ---------------------------------------------------------------


def _f32(x: Tensor) -> Bytes:
    return x.contiguous().numpy().view(np.uint8)


def _f16(x: Tensor) -> Bytes:
    return _half(x)


def _bf16(x: Tensor) -> Bytes:
    return x.bfloat16().view(torch.int16).numpy().view(np.uint8)


def _q8_0(x: Tensor) -> Bytes:
    d = stored(x.abs().amax(1, keepdim=True) / 127)
    return q8_0(d, divided(x, d, -127, 127))


def _q4_0(x: Tensor) -> Bytes:
    d = _symmetric(x, -8)
    return q4_0(d, divided(x, d, -8, 7))


def _q5_0(x: Tensor) -> Bytes:
    d = _symmetric(x, -16)
    q = _bytes(divided(x, d, -16, 15) + 16)
    return _join(_half(d), _fifth_bits(q), _nibbles(q & _LOW))


def _q4_1(x: Tensor) -> Bytes:
    d, m = _affine(x, 15)
    return q4_1(d, m, divided(x - m, d, 0, 15))


def _q5_1(x: Tensor) -> Bytes:
    d, m = _affine(x, 31)
    q = _bytes(divided(x - m, d, 0, 31))
    return _join(_half(d), _half(m), _fifth_bits(q), _nibbles(q & _LOW))


def _q4_k(x: Tensor) -> Bytes:
    head, q = _k_affine(x, 15)  # q [n, 8, 32]
    return _join(head, _nibbles(q.reshape(-1, 4, 64)).reshape(len(x), 128))


def _q5_k(x: Tensor) -> Bytes:
    head, q = _k_affine(x, 31)
    fifth = np.bitwise_or.reduce((q >> _FOUR) << np.arange(8, dtype=np.uint8)[:, None], axis=1)  # [n, 32]
    return _join(head, fifth, _nibbles((q & _LOW).reshape(-1, 4, 64)).reshape(len(x), 128))


def _q6_k(x: Tensor) -> Bytes:
    """Sixteen scales of 16 weights each, whole numbers from -128 to 127 times d."""
    parts = x.reshape(-1, 16)
    columns = parts.t().contiguous()
    scales = symmetric(columns, -32, columns.square() + TINY).view(-1, 16)  # [n, 16]
    top = scales.gather(1, scales.abs().argmax(1, keepdim=True))  # [n, 1], with its sign
    d = stored(top / -128)
    whole = divided(scales, d, -128, 127)
    q = _bytes(divided(parts, (d * whole).view(-1, 1), -32, 31) + 32).reshape(-1, 2, 4, 32)
    low = q[:, :, :2] & _LOW | (q[:, :, 2:] & _LOW) << _FOUR  # quarters 0 and 2 share bytes, and 1 and 3
    high = np.bitwise_or.reduce((q >> _FOUR) << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)  # [n, 2, 32]
    n = len(x)
    return _join(low.reshape(n, 128), high.reshape(n, 64), whole.to(torch.int8).numpy().view(np.uint8), _half(d))


QUANTIZERS: Mapping[str, Callable[[Tensor], Bytes]] = {
    "F32": _f32, "F16": _f16, "BF16": _bf16, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1,
    "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip


def _symmetric(x: Tensor, low: int) -> Tensor:
    columns = x.t().contiguous()
    return stored(symmetric(columns, low, importance(columns)))[:, None]


def _affine(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """d and m as they are stored: d * q + m."""
    columns = x.t().contiguous()
    d, m = affine(columns, top, importance(columns), positive=False)
    return stored(d)[:, None], stored(-m)[:, None]


def _k_affine(x: Tensor, top: int) -> tuple[Bytes, Bytes]:
    """The first 16 bytes of a Q4_K or Q5_K block and its whole numbers, uint8 `[n, 8, 32]`.

    Eight sub-blocks d * q - m; d and m become whole numbers up to 63 times a float each, which are then fitted again.
    """
    parts = x.reshape(-1, 8, 32)
    columns = x.reshape(-1, 32).t().contiguous()
    weights = importance(columns)
    scale, offset = (each.view(-1, 8) for each in affine(columns, top, weights, positive=True))
    d, m = (stored(each.amax(1, keepdim=True) / 63) for each in (scale, offset))  # [n, 1]
    scales, offsets = divided(scale, d, 0, 63), divided(offset, m, 0, 63)  # [n, 8]
    weights = weights.t().reshape(-1, 8, 32)
    best_error = torch.full_like(d, torch.inf)
    best_d, best_m, best_q = d, m, torch.zeros_like(parts)
    for _ in range(3):
        step, shift = (d * scales)[..., None], (m * offsets)[..., None]
        q = divided(parts + shift, step, 0, top)
        error = (weights * (step * q - shift - parts).square()).sum((1, 2)).unsqueeze(1)  # [n, 1]
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_d, best_m = torch.where(better, d, best_d), torch.where(better, m, best_m)
        best_q = torch.where(better[..., None], q, best_q)
        d, m = _refitted(parts, weights, scales[..., None] * q, offsets[..., None], d, m)
    return _join(_half(best_d), _half(best_m), _six_bits(_bytes(scales), _bytes(offsets))), _bytes(best_q)


def _refitted(x: Tensor, w: Tensor, a: Tensor, b: Tensor, d: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """The floats d and m `[n, 1]` of x ~ d a - m b that are best for whole blocks; the old ones where none are."""
    sums = [(w * left * right).sum((1, 2)).unsqueeze(1) for left, right in ((a, a), (a, b), (b, b), (x, a), (x, b))]
    aa, ab, bb, xa, xb = sums
    determinant = aa * bb - ab * ab
    sound = determinant > 1e-6 * aa * bb
    inverse = torch.where(sound, 1 / torch.where(sound, determinant, 1), 0)
    new_d, new_m = (xa * bb - xb * ab) * inverse, (xa * ab - xb * aa) * inverse
    sound &= (new_d > 0) & (new_m >= 0)
    return torch.where(sound, stored(new_d), d), torch.where(sound, stored(new_m), m)


# ---- bytes ------------------------------------------------------------------------------------------------------


def _join(*parts: Bytes) -> Bytes:
    return np.concatenate(parts, axis=1)


def _half(numbers: Tensor) -> Bytes:
    return numbers.half().contiguous().numpy().view(np.uint8)


def _bytes(q: Tensor) -> Bytes:
    return q.to(torch.uint8).numpy()


def _nibbles(q: Bytes) -> Bytes:
    """`[..., 2 k]` -> `[..., k]`: the first half into the low nibbles."""
    half = q.shape[-1] // 2
    return q[..., :half] | q[..., half:] << _FOUR


def _fifth_bits(q: Bytes) -> Bytes:
    return np.packbits(q >> _FOUR, axis=-1, bitorder="little")


def _six_bits(scales: Bytes, offsets: Bytes) -> Bytes:
    """Eight and eight numbers up to 63 in twelve bytes; blocks.py has the picture."""
    s, m = (np.split(each, 2, axis=1) for each in (scales, offsets))
    return _join(s[0] | (s[1] >> _FOUR) << _SIX, m[0] | (m[1] >> _FOUR) << _SIX, s[1] & _LOW | (m[1] & _LOW) << _FOUR)
