"""Matrices that a file has in few bits and danlu cannot keep so: they become floats when they are read.

Two things come from other programs that the grid of kernels/grid.py has not:

- groups whose columns are not neighbours (GPTQ in the order of importance): every product would have to gather;
- scales of groups beyond float16, in which danlu keeps them: bfloat16 goes from 1e-38 to 3e38, float16 from 6e-8 to
  65,504. Within that range a bfloat16 number is a float16 number, exactly.

The model is right and as large as it was in floats; one line in the log says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from danlu.kernels import grid
from danlu.model.hub import hf_parts
from danlu.model.quantized.scheme import Scheme
from danlu.model.transformer import Transformer
from danlu.model.weights import Stored, Weights

log = logging.getLogger("danlu")
_ROUNDED = 2**-10  # of a scale: float32 becomes float16 with less than half of that


def widen_misfits(
    model: Transformer, plan: Mapping[str, Scheme], weights: Weights
) -> tuple[dict[str, Scheme], Weights]:
    """`plan` and `weights` without the matrices that cannot stay as they are; these are floats in `weights`."""
    kept, changed, reasons = dict(plan), dict(weights), Counter[str]()
    for name, scheme in plan.items():
        names, turned = hf_parts(model.config, f"{name}.weight")
        parts = [part.removesuffix(".weight") for part in names]
        found = [reason for part in parts if (reason := _misfit(scheme, weights, part))]
        if not found:
            continue
        reasons[found[0]] += 1
        del kept[name]
        matrix = model.get_submodule(name).weight
        assert isinstance(matrix, Tensor)
        for part in parts:
            for key in (scheme.weight_name, "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"):
                changed.pop(f"{part}.{key}", None)
            changed[f"{part}.weight"] = _wide(scheme, weights, part, matrix.shape[1], turned)
    for reason, count in reasons.items():
        log.warning("%d of %d quantised matrices are widened to floats: %s", count, len(plan), reason)
    return kept, changed


def _misfit(scheme: Scheme, weights: Weights, part: str) -> str:
    """Why the matrix `part` cannot be kept; "" when it can."""
    if f"{part}.weight_g_idx" in weights:
        return "their groups are not of neighbouring columns"
    stored = weights.get(f"{part}.weight_scale")
    if scheme.group is None or stored is None or (scale := stored.read()).dtype == torch.float16:
        return ""
    lost = (scale.float() - scale.half().float()).abs()
    return "" if bool((lost <= _ROUNDED * scale.float().abs()).all()) else "their scales do not fit float16"


def _wide(scheme: Scheme, weights: Weights, part: str, columns: int, turned: bool) -> Stored:
    """float32 [N, columns], or turned over."""

    def read() -> Tensor:
        stored = weights[f"{part}.{scheme.weight_name}"].read()
        stored = stored.t() if turned and not scheme.packed else stored
        scale = weights[f"{part}.weight_scale"].read()
        zero = None if scheme.symmetric else scheme.zero(weights[f"{part}.weight_zero_point"].read())
        order = weights.get(f"{part}.weight_g_idx")
        if order is None:
            wide = scheme.widen(stored, scale, zero, torch.float32)
        else:  # a group for each column
            groups = order.read().long()
            values = grid.unpack(stored) if scheme.packed else stored
            wide = grid.widen(values, scale[:, groups], None if zero is None else zero[:, groups])
        return wide.t() if turned else wide

    rows = weights[f"{part}.weight_scale"].shape[0]
    return Stored((columns, rows) if turned else (rows, columns), read)
