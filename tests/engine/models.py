"""Small random models of every shape the engine must serve, and the oracle: a forward pass without a cache."""

from __future__ import annotations

from typing import Any

import torch

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {"n_heads": 4, "n_kv_heads": 2},
    "mqa": {"n_heads": 4, "n_kv_heads": 1},
    "mha": {"n_heads": 2, "n_kv_heads": 2, "qkv_bias": True, "tie_embeddings": False},
    "window": {"n_heads": 4, "n_kv_heads": 2, "sliding_window": 5},
    "some_windows": {"n_heads": 4, "n_kv_heads": 2, "sliding_window": 9, "sliding_layers": (1,)},
    "qk_norm": {"n_heads": 4, "n_kv_heads": 2, "qk_norm": True},
    "learned": {"n_heads": 4, "positions": "learned", "norm": "layer", "mlp": "gelu"},
}
VOCABULARY = 101
CONTEXT = 64


def make_model(shape: str, **changes: Any) -> Transformer:
    """Weights large enough that greedy tokens differ from step to step and ties do not happen."""
    torch.manual_seed(7)
    config = ModelConfig(
        **{"vocab_size": VOCABULARY, "hidden_size": 32, "n_layers": 2, "intermediate_size": 48, "max_position": CONTEXT}
        | SHAPES[shape]
        | changes
    )
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


_MODELS: dict[str, Transformer] = {}


def model_of(shape: str) -> Transformer:
    if shape not in _MODELS:
        _MODELS[shape] = make_model(shape)
    return _MODELS[shape]


@torch.inference_mode()
def full_forward(model: Transformer, ids: list[int]) -> torch.Tensor:
    """Logits [T, V] without any cache."""
    return model(torch.tensor([ids]))[0]


def greedy(model: Transformer, prompt: list[int], n: int) -> list[int]:
    """The oracle: n greedy tokens, the whole text computed again for each."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(full_forward(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
