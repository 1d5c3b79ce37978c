"""Two real GGUF files against llama.cpp's answers (tests/oracles/llama_cpp.json, made by the script beside it).

Greedy decoding is checked by teacher forcing: over prompt and continuation in one forward pass, the best token after
each prefix must be llama.cpp's next one. That is the same statement as decoding token by token, and needs one pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.stage import StageRun
from danlu.model import hub
from danlu.model.gguf.load import load_gguf
from danlu.model.gguf.reader import open_gguf
from danlu.model.importing import ImportConfig, importing
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer
from tests.assets import ASSETS, AssetUnavailable, fetch

pytestmark = pytest.mark.real
ORACLE = json.loads((Path(__file__).parents[2] / "oracles" / "llama_cpp.json").read_text())


def path_of(name: str) -> Path:
    try:
        return fetch(name)
    except AssetUnavailable as error:
        pytest.skip(f"needs {ASSETS[name].file}: {error}")


@pytest.fixture(scope="module", params=ORACLE["models"])
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[str, Transformer, Tokenizer]]:
    model, tokenizer = load_gguf(path_of(request.param))
    assert tokenizer is not None
    yield request.param, model, tokenizer


def wrong_tokens(model: Transformer, prompt: dict[str, Any]) -> list[int]:
    ids = torch.tensor([prompt["ids"] + prompt["greedy"]])
    with torch.inference_mode():
        hidden = model.hidden(ids[:, :-1])[:, len(prompt["ids"]) - 1 :]
        best = model.head(hidden)[0].argmax(-1).tolist()
    return [i for i, (a, b) in enumerate(zip(best, prompt["greedy"], strict=True)) if a != b]


def test_types_of_the_files() -> None:
    """The two files cover what the issue asks for."""
    with open_gguf(path_of("smollm2")) as one, open_gguf(path_of("qwen2.5-coder")) as two:
        assert {t.type for t in one.tensors.values()} == {"F32", "Q4_1", "Q8_0"}
        assert {t.type for t in two.tensors.values()} == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}


def test_tokenizer_gives_the_ids_of_llama_cpp(loaded: tuple[str, Transformer, Tokenizer]) -> None:
    name, _, tokenizer = loaded
    for text, ids in zip(ORACLE["texts"], ORACLE["models"][name]["text_ids"], strict=True):
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text
    for prompt in ORACLE["models"][name]["prompts"]:
        assert tokenizer.encode(prompt["text"], special=True) == prompt["ids"]


def test_greedy_tokens_are_those_of_llama_cpp(loaded: tuple[str, Transformer, Tokenizer]) -> None:
    name, model, _ = loaded
    wrong = {p["text"]: wrong_tokens(model, p) for p in ORACLE["models"][name]["prompts"]}
    assert not any(wrong.values()), wrong


def test_chat(loaded: tuple[str, Transformer, Tokenizer]) -> None:
    _, _, tokenizer = loaded
    text = tokenizer.render_chat([{"role": "user", "content": "你好"}], add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.token_id("<|im_end|>") in tokenizer.stop_ids


def test_imported_model_gives_the_same_tokens(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    metrics = importing(ImportConfig(source=str(path_of("smollm2"))), run)
    assert (metrics["family"], metrics["dtype"], metrics["chat_template"]) == ("llama", "float32", True)
    model, tokenizer = hub.load(run.out)
    assert tokenizer is not None
    for prompt in ORACLE["models"]["smollm2"]["prompts"]:
        assert tokenizer.encode(prompt["text"], special=True) == prompt["ids"]
        assert wrong_tokens(model, prompt) == []
    stops = json.loads((run.out / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.token_id("<|im_end|>") in stops
