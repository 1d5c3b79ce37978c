"""Hessians that are not positive definite: damped more, never NaN, and told about by quantising and pruning alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.compress.prune import PruneConfig, prune
from danlu.compress.quantize import QuantizeConfig, quantize
from danlu.compress.walk.damping import lower_factor, tell_damping
from danlu.compress.walk.layers import Moments
from danlu.core.events import Event, Events
from danlu.core.stage import StageRun
from danlu.model.hub import load_model
from tests.compress.models import saved_corpus, saved_model

MATRICES = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")


def test_damping_is_raised_until_there_is_a_factor() -> None:
    hessian = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
    lower, raised = lower_factor(hessian, 0.01)
    assert lower is not None and raised == 3
    assert torch.allclose(lower @ lower.T, hessian + 10 * torch.eye(2), atol=1e-5)
    assert lower_factor(torch.zeros(2, 2), 0.01)[0] is None, "nothing is known of the inputs"
    assert lower_factor(torch.full((2, 2), float("nan")), 0.01)[0] is None


@pytest.mark.parametrize("method", ["gptq", "sparsegpt", "channels", "svd"])
def test_a_bad_hessian_is_told_with_its_block(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments that rounding spoilt in one block: any two inputs come together more than each by itself."""
    of, calls = Moments.of, 0

    def spoilt(*arguments: Any) -> Moments:
        nonlocal calls
        calls += 1
        found = of(*arguments)
        if calls > len(MATRICES):
            return found
        own = found.hessian.diagonal()
        hessian = torch.full_like(found.hessian, 3 * float(own.max()))
        hessian.diagonal().copy_(own)
        return dataclasses.replace(found, hessian=hessian)

    monkeypatch.setattr(Moments, "of", spoilt)
    run, events = StageRun.for_test(tmp_path), list[Event]()
    run.events.subscribe(events.append)
    model, corpus = saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus")
    if method == "gptq":
        quantize(QuantizeConfig(method="gptq", bits=4, rows=4, length=32), run, model, corpus)
    else:
        prune(PruneConfig(method=method, share=0.5, rows=4, length=32), run, model, corpus)
    messages = [event["message"] for event in events if event["event"] == "warning"]
    assert any(message.startswith("block 0: a Hessian was not positive definite") for message in messages), messages
    assert all(torch.isfinite(tensor.float()).all() for tensor in load_model(run.out).state_dict().values())


def test_several_blocks_are_told_in_one_sentence() -> None:
    events, told = Events(), list[Event]()
    events.subscribe(told.append)
    tell_damping([{}, {"damped_again": 0}], events)
    assert not told
    tell_damping([{"damped_again": 1}, {}, {"damped_again": 8}], events)
    assert [event["message"].partition(":")[0] for event in told] == ["blocks 0, 2"]
