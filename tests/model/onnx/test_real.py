"""SmolLM2, straight from its GGUF file: greedy tokens of onnxruntime in both languages are danlu's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.model.hub import load
from danlu.model.onnx.write import write_onnx
from danlu.model.quantized import quantize_
from tests.assets import AssetUnavailable, fetch
from tests.model.onnx.runtime import Session

pytestmark = pytest.mark.real


@pytest.mark.parametrize("kind", ["float32", "int8"])
@torch.inference_mode()
def test_smollm2(kind: str, tmp_path: Path) -> None:
    try:
        path = fetch("smollm2")
    except AssetUnavailable as error:
        pytest.skip(str(error))
    assert write_onnx(path, tmp_path, kind)["checked_by"] == ["onnx", "onnxruntime"]
    model, tokenizer = load(path)
    assert tokenizer is not None
    if kind == "int8":
        quantize_(model)
    session = Session(tmp_path / "model.onnx")
    for text in ("The capital of France is", "春天来了，花儿开了，"):
        session.forget()
        ids = tokenizer.encode(text)
        found = [int(session(torch.tensor([ids]))[0, -1].argmax())]
        while len(found) < 12:
            found.append(int(session(torch.tensor([found[-1:]]))[0, -1].argmax()))
        best = model(torch.tensor([ids + found]))[0, len(ids) - 1 : -1].argmax(-1)
        assert found == best.tolist()
