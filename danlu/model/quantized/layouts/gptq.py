"""The layout of GPTQModel and AutoGPTQ: `quant_method` gptq.

    qweight  int32 [K * bits / 32, N]     numbers from 0, neighbours in k in one int32, the first lowest
    qzeros   int32 [G, N * bits / 32]     zero points likewise, neighbours in n; in version 1 less one
    scales   float16 [G, N]
    g_idx    int32 [K]                    the group of each column; left out, or k // g: groups of neighbours

    w[n, k] = scales[g_idx[k], n] * (q[n, k] - z[g_idx[k], n])

So qweight turned over is danlu's weight_packed, number by number. Version 1 (`checkpoint_format` gptq, or none) stores
z - 1, subtracted from whole int32: a zero point of 0 borrows from its neighbour, and adding back in int32 is exact.
Readers that add one to each number by itself read that wrongly, and GPTQModel takes zero points of version 1 from
itself alone. Hence symmetric matrices are written in version 1, which everybody reads, others in version 2.

Eight bits are the same in bytes. Quantisers that go through columns in the order of their importance (`desc_act`
without static groups) leave groups scattered in g_idx; danlu has no product for these (see widening.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import UserError, shown
from danlu.model.quantized.layouts.packed import MIDDLE, Packed, bytes_of, check_shapes, group_of, tensors_of, turn
from danlu.model.quantized.scheme import Scheme
from danlu.model.weights import Stored, Weights

_ONES = {4: 0x11111111, 8: 0x01010101}  # one in every number
_VERSIONS = {"gptq": 1, "gptq_v2": 2}


def read(config: Mapping[str, Any], weights: Weights, part: str, columns: int) -> Packed:
    """The matrix `part`, [N, columns]. Raises UserError for another checkpoint_format, and for tensors that
    do not fit each other or config.json."""
    form = config.get("checkpoint_format") or config.get("format") or "gptq"
    if form not in tuple(_VERSIONS):
        raise UserError(f'the model is in the GPTQ format "{form}"', "danlu reads " + " and ".join(_VERSIONS))
    found = tensors_of(weights, part)
    (groups, rows), bits = found["scales"].shape, 32 * found["qweight"].shape[0] // columns
    if config.get("bits", bits) != bits:
        raise UserError(
            f"config.json has {shown(config['bits'])} bits, and {part}.qweight {bits}",
            "config.json and the weights do not belong together",
        )
    if bits in _ONES:  # others are refused by their name
        check_shapes(found, part, {"qweight": (columns * bits // 32, rows), "qzeros": (groups, rows * bits // 32)})
    group = group_of(config, columns, groups, part)
    lacking = _ONES.get(bits, 0) if _VERSIONS[form] == 1 else 0

    def zeros(tensor: Tensor) -> Tensor:
        return tensor + torch.tensor(lacking, dtype=torch.int32)

    if bits == 8:
        weight, qzeros = found["qweight"], found["qzeros"]
        shape = (rows, groups)
        tensors = {
            "weight": Stored((rows, columns), lambda: bytes_of(weight.read().t())),
            "weight_zero_point": Stored(shape, lambda: bytes_of(zeros(qzeros.read())).t().contiguous()),
        }
    else:
        tensors = {"weight_packed": turn(found["qweight"]), "weight_zero_point": turn(found["qzeros"], zeros)}
    tensors["weight_scale"] = turn(found["scales"])
    used = [f"{part}.{key}" for key in found]
    if (order := weights.get(f"{part}.g_idx")) is not None:
        used.append(f"{part}.g_idx")
        check_shapes({"g_idx": order}, part, {"g_idx": (columns,)})
        places = order.read().long()
        if int(places.min()) < 0 or int(places.max()) >= groups:
            raise UserError(
                f"{part}.g_idx has groups from {int(places.min())} to {int(places.max())}, and there are {groups}",
                "copy the model again",
            )
        if not torch.equal(places, torch.arange(columns) // (group or columns)):
            tensors["weight_g_idx"] = order
    return Packed(bits, group, tensors, tuple(used))


def write(scheme: Scheme, matrix: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A matrix of 4 bits by the names of scheme.py. `scheme.symmetric`: all matrices of the model are."""
    packed, scale, zero = matrix["weight_packed"], matrix["weight_scale"], matrix.get("weight_zero_point")
    columns = 8 * packed.shape[1]
    zero = torch.full((packed.shape[0] // 8, scale.shape[1]), MIDDLE[4], dtype=torch.int32) if zero is None else zero
    return {
        "qweight": packed.t(),
        "qzeros": zero.t() - (torch.tensor(_ONES[4], dtype=torch.int32) if scheme.symmetric else 0),
        "scales": scale.t(),
        "g_idx": (torch.arange(columns) // (scheme.group or columns)).int(),
    }


def config(group: int, symmetric: bool) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "sym": symmetric,
        "desc_act": False,
        "static_groups": False,
        "lm_head": False,
        "pack_dtype": "int32",
        "checkpoint_format": "gptq" if symmetric else "gptq_v2",
    }
