"""Small models of two families, with a tokenizer, and a small corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from danlu.core.artifact import Artifact
from danlu.data.document import Document, write_documents
from danlu.model.config import ModelConfig
from danlu.model.hub import save_model
from danlu.model.transformer import Transformer
from tests.tokenizer.shared import TEXTS, small_tokenizer

LLAMA: dict[str, Any] = {"family": "llama", "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
GPT2: dict[str, Any] = {
    "family": "gpt2", "n_heads": 2, "norm": "layer", "mlp": "gelu", "positions": "learned", "norm_eps": 1e-5,
    "qkv_bias": True, "output_bias": True, "mlp_bias": True,
}  # fmt: skip


def saved_model(path: Path, family: dict[str, Any] = LLAMA, **changes: Any) -> Artifact:
    """420 tokens, width 32, 4 layers, inner width 64; biases are not 0."""
    shape = {"vocab_size": 420, "hidden_size": 32, "n_layers": 4, "intermediate_size": 64, "max_position": 128}
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**{**shape, **family, **changes}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(model, path, small_tokenizer())
    return Artifact.from_path(path, "model")


def saved_corpus(path: Path, texts: list[str] = TEXTS) -> Artifact:
    path.mkdir(parents=True, exist_ok=True)
    write_documents(path, "train", [Document(str(n), text, "en", "test") for n, text in enumerate(texts)])
    return Artifact.from_path(path, "corpus")
