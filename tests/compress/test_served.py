"""Pruned models in the engine: the tokens that the model itself would choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu import Engine, Sampling
from danlu.compress.prune import PruneConfig, prune
from danlu.core.stage import StageRun
from danlu.model.hub import load_model
from tests.compress.models import saved_corpus, saved_model

PROMPT = list(range(40, 60))


@pytest.mark.parametrize("method", ["sparsegpt", "heads", "channels", "layers", "svd"])
def test_greedy_tokens(method: str, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = PruneConfig(method=method, share=0.5, rows=4, length=32)
    prune(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    model, ids = load_model(run.out), list(PROMPT)
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    with Engine(str(run.out)) as engine:
        [output] = engine.generate([PROMPT], Sampling(max_tokens=12, temperature=0.0, ignore_eos=True))
    assert list(output.token_ids) == ids[len(PROMPT) :]
