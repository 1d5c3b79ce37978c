"""Quantised modules: the same decoder with one byte, or half a byte, a weight.

On disk and in memory a quantised matrix is two tensors, named as the compressed-tensors format names them:

    8 bits   <name>.weight          int8  [N, K]       one scale a row:             <name>.weight_scale  [N, 1]
    4 bits   <name>.weight_packed   int32 [N, K / 8]   one scale every 32 weights:  <name>.weight_scale  [N, K / 32]

Both have the output rows first, so whatever cuts or joins rows treats them alike: the file's q_proj, k_proj and
v_proj become the model's one `qkv` by joining weights and joining scales, and nothing is quantised twice.

A model in 4 bits keeps 8 for its embedding and its head: a fifth of a small model's weights, and half of what rounding
everything would cost (decision 10).

`config.json` says it under `quantization_config` in the words of that format: `quant_method: compressed-tensors`,
`format: int-quantized` or `pack-quantized`, or `mixed-precision` where each group of modules has its own. Both `Linear`
and `Embedding` are targets here, because in a small model the embedding is the largest matrix of all. That goes further
than other readers do: transformers 5.23 with compressed-tensors 0.20 does not open a quantised embedding that is tied
to the head. For other programs export the float model.

The way in is `apply_quantization`: it swaps modules of a model that has no weights yet (device "meta"), so that a
quantised model is never held in float. The arithmetic is in `danlu.kernels`; what differs between the two is a row of
`SCHEMES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.kernels import int4, int8
from danlu.model.transformer import Transformer

QUANT_METHOD = "compressed-tensors"
MIXED = "mixed-precision"
BITS = {8: {"Linear": 8, "Embedding": 8}, 4: {"Linear": 4, "Embedding": 8, "lm_head": 8}}  # by kind, or by name
_POSITIONS = "transformer.wpe"  # GPT-2's table of positions: a few hundred rows, left in float


@dataclass(frozen=True)
class Scheme:
    """One way to store a matrix [N, K] in fewer bits. `linear` and `embedding` take (x or ids, weight, scale, ...)."""

    bits: int
    format: str
    group: int | None  # weights that share a scale; None: a whole row
    weight_name: str
    weight_dtype: torch.dtype
    per_number: int  # weights in one number of the weight tensor
    scale_dtype: torch.dtype  # float32 ones follow the model's dtype, float16 ones stay what they are
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]]  # [N, K] -> weight tensor, scale [N, groups]
    values: Callable[[Tensor, Tensor | None], Tensor]  # weight tensor, memory it may use -> int8 [N, K]
    linear: Callable[..., Tensor]
    embedding: Callable[..., Tensor]

    def fits(self, columns: int) -> bool:
        return columns % (self.group or 1) == 0

    def to_json(self) -> dict[str, Any]:
        """The `weights` entry of a config group."""
        return {
            "num_bits": self.bits,
            "type": "int",
            "strategy": "group" if self.group else "channel",
            "symmetric": True,
            "dynamic": False,
            "group_size": self.group,
            "block_structure": None,
            "actorder": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }


def _int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = int8.quantize_rows(weight)
    return values, scale[:, None]


def _int4_packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = int4.quantize_groups(weight)
    return int4.pack_nibbles(values), scale


SCHEMES = {
    8: Scheme(
        8, "int-quantized", None, "weight", torch.int8, 1, torch.float32, _int8_rows, lambda weight, out: weight,
        lambda x, weight, scale, bias=None: int8.int8_linear(x, weight, scale[:, 0], bias),
        lambda ids, weight, scale, dtype: int8.int8_embedding(ids, weight, scale[:, 0], dtype),
    ),
    4: Scheme(
        4, "pack-quantized", int4.GROUP, "weight_packed", torch.int32, 8, torch.float16, _int4_packed,
        int4.unpack_nibbles, int4.int4_linear, int4.int4_embedding,
    ),
}  # fmt: skip


class _Quantized(nn.Module):
    """A matrix [rows, columns] in a scheme."""

    weight_scale: Tensor

    def __init__(self, scheme: Scheme, rows: int, columns: int, device: torch.device | None) -> None:
        super().__init__()
        self.scheme, self.rows, self.columns = scheme, rows, columns
        groups = columns // scheme.group if scheme.group else 1
        self._keep(
            torch.empty(rows, columns // scheme.per_number, dtype=scheme.weight_dtype, device=device),
            torch.empty(rows, groups, dtype=scheme.scale_dtype, device=device),
        )

    def _keep(self, stored: Tensor, scale: Tensor) -> None:
        setattr(self, self.scheme.weight_name, nn.Parameter(stored, requires_grad=False))
        if self.scheme.scale_dtype == torch.float32:
            self.weight_scale = nn.Parameter(scale, requires_grad=False)
        else:  # a buffer, which loading leaves in its own dtype
            self.register_buffer("weight_scale", scale)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        scale = self.weight_scale
        super()._apply(fn, recurse)
        if self.scheme.scale_dtype != torch.float32 and self.weight_scale.dtype != scale.dtype:
            self.weight_scale = scale.to(self.weight_scale.device)  # model.to(bfloat16) would change every weight
        return self

    @property
    def stored(self) -> Tensor:
        return getattr(self, self.scheme.weight_name)

    def values(self, out: Tensor | None = None) -> Tensor:
        """The whole numbers that the scales multiply, int8 [N, K]; made in `out`, if they have to be made."""
        return self.scheme.values(self.stored, out)

    def fill(self, weight: Tensor) -> float:
        """Quantise `weight` [N, K] into this module; returns the relative error |w - w'| / |w| (Frobenius)."""
        stored, scale = self.scheme.quantize(weight)
        scale = scale.to(self.scheme.scale_dtype)
        self._keep(stored, scale)
        wide = scale.float().repeat_interleave(self.columns // scale.shape[1], dim=1)
        lost = torch.linalg.vector_norm(self.values().float() * wide - weight.float())
        return float(lost / torch.linalg.vector_norm(weight.float()).clamp_min(1e-12))

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.columns}, bits={self.scheme.bits}"


class QuantizedLinear(_Quantized):
    """y = x w^T + bias; x [..., K] -> [..., N]."""

    def __init__(
        self, scheme: Scheme, in_features: int, out_features: int, bias: bool, device: torch.device | None = None
    ) -> None:
        super().__init__(scheme, out_features, in_features, device)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.scheme.linear(x, self.stored, self.weight_scale, self.bias)


class QuantizedEmbedding(_Quantized):
    """ids [...] -> rows [..., D]. With tied weights it is the head as well: `project`."""

    def forward(self, ids: Tensor) -> Tensor:
        dtype = self.weight_scale.dtype if self.scheme.scale_dtype == torch.float32 else torch.float32
        return self.scheme.embedding(ids, self.stored, self.weight_scale, dtype)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        return self.scheme.linear(hidden, self.stored, self.weight_scale)


def scheme_config(bits: int | Mapping[str, int], learned_positions: bool = False) -> dict[str, Any]:
    """The `quantization_config` of what `quantize_` makes."""
    targets = BITS[bits] if isinstance(bits, int) else bits
    used = list(dict.fromkeys(targets.values()))
    groups = {
        f"group_{number}": {
            "targets": [target for target, own in targets.items() if own == width],
            "weights": SCHEMES[width].to_json(),
            "input_activations": None,
            "output_activations": None,
            "format": SCHEMES[width].format,
        }
        for number, width in enumerate(used)
    }
    return {
        "quant_method": QUANT_METHOD,
        "format": SCHEMES[used[0]].format if len(used) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [_POSITIONS] if learned_positions else [],
        "kv_cache_scheme": None,
    }


def apply_quantization(model: Transformer, quantization_config: Mapping[str, Any]) -> None:
    """Swap the modules of `model` (in place) for those that `quantization_config` asks for, without weights.

    Call it before weights are loaded; the new tensors are on the device of the old ones, uninitialised.
    Raises UserError for a scheme that danlu does not read.
    """
    for name, module, scheme in _matrices(model, quantization_config):
        model.set_submodule(name, _empty_twin(module, scheme, name))
    _mark(model, dict(quantization_config))


def quantize_(model: Transformer, bits: int | Mapping[str, int] = 8) -> dict[str, float]:
    """Quantise the matrices of `model` in place; returns their largest and mean relative error.

    `bits` is a row of BITS, or bits by target: what is not named stays as it is. The error of a matrix is
    |w - w'| / |w| in the Frobenius norm. Raises UserError for a width that does not divide.
    """
    config = scheme_config(bits, model.position_embedding is not None)
    matrices = _matrices(model, config)
    for name, module, scheme in matrices:
        _check_width(scheme, module.weight.shape[1], name)
    errors = []
    for name, module, scheme in matrices:
        twin = _empty_twin(module, scheme, name)
        errors.append(twin.fill(module.weight.detach()))
        if getattr(module, "bias", None) is not None:
            twin.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        model.set_submodule(name, twin)
    _mark(model, config)
    return {"max_error": max(errors), "mean_error": sum(errors) / len(errors)}


def _mark(model: Any, config: dict[str, Any]) -> None:
    model.quantization_config = config  # hub.save_model writes it into config.json


def _matrices(model: Transformer, config: Mapping[str, Any]) -> list[tuple[str, Any, Scheme]]:
    """The modules to swap, by name, and the scheme of each: that of its name goes before that of its kind."""
    schemes, ignored = _read_config(config)
    found = []
    for name, module in model.named_modules():
        kind = "Linear" if isinstance(module, nn.Linear) else "Embedding" if isinstance(module, nn.Embedding) else None
        if kind is None or name in ignored or name == "position_embedding":
            continue
        scheme = schemes.get(name) or schemes.get(kind)
        if scheme is not None:
            found.append((name, module, scheme))
    return found


def _check_width(scheme: Scheme, columns: int, name: str) -> None:
    if not scheme.fits(columns):
        raise UserError(
            f"{name} has {columns} columns, which is not a multiple of {scheme.group}",
            f"{scheme.bits} bits need groups of {scheme.group}; use 8 bits",
        )


def _empty_twin(module: nn.Module, scheme: Scheme, name: str) -> Any:
    if isinstance(module, nn.Linear):
        _check_width(scheme, module.in_features, name)
        return QuantizedLinear(
            scheme, module.in_features, module.out_features, module.bias is not None, module.weight.device
        )
    assert isinstance(module, nn.Embedding)
    _check_width(scheme, module.embedding_dim, name)
    return QuantizedEmbedding(scheme, module.num_embeddings, module.embedding_dim, module.weight.device)


def _read_config(config: Mapping[str, Any]) -> tuple[dict[str, Scheme], set[str]]:
    """(schemes by target, names to leave alone). Raises UserError for anything that is not in SCHEMES."""
    schemes: dict[str, Scheme] = {}
    method = config.get("quant_method")
    for name, group in (config.get("config_groups") or {}).items():
        form = config.get("format")
        form = group.get("format") if form == MIXED else form
        scheme = next((one for one in SCHEMES.values() if one.format == form), None)
        if method != QUANT_METHOD or scheme is None:
            readable = " or ".join(f'"{one.format}"' for one in SCHEMES.values())
            raise UserError(
                f'the model is quantised with "{method}" (format "{form}"), which danlu does not read',
                f'it reads "{QUANT_METHOD}" with format {readable}, and GGUF files',
            )
        wanted = {key: scheme.to_json()[key] for key in ("num_bits", "type", "strategy", "symmetric", "group_size")}
        weights = group.get("weights") or {}
        found = {key: weights.get(key) for key in wanted}
        if found != wanted:
            raise UserError(f"quantization_config.{name}.weights is {found}", f"danlu reads {wanted} in this format")
        if group.get("input_activations"):
            raise UserError(f"quantization_config.{name} quantises activations too", "danlu reads weights only")
        schemes |= dict.fromkeys(group.get("targets") or (), scheme)
    ignored = set(config.get("ignore") or ())
    if not schemes or set(schemes) - {"Linear", "Embedding", "lm_head"} or ignored - {"lm_head", _POSITIONS}:
        raise UserError(
            f"quantization_config has targets {sorted(schemes)} and ignores {sorted(ignored)}",
            "danlu reads the targets Linear, Embedding and lm_head, and can leave out only lm_head",
        )
    return schemes, ignored
