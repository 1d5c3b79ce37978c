"""Compressed models in the engine: the tokens that the model itself would choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu import Engine, Sampling
from danlu.compress.prune import PruneConfig, prune
from danlu.compress.quantize import QuantizeConfig, quantize
from danlu.core.stage import StageRun
from danlu.model.hub import load, load_model, save_model
from danlu.model.quantized import Scheme, quantize_, schemes_of
from tests.compress.models import saved_corpus, saved_model

PROMPT = list(range(40, 60))


def check_greedy_tokens(path: Path, slack: float = 0.0) -> None:
    """slack: in logits, where keys and values in fewer bits may turn what is nearly a tie."""
    with Engine(str(path)) as engine:
        [output] = engine.generate([PROMPT], Sampling(max_tokens=12, temperature=0.0, ignore_eos=True))
    ids = torch.tensor([PROMPT + list(output.token_ids)])
    with torch.no_grad():
        logits = load_model(path)(ids)[0, len(PROMPT) - 1 : -1]
    chosen = logits.gather(1, ids[0, len(PROMPT) :, None])[:, 0]
    assert bool((logits.amax(dim=1) - chosen <= slack).all())


@pytest.mark.parametrize("method", ["sparsegpt", "heads", "channels", "layers", "svd"])
def test_pruned(method: str, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = PruneConfig(method=method, share=0.5, rows=4, length=32)
    prune(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    check_greedy_tokens(run.out)


def test_a_scheme_for_each_matrix(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    config = QuantizeConfig(method="gptq", bits=4, budget=6.5, rows=4, length=32)
    quantize(config, run, saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus"))
    inner = {scheme for name, scheme in schemes_of(load_model(run.out)).items() if name.startswith("blocks.")}
    assert {scheme.bits for scheme in inner} == {4, 8}
    check_greedy_tokens(run.out, slack=0.01)


def test_groups_that_differ_from_block_to_block(tmp_path: Path) -> None:
    saved = saved_model(tmp_path / "model", hidden_size=64)
    model, tokenizer = load(saved.path)
    plan = {"blocks.0.attention.qkv": Scheme(4, 32), "blocks.1.attention.qkv": Scheme(4, 64, False)}
    quantize_(model, plan)
    save_model(model, tmp_path / "out", tokenizer)
    check_greedy_tokens(tmp_path / "out", slack=0.01)
