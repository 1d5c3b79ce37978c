"""What the machine could do: counted by hand, and measured."""

from __future__ import annotations

import copy

import pytest

from danlu.engine import Engine
from danlu.engine.limits import Machine, arithmetic_of, measure_machine, prefill_flops, weight_bytes
from danlu.model.quantized import SCHEMES, plan_of, quantize_
from tests.engine.models import make_model, model_of


def test_prefill_flops_are_those_of_every_product() -> None:
    """Counted by torch while it computes: all tokens through the blocks, and attention over the whole square."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, n = model_of("gqa"), 20
    config = model.config
    with FlopCounterMode(display=False) as counter:
        model.head(model.hidden(torch.arange(n)[None])[:, -1])
    linear = sum(count for name, count in counter.get_flop_counts()["Global"].items() if "mm" in str(name))
    pairs = n * (n + 1) // 2
    attention = 4 * config.head_dim * config.n_heads * config.n_layers * pairs
    assert prefill_flops(model, n) == linear + attention


def test_weight_bytes() -> None:
    tied, untied = model_of("gqa"), model_of("mha")
    assert tied.lm_head is None and weight_bytes(tied) == 4 * tied.n_params
    table = untied.config.vocab_size * untied.config.hidden_size
    assert weight_bytes(untied) == 4 * (untied.n_params - table), "one row of it is read for a token"
    learned = model_of("learned")
    assert learned.position_embedding is not None
    assert weight_bytes(learned) == 4 * (learned.n_params - learned.position_embedding.weight.numel())
    model = make_model("gqa", hidden_size=64, intermediate_size=96)
    before = weight_bytes(model)
    quantize_(model, plan_of(model, SCHEMES[4], SCHEMES[4]))
    assert before / weight_bytes(model) == pytest.approx(32 / 4.5, rel=0.1)


def test_the_peak_is_that_of_the_arithmetic() -> None:
    machine = Machine(1.0, {"float32": 2.0, "bfloat16": 5.0, "int8": 3.0})
    assert [machine.peak(name) for name in ("float32", "bfloat16", "int8")] == [2.0, 5.0, 5.0]
    model = make_model("gqa", hidden_size=64, intermediate_size=96)
    assert arithmetic_of(Engine((model, None))) == "float32"
    small = copy.deepcopy(model)
    quantize_(small, 8)
    assert arithmetic_of(Engine((small, None))) == "int8"


def test_this_machine() -> None:
    machine = measure_machine()
    assert machine.bandwidth > 1e8 and machine.products["float32"] > 1e8
    assert all(rate >= 0 for rate in machine.products.values())
