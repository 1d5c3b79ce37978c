"""The layout of AutoAWQ's "gemm" version: `quant_method` awq. Always 4 bits.

    qweight  int32 [K, N / 8]      numbers from 0; an int32 holds eight neighbours in n, from the lowest nibble up
                                   n = 0, 2, 4, 6, 1, 3, 5, 7
    qzeros   int32 [G, N / 8]      zero points likewise
    scales   float16 [G, N]

    w[n, k] = scales[k // g, n] * (q[n, k] - z[k // g, n])

The order is that in which a GPU's instruction takes half of an int32 apart. There are no symmetric files: a zero
point of 8 everywhere is one, and is read as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.kernels.grid import pack, unpack
from danlu.model.quantized.layouts.packed import MIDDLE, Packed, check_shapes, group_of, tensors_of, turn
from danlu.model.quantized.scheme import Scheme
from danlu.model.weights import Stored, Weights

_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # what the nibbles of an int32 are, from the lowest
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # where to find the first, the second ...


def read(config: Mapping[str, Any], weights: Weights, part: str, columns: int) -> Packed:
    """The matrix `part`, [N, columns]. Raises UserError for another version, and for tensors that do not
    fit each other or config.json."""
    form = str(config.get("version") or config.get("format") or "gemm").lower()
    bits = config.get("bits", config.get("w_bit", 4))
    if form != "gemm" or bits != 4:
        raise UserError(f'the model is in the AWQ version "{form}" with {bits} bits', 'danlu reads "gemm" with 4')
    found = tensors_of(weights, part)
    weight, scales = found["qweight"], found["scales"]
    groups, rows = scales.shape
    check_shapes(found, part, {"qweight": (columns, rows // 8), "qzeros": (groups, rows // 8)})
    tensors = {
        "weight_packed": Stored(
            (8 * weight.shape[1], columns // 8), lambda: _across(_in_order(weight.read(), _PLACES))
        ),
        "weight_zero_point": turn(found["qzeros"], lambda tensor: _in_order(tensor, _PLACES)),
        "weight_scale": turn(scales),
    }
    used = tuple(f"{part}.{key}" for key in found)
    return Packed(4, group_of(config, columns, groups, part), tensors, used)


def write(scheme: Scheme, matrix: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A matrix of 4 bits by the names of scheme.py."""
    packed, scale, zero = matrix["weight_packed"], matrix["weight_scale"], matrix.get("weight_zero_point")
    zero = torch.full((packed.shape[0] // 8, scale.shape[1]), MIDDLE[4], dtype=torch.int32) if zero is None else zero
    return {
        "qweight": _in_order(_across(packed), _ORDER),
        "qzeros": _in_order(zero.t(), _ORDER),
        "scales": scale.t(),
    }


def config(group: int, symmetric: bool) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head"],
    }


def _in_order(packed: Tensor, order: list[int]) -> Tensor:
    """int32 [R, C], the nibbles of each in another order."""
    return pack(unpack(packed).unflatten(1, (-1, 8))[..., order].flatten(1))


def _across(packed: Tensor) -> Tensor:
    """int32 [A, B / 8], eight of a row together -> [B, A / 8], eight of a column together."""
    return pack(unpack(packed).t().contiguous())
