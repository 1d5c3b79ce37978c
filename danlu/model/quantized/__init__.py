"""Quantised modules: the same decoder with one byte, or half a byte, a weight.

    scheme.py     one way to store a matrix: bits, group, with or without zero points; its tensors and arithmetic
    modules.py    a linear layer and an embedding that keep their matrix in a scheme
    config.py     the schemes of a model in the words of `quantization_config`, both ways
    layouts/      matrices as GPTQ and AWQ checkpoints lay them out, both ways
    widening.py   what comes in few bits and cannot stay so
    save.py       a Hugging Face directory in one of these layouts

The way in is `apply_quantization`: it swaps modules of a model that has no weights yet (device "meta"), so that a
quantised model is never held in float. The way out is hub.save_model, which asks `quantization_config` what the model
has become.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.model.quantized.config import quantization_config, read_schemes
from danlu.model.quantized.modules import Quantized, QuantizedEmbedding, QuantizedLinear, empty_twin, float_twin
from danlu.model.quantized.scheme import FLOAT8, HEAD, NF4, SCHEMES, Scheme
from danlu.model.transformer import Transformer
from danlu.model.weights import Weights

__all__ = [
    "FLOAT8",
    "HEAD",
    "NF4",
    "SCHEMES",
    "Quantized",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "Scheme",
    "apply_quantization",
    "cast_rest_",
    "empty_twin",
    "float_dtype",
    "float_twin",
    "is_quantized",
    "matrices",
    "plan_of",
    "quantization_config",
    "quantize_",
    "schemes_of",
    "swap_",
]


def is_quantized(model: Transformer) -> bool:
    return bool(schemes_of(model))


def schemes_of(model: Transformer) -> dict[str, Scheme]:
    """The scheme of every quantised matrix, by name."""
    return {name: module.scheme for name, module in model.named_modules() if isinstance(module, Quantized)}


def float_dtype(model: Transformer) -> torch.dtype:
    """The dtype of what is not quantised, norms and such: what the model computes in. Scales have their own."""
    return next(p.dtype for p in _rest(model) if p.is_floating_point())


def cast_rest_(model: Transformer, dtype: torch.dtype) -> None:
    """Bring what is not quantised into `dtype`. Scales stay as they are: to round them would change every weight."""
    for parameter in _rest(model):
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _rest(model: Transformer) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if not isinstance(module, Quantized):
            yield from module.parameters(recurse=False)


def matrices(model: Transformer) -> dict[str, nn.Module]:
    """The matrices of a model that may be quantised, by name. Learned positions are not: a few hundred rows."""
    kinds = (nn.Linear, nn.Embedding, Quantized)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds) and n != "position_embedding"}


def plan_of(model: Transformer, scheme: Scheme, head: Scheme | None = None) -> dict[str, Scheme]:
    """`scheme` for every matrix, but `head` for the embedding and the head.

    Below 8 bits these keep 8 unless told otherwise: a fifth of a small model's weights, and half of what rounding
    everything would cost (decision 10).
    """
    outer = head or (HEAD if scheme.bits < 8 else scheme)
    return {name: outer if name in ("embedding", "lm_head") else scheme for name in matrices(model)}


def apply_quantization(model: Transformer, config: Mapping[str, Any], weights: Weights) -> Weights:
    """Swap the modules of `model` (in place) for those that a `quantization_config` asks for, without weights.

    Call it before weights are loaded; the new tensors are on the device of the old ones, uninitialised. Returns
    `weights`, the tensors of the checkpoint, as those of the new modules: under danlu's names, and floats where a
    matrix cannot stay as it is. Raises UserError for a scheme or a layout that danlu does not read.
    """
    from danlu.model.quantized.layouts import LAYOUTS, read_layout
    from danlu.model.quantized.widening import widen_misfits

    found = matrices(model)
    if config.get("quant_method") in tuple(LAYOUTS):
        plan, weights = read_layout(model, found, config, weights)
    else:
        plan = read_schemes(model.config, list(found), config)
    plan, weights = widen_misfits(model, plan, weights)
    swap_(model, plan)
    return weights


def swap_(model: nn.Module, plan: Mapping[str, Scheme]) -> None:
    """Swap the matrices that `plan` names for ones in its schemes, uninitialised."""
    for name, scheme in plan.items():
        model.set_submodule(name, empty_twin(model.get_submodule(name), scheme, name))


def quantize_(model: Transformer, how: int | Scheme | Mapping[str, Scheme] = 8) -> dict[str, float]:
    """Round matrices to nearest, in place; returns their largest and mean relative error.

    how: the scheme of each matrix by name, or one for all (see `plan_of`), or the bits of a usual one (SCHEMES).
    The error of a matrix is |w - w'| / |w| in the Frobenius norm. Raises UserError for a width that does not divide.
    """
    scheme = SCHEMES[how] if isinstance(how, int) else how
    plan = plan_of(model, scheme) if isinstance(scheme, Scheme) else scheme
    found = {name: (model.get_submodule(name), scheme) for name, scheme in plan.items()}
    twins = {name: empty_twin(module, scheme, name) for name, (module, scheme) in found.items()}
    errors = []
    for name, twin in twins.items():
        weight = found[name][0].weight
        assert isinstance(weight, Tensor)
        errors.append(twin.fill(weight.detach()))
        model.set_submodule(name, twin)
    return {"max_error": max(errors), "mean_error": sum(errors) / len(errors)}
