"""Int8 modules: the same decoder with a byte per weight.

On disk and in memory a quantised matrix is two tensors, named as the compressed-tensors format names them:

    <name>.weight          int8  [N, K]
    <name>.weight_scale    float [N, 1]      one scale per output row; w ~ weight_scale * weight

Both have the output rows first, so whatever cuts or joins rows treats them alike: the file's q_proj, k_proj and
v_proj become the model's one `qkv` by joining weights and joining scales, and nothing is quantised twice.

`config.json` says it under `quantization_config` in the words of that format: `quant_method: compressed-tensors`,
`format: int-quantized`. Both `Linear` and `Embedding` are targets here, because in a small model the embedding is the
largest matrix of all. That goes further than other readers do: transformers 5.23 with compressed-tensors 0.20 does
not open a quantised embedding that is tied to the head. For other programs export the float model.

The way in is `apply_quantization`: it swaps modules of a model that has no weights yet (device "meta"), so that a
quantised model is never held in float. The arithmetic is in `danlu.kernels.int8`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.kernels.int8 import int8_embedding, int8_linear, quantize_rows
from danlu.model.transformer import Transformer

QUANT_METHOD = "compressed-tensors"
FORMAT = "int-quantized"
_POSITIONS = "transformer.wpe"  # GPT-2's table of positions: a few hundred rows, left in float


class Int8Linear(nn.Module):
    """y = weight_scale * (x weight^T) + bias; x [..., K] -> [..., N]."""

    def __init__(self, in_features: int, out_features: int, bias: bool, device: torch.device | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.weight_scale = _tensors(out_features, in_features, device)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.weight, self.weight_scale[:, 0], self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Int8Embedding(nn.Module):
    """ids [...] -> rows [..., D] in the scale's dtype. With tied weights it is the head as well: `project`."""

    def __init__(self, rows: int, size: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = rows, size
        self.weight, self.weight_scale = _tensors(rows, size, device)

    def forward(self, ids: Tensor) -> Tensor:
        return int8_embedding(ids, self.weight, self.weight_scale[:, 0], self.weight_scale.dtype)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        return int8_linear(hidden, self.weight, self.weight_scale[:, 0])

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


def int8_config(learned_positions: bool = False) -> dict[str, Any]:
    """The `quantization_config` of what `quantize_` makes."""
    weights = {
        "num_bits": 8,
        "type": "int",
        "strategy": "channel",
        "symmetric": True,
        "dynamic": False,
        "group_size": None,
        "block_structure": None,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {
        "targets": ["Linear", "Embedding"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }
    return {
        "quant_method": QUANT_METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [_POSITIONS] if learned_positions else [],
        "kv_cache_scheme": None,
    }


def apply_quantization(model: Transformer, quantization_config: Mapping[str, Any]) -> None:
    """Swap the modules of `model` (in place) for those that `quantization_config` asks for, without weights.

    Call it before weights are loaded; the new tensors are on the device of the old ones, uninitialised.
    Raises UserError for a scheme that danlu does not read.
    """
    targets, ignored = _read_config(quantization_config)
    for name, module in _matrices(model, targets, ignored):
        model.set_submodule(name, _empty_twin(module))
    _mark(model, dict(quantization_config))


def quantize_(model: Transformer) -> dict[str, float]:
    """Quantise every matrix of `model` in place; returns the largest and the mean relative error of its matrices.

    The error of a matrix is |w - w'| / |w| in the Frobenius norm.
    """
    errors = []
    for name, module in _matrices(model, {"Linear", "Embedding"}, set()):
        twin = _empty_twin(module)
        quantized, scale = quantize_rows(module.weight)
        twin.weight = nn.Parameter(quantized, requires_grad=False)
        twin.weight_scale = nn.Parameter(scale[:, None], requires_grad=False)
        if getattr(module, "bias", None) is not None:
            twin.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
        lost = torch.linalg.vector_norm(quantized.float() * scale[:, None] - module.weight.detach().float())
        errors.append(float(lost / torch.linalg.vector_norm(module.weight.detach().float()).clamp_min(1e-12)))
        model.set_submodule(name, twin)
    _mark(model, int8_config(model.position_embedding is not None))
    return {"max_error": max(errors), "mean_error": sum(errors) / len(errors)}


def _mark(model: Any, config: dict[str, Any]) -> None:
    model.quantization_config = config  # hub.save_model writes it into config.json


def _matrices(model: Transformer, targets: set[str], ignored: set[str]) -> list[tuple[str, Any]]:
    """The modules to swap, by name."""
    kinds = tuple(kind for name, kind in (("Linear", nn.Linear), ("Embedding", nn.Embedding)) if name in targets)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, kinds) and name not in ignored and name != "position_embedding"
    ]


def _empty_twin(module: nn.Module) -> Any:
    if isinstance(module, nn.Linear):
        return Int8Linear(module.in_features, module.out_features, module.bias is not None, module.weight.device)
    assert isinstance(module, nn.Embedding)
    return Int8Embedding(module.num_embeddings, module.embedding_dim, module.weight.device)


def _tensors(rows: int, columns: int, device: torch.device | None) -> tuple[nn.Parameter, nn.Parameter]:
    weight = torch.empty(rows, columns, dtype=torch.int8, device=device)
    scale = torch.empty(rows, 1, dtype=torch.float32, device=device)
    return nn.Parameter(weight, requires_grad=False), nn.Parameter(scale, requires_grad=False)


def _read_config(config: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """(module kinds to swap, names to leave alone). Raises UserError for anything but weight-only int8 per channel."""
    method, form = config.get("quant_method"), config.get("format")
    if method != QUANT_METHOD or form != FORMAT:
        raise UserError(
            f'the model is quantised with "{method}" (format "{form}"), which danlu does not read',
            f'it reads "{QUANT_METHOD}" with format "{FORMAT}", and GGUF files',
        )
    targets: set[str] = set()
    for name, group in (config.get("config_groups") or {}).items():
        weights = group.get("weights") or {}
        scheme = {key: weights.get(key) for key in ("num_bits", "type", "strategy", "symmetric")}
        if scheme != {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}:
            raise UserError(f"quantization_config.{name}.weights is {scheme}", "danlu reads symmetric int8 per channel")
        if group.get("input_activations"):
            raise UserError(f"quantization_config.{name} quantises activations too", "danlu reads weight-only int8")
        targets |= set(group.get("targets") or ())
    ignored = set(config.get("ignore") or ())
    if not targets or targets - {"Linear", "Embedding"} or ignored - {"lm_head", _POSITIONS}:
        raise UserError(
            f"quantization_config has targets {sorted(targets)} and ignores {sorted(ignored)}",
            "danlu reads the targets Linear and Embedding, and can leave out only lm_head",
        )
    return targets, ignored
