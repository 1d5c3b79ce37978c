"""Small quantised models, and an unpacking of GPTQ and AWQ files that has no line in common with danlu's.

Number by number, in Python's integers, from the description of each format: slow, and hard to get wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from danlu.model.config import ModelConfig
from danlu.model.quantized import Scheme, plan_of, quantize_
from danlu.model.transformer import Transformer

SHAPE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 128,
    "max_position": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "tie_embeddings": False},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "tie_embeddings": True},
}
GPT2: dict[str, Any] = {
    "family": "gpt2", "norm": "layer", "mlp": "gelu", "positions": "learned", "qkv_bias": True, "output_bias": True,
    "mlp_bias": True, "n_kv_heads": 4,
}  # fmt: skip
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def small(family: str, scheme: Scheme | None, head: Scheme | None = None, **changes: Any) -> Transformer:
    """A random model whose biases and norms are numbers of bfloat16, quantised in `scheme`."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SHAPE | (GPT2 if family == "gpt2" else FAMILIES[family]) | changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        if "norm" in name or name.endswith("bias"):
            parameter.data = (parameter.data + 0.1 * torch.randn(parameter.shape)).bfloat16().float()
    model.requires_grad_(False)
    if scheme is not None:
        quantize_(model, plan_of(model, scheme, head))
    return model


def nibbles(tensor: torch.Tensor) -> list[list[list[int]]]:
    """int32 [R, C] -> the eight numbers of each, from the lowest bits up."""
    rows = tensor.numpy().view(np.uint32)
    return [[[(int(word) >> (4 * place)) & 15 for place in range(8)] for word in row] for row in rows]


def unpacked_gptq(tensors: dict[str, torch.Tensor], part: str, version: int) -> torch.Tensor:
    """The matrix [N, K] of a GPTQ file."""
    qweight, qzeros = tensors[f"{part}.qweight"], tensors[f"{part}.qzeros"]
    if version == 1:
        qzeros = torch.tensor((qzeros.numpy().view(np.uint32) + np.uint32(0x11111111)).view(np.int32))
    weights, zeros = nibbles(qweight), nibbles(qzeros)
    scales, order = tensors[f"{part}.scales"].float(), tensors[f"{part}.g_idx"].tolist()
    wide = torch.empty(qweight.shape[1], 8 * qweight.shape[0])
    for n in range(wide.shape[0]):
        for k in range(wide.shape[1]):
            group = order[k]
            wide[n, k] = scales[group, n] * (weights[k // 8][n][k % 8] - zeros[group][n // 8][n % 8])
    return wide


def unpacked_awq(tensors: dict[str, torch.Tensor], part: str, group: int) -> torch.Tensor:
    """The matrix [N, K] of an AWQ file."""
    weights, zeros = nibbles(tensors[f"{part}.qweight"]), nibbles(tensors[f"{part}.qzeros"])
    scales = tensors[f"{part}.scales"].float()
    wide = torch.empty(scales.shape[1], len(weights))
    for n in range(wide.shape[0]):
        place = AWQ_ORDER.index(n % 8)
        for k in range(wide.shape[1]):
            own = weights[k][n // 8][place] - zeros[k // group][n // 8][place]
            wide[n, k] = scales[k // group, n] * own
    return wide


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")
