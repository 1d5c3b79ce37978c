"""SmolLM2 written by danlu, against what llama.cpp answered on such files (tests/oracles/gguf_export.py).

Teacher forcing, as in test_real.py. Types whose scales are searched for may come out with another last bit on another
processor: where the file is not the recorded one, a token may differ if llama.cpp's two best logits were close there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from danlu.core.stage import StageRun
from danlu.model.gguf.load import load_gguf
from danlu.model.gguf.save import save_gguf
from danlu.model.importing import ImportConfig, importing
from tests.model.gguf.test_real import path_of

pytestmark = pytest.mark.real
ORACLE = json.loads((Path(__file__).parents[2] / "oracles" / "gguf_export.json").read_text())["smollm2"]
CLOSE = 0.05


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = StageRun.for_test(tmp_path_factory.mktemp("smollm2"))
    importing(ImportConfig(source=str(path_of("smollm2"))), run)
    return run.out


@pytest.mark.parametrize("kind", ORACLE)
def test_llama_cpp_answers_as_danlu_does(kind: str, imported: Path, tmp_path: Path) -> None:
    save_gguf(imported, tmp_path, kind, "smollm2")
    file = tmp_path / f"smollm2-{kind}.gguf"
    same_file = hashlib.sha256(file.read_bytes()).hexdigest() == ORACLE[kind]["sha256"]
    model, tokenizer = load_gguf(file)
    assert tokenizer is not None
    wrong = []
    for prompt in ORACLE[kind]["prompts"]:
        assert tokenizer.encode(prompt["text"], special=True) == prompt["ids"]
        ids = torch.tensor([prompt["ids"] + prompt["greedy"]])
        with torch.inference_mode():
            best = model.head(model.hidden(ids[:, :-1])[:, len(prompt["ids"]) - 1 :])[0].argmax(-1).tolist()
        different = [at for at, (a, b) in enumerate(zip(best, prompt["greedy"], strict=True)) if a != b]
        wrong += [(prompt["text"], at, prompt["gaps"][at]) for at in different[:1]]
    assert [one for one in wrong if same_file or one[2] > CLOSE] == []
