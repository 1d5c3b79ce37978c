"""Matrices as other programs lay them out, under danlu's names.

`quantization_config.quant_method` names a row of `LAYOUTS`. Reading gives a table of tensors in which each matrix has
the names and shapes of scheme.py; they are turned over when somebody reads them, so that loading and lending know
nothing of it. Writing goes the other way, and what is written reads back to the same bits.

| layout | [N, K] in groups of g                              | zero points       | scales        | one int32: eight  |
|--------|----------------------------------------------------|-------------------|---------------|-------------------|
| danlu  | weight_packed [N, K / 8]                           | [N / 8, G]        | [N, G]        | neighbours in k   |
| gptq   | qweight [K / 8, N], g_idx [K]: the group of each k | qzeros [G, N / 8] | scales [G, N] | neighbours in k   |
| awq    | qweight [K, N / 8]                                 | qzeros [G, N / 8] | scales [G, N] | in n, interleaved |

All keep q + 8 in four bits, z + 8 likewise. What is quantised, in how many bits and groups, is read off the tensors:
other words of quantization_config may be wrong without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.model.hub import hf_parts
from danlu.model.quantized.layouts import awq, gptq
from danlu.model.quantized.layouts.packed import Packed
from danlu.model.quantized.modules import Quantized
from danlu.model.quantized.scheme import GROUPS, Scheme
from danlu.model.transformer import Transformer
from danlu.model.weights import Stored, Weights


@dataclass(frozen=True)
class Layout:
    """`read(quantization_config, tensors, a matrix, its columns)` raises UserError for a variant that is not known."""

    read: Callable[[Mapping[str, Any], Weights, str, int], Packed]
    write: Callable[[Scheme, Mapping[str, Tensor]], dict[str, Tensor]]  # both by their names in the layout
    config: Callable[[int, bool], dict[str, Any]]  # group, symmetric -> quantization_config


LAYOUTS: Mapping[str, Layout] = {
    "gptq": Layout(gptq.read, gptq.write, gptq.config),
    "awq": Layout(awq.read, awq.write, awq.config),
}


def read_layout(
    model: Transformer, modules: Mapping[str, nn.Module], config: Mapping[str, Any], weights: Weights
) -> tuple[dict[str, Scheme], Weights]:
    """The scheme of each of `modules` that the file has quantised, and the tensors of the file under danlu's names.

    Raises UserError for bits or groups that danlu has not, and for parts of one matrix that differ.
    """
    layout = LAYOUTS[config["quant_method"]]
    plan, renamed = {}, dict(weights)
    for name, module in modules.items():
        names, turned = hf_parts(model.config, f"{name}.weight")
        parts = [part.removesuffix(".weight") for part in names]
        if not any(f"{part}.qweight" in weights for part in parts):
            continue
        assert isinstance(module.weight, Tensor)
        found = {part: layout.read(config, weights, part, module.weight.shape[1]) for part in parts}
        plan[name] = _scheme(name, found)
        for part, packed in found.items():
            for own in (*packed.used, *_empty_bias(weights, part, module)):
                del renamed[own]
            for key, stored in packed.tensors.items():
                if key != "weight_zero_point" or not plan[name].symmetric:
                    renamed[f"{part}.{key}"] = _turned(stored) if turned and key == "weight" else stored
    if not plan:
        raise UserError(f'the weights have none in the layout "{config["quant_method"]}"', "copy the model again")
    return plan, renamed


def write_layout(
    name: str, model: Transformer, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The `tensors` of `model`, by the names of a checkpoint, in the layout `name`; and its quantization_config.

    Raises UserError for a model that is not of 4 bits in groups throughout its blocks.
    """
    schemes = {
        own: module.scheme if isinstance(module, Quantized) else None
        for own, module in model.named_modules()
        if own.startswith("blocks.") and isinstance(module, nn.Linear | Quantized)
    }
    wrong = [own for own, s in schemes.items() if s is None or (s.kind, s.bits) != ("int", 4) or s.group is None]
    groups = {scheme.group for scheme in schemes.values() if scheme is not None}
    if wrong or len(groups) > 1:
        said = f"{wrong[0]} is not" if wrong else "the groups of this model differ"
        raise UserError(
            f"{name} holds matrices of 4 bits in groups, all alike: {said}",
            "--type compressed-tensors holds every mixture",
        )
    group, symmetric = groups.pop(), all(scheme is not None and scheme.symmetric for scheme in schemes.values())
    assert group is not None
    scheme, layout = Scheme(4, group, symmetric), LAYOUTS[name]
    kept: dict[str, Tensor] = {}
    matrices: dict[str, dict[str, Tensor]] = {}
    for own, tensor in tensors.items():
        part, _, key = own.rpartition(".")
        if f"{part}.weight_packed" in tensors and key != "bias":
            matrices.setdefault(part, {})[key] = tensor
        else:
            kept[own] = tensor
    for part, found in matrices.items():
        rows = found["weight_packed"].shape[0]
        if rows % 8:
            raise UserError(f"{part} has {rows} rows, which is not a multiple of 8", f"{name} needs that")
        kept |= {f"{part}.{key}": tensor for key, tensor in layout.write(scheme, found).items()}
    return kept, layout.config(group, symmetric)


def _scheme(name: str, parts: Mapping[str, Packed]) -> Scheme:
    kinds = {(packed.bits, packed.group) for packed in parts.values()}
    if len(kinds) > 1:
        raise UserError(f"the parts of {name} are quantised in different ways", "quantise them alike")
    bits, group = kinds.pop()
    if bits not in (4, 8) or group not in GROUPS:
        raise UserError(
            f"{next(iter(parts))} has {bits} bits in groups of {group}",
            "danlu reads 4 and 8 bits, in groups of " + ", ".join(str(g) for g in GROUPS if g) + " or whole rows",
        )
    return Scheme(bits, group, all(packed.is_symmetric() for packed in parts.values()))


def _empty_bias(weights: Weights, part: str, module: nn.Module) -> list[str]:
    """A bias of zeros that the model does not have: some quantisers gave every matrix one."""
    bias = weights.get(f"{part}.bias")
    extra = bias is not None and getattr(module, "bias", None) is None and not bias.read().any()
    return [f"{part}.bias"] if extra else []


def _turned(stored: Stored) -> Stored:
    return Stored(stored.shape[::-1], lambda: stored.read().t())
