"""A tiny world for evaluation: a corpus of Python and poems, its tokenizer, a model with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun
from danlu.data.document import Document, write_documents
from danlu.model.config import ModelConfig
from danlu.model.hub import save_model
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.tokenizer.train import TrainConfig, train

FUNCTION = '''def area_{n}(width, height):
    """Size of a rectangle."""
    total = width * height + {n}
    return total


'''
POEM = "登鸛雀樓\n白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"


def tiny_config(vocab_size: int) -> ModelConfig:
    return ModelConfig(
        family="qwen3",
        vocab_size=vocab_size,
        hidden_size=32,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        intermediate_size=64,
        max_position=64,
        qk_norm=True,
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("corpus")
    code = [
        Document(f"code{n}", "".join(FUNCTION.format(n=10 * n + i) for i in range(3)), "code:python", "test")
        for n in range(12)
    ]
    poems = [Document(f"poem{n}", POEM.replace("登", "登上下左右前後"[n]), "zh", "test") for n in range(6)]
    write_documents(path, "train", code[:8] + poems[:4])
    write_documents(path, "validation", code[8:] + poems[4:])
    return Artifact.from_path(path, "corpus")


@pytest.fixture(scope="session")
def tokenizer(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    run = StageRun.for_test(tmp_path_factory.mktemp("tokenizer"))
    train(TrainConfig(vocab_size=300), run, corpus)
    return Tokenizer.load(run.out)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    return Transformer(tiny_config(tokenizer.vocab_size)).eval()


@pytest.fixture(scope="session")
def model_artifact(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path: Path = tmp_path_factory.mktemp("model")
    save_model(model, path, tokenizer)
    return Artifact.from_path(path, "model")
