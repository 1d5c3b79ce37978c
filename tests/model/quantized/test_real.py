"""SmolLM2 against what transformers answered on files that danlu exported (tests/oracles/compressed_tensors.py).

Teacher forcing: a recorded token has to be the best one of danlu's decoder in torch after all before it. Scales are
searched for and may come out with another last bit on another processor: where two logits are close a token may differ.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.model.gguf.load import load_gguf
from danlu.model.hub import load_model, save_model
from danlu.model.quantized import Scheme, plan_of, quantize_
from danlu.model.quantized.save import save_hf
from tests.assets import AssetUnavailable, fetch

pytestmark = pytest.mark.real
ORACLE = json.loads((Path(__file__).parents[2] / "oracles" / "compressed_tensors.json").read_text(encoding="utf-8"))
SCHEMES = {"int8": Scheme(8), "int4 g32": Scheme(4, 32), "int4 g64 zeros": Scheme(4, 64, False)}
CLOSE = 0.02


@torch.inference_mode()
@pytest.mark.parametrize("name", ORACLE["schemes"])
def test_transformers_answers_as_danlu_does(name: str, tmp_path: Path) -> None:
    try:
        model, tokenizer = load_gguf(fetch("smollm2"))
    except AssetUnavailable as error:
        pytest.skip(str(error))
    assert tokenizer is not None
    quantize_(model, plan_of(model, SCHEMES[name]))
    save_model(model, tmp_path / "model", tokenizer)
    (tmp_path / "out").mkdir()
    save_hf(tmp_path / "model", tmp_path / "out", "compressed-tensors")
    model = load_model(tmp_path / "out", dtype=torch.float32)
    wrong = []
    for text, row in zip(ORACLE["prompts"], ORACLE["schemes"][name]["rows"], strict=True):
        ids = tokenizer.encode(text, special=True)
        logits = model(torch.tensor([ids + row["tokens"]]))[0, len(ids) - 1 : -1]
        lost = logits.amax(-1) - logits[torch.arange(len(row["tokens"])), torch.tensor(row["tokens"])]
        wrong += [(text, lost.tolist())] if bool((lost > CLOSE).any()) else []
    assert wrong == []
