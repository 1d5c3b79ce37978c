"""Recorded decoding steps, with a stand-in for the graph: shapes, padding, memory that stays, the same answers."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from danlu.engine import Engine, Sampling, fused
from danlu.engine.batch import Batch
from danlu.engine.fused import FusedForward
from danlu.engine.graphs import MOST, Compute, DecodeGraphs, Shape, cuda_recorder
from danlu.engine.kv_cache import CacheShape, KVCache
from danlu.engine.runner import Runner
from danlu.kernels.gpu.batch import SPLIT, PagedBatch
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.engine.models import SHAPES, greedy, make_model, model_of, random_prompt
from tests.kernels.on_gpu import DEVICE, attention, kernels_on, random  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


class Recorder:
    """As a CUDA graph: computes nothing while it records, and always writes to the same memory when it plays.

    Since nothing is told from one play to the next, what a step is about must have come through the inputs.
    """

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, compute: Compute) -> Compute:
        self.recorded += 1
        result: list[Tensor] = []

        def play() -> Tensor:
            self.played += 1
            now = compute()
            if not result:
                result.append(torch.empty_like(now))
            return result[0].copy_(now)

        return play


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(fused, "cuda_recorder", lambda device: made)
    return made


def engine(model: Transformer, **options: Any) -> Engine:
    return Engine((copy.deepcopy(model).to(DEVICE), None), **{"block_size": 8, **options})


@pytest.mark.parametrize("shape", SHAPES)
def test_played_steps_answer_as_torch_does(recorder: Recorder, shape: str) -> None:
    model = model_of(shape)
    prompts = [random_prompt(n, seed=n) for n in (3, 9, 14)]
    got = [list(o.token_ids) for o in engine(model).generate(prompts, Sampling(temperature=0, max_tokens=6))]
    assert got == [greedy(model, prompt, 6) for prompt in prompts]
    assert recorder.recorded == 1 and recorder.played == 4  # of 5 decoding steps of 3 sequences the first is not


def test_sequences_come_and_go(recorder: Recorder) -> None:
    """Batches of 1 to 5 in buckets of 1, 2, 4 and 8, each in the memory that others left behind."""
    model = model_of("gqa")
    prompts = [random_prompt(n, seed=n) for n in (2, 17, 5, 11, 8)]
    e = engine(model, max_batch_tokens=24)
    for _ in range(2):
        settings = [Sampling(temperature=0, max_tokens=2 + 3 * i) for i in range(5)]
        got = [list(o.token_ids) for o in e.generate(prompts, settings)]
        assert got == [greedy(model, p, s.max_tokens or 0) for p, s in zip(prompts, settings, strict=True)]
    assert isinstance(e.runner, Runner) and e.runner._fused is not None and e.runner._fused._graphs is not None
    assert {shape.rows for shape in e.runner._fused._graphs._steps} == {1, 2, 4, 8}
    assert recorder.recorded >= 3 and recorder.played > 10
    e.cache.check([])


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_padding_changes_no_logit_and_no_slot(recorder: Recorder, bits: int) -> None:
    """Three rows in a bucket of four against the same three as they are."""
    model = make_model("gqa", hidden_size=64, intermediate_size=96).to(DEVICE)
    if bits:
        quantize_(model, bits)
    caches = [KVCache(CacheShape(2, 2, model.config.head_dim, torch.float32), 12, 4, DEVICE) for _ in range(2)]
    played, plain = (FusedForward(model, cache, DEVICE, alone=i == 0) for i, cache in enumerate(caches))
    assert plain._graphs is None
    for cache in caches:
        cache.memory.copy_(random(*cache.memory.shape, seed=3))
    tables = [[7], [2, 9, 4], [11, 3]]
    for step in range(3):
        batch = Batch()
        for table, start in zip(tables, (1, 8, 4), strict=True):
            batch.add([5 + step + start], start + step, table, 1)
        with torch.inference_mode():
            expected, got = plain.hidden(batch), played.hidden(batch)
        assert got.shape == expected.shape == (3, 64)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(caches[0].memory, caches[1].memory, atol=1e-5, rtol=1e-5)
    assert recorder.played == 2


def batch_of(*lengths: int, **changes: Any) -> Batch:
    batch = Batch()
    for length in lengths:
        batch.add([1], length - 1, [0] * -(-length // 16), 1, **changes)
    return batch


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        ((1,), (1, 1)),
        ((SPLIT,), (1, 1)),
        ((3, SPLIT + 1, 2), (4, 2)),
        ((700,) * 5, (8, 4)),
        ((1,) * 16, (16, 1)),
        ((1,) * 17, (32, 1)),
        ((5 * SPLIT,) * MOST, (MOST, 8)),
    ],
)
def test_the_smallest_shape_that_holds_a_step(lengths: tuple[int, ...], shape: tuple[int, int]) -> None:
    assert Shape.of(batch_of(*lengths)) == shape


def test_steps_that_are_not_recorded() -> None:
    chunk = batch_of(4)
    chunk.add([1, 2], 0, [0], 1)
    for batch in (Batch(), chunk, batch_of(3, hidden=True), batch_of(3, adapter=object()), batch_of(*[1] * (MOST + 1))):
        assert Shape.of(batch) is None


def test_inputs_stay_where_they_are() -> None:
    seen: list[tuple[int, ...]] = []
    lines: list[Tensor] = []

    def forward(inputs: Any) -> Tensor:
        seen.append(tuple(t.data_ptr() for t in (*inputs[:3], inputs.paged.lines)))
        lines.append(inputs.paged.lines.clone())
        return inputs.ids[:, None].float()

    graphs = DecodeGraphs(forward, 16, torch.device("cpu"), Recorder())
    for lengths in ((40, 100, 20), (7, 8, 9), (7, 200, 9, 40)):
        hidden = graphs.run(batch_of(*lengths))
        assert hidden is not None and hidden.shape == (len(lengths), 1)
    assert len(set(seen)) == 1
    assert lines[1][:, :3].tolist() == [[0, 1, 7], [1, 1, 8], [2, 1, 9], [0, 0, 0]]


def test_a_graph_that_cannot_be_recorded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(compute: Compute) -> Compute:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(fused, "cuda_recorder", lambda device: broken)
    model = model_of("gqa")
    with caplog.at_level(logging.WARNING, "danlu"):
        got = [list(o.token_ids) for o in engine(model).generate([[1, 2], [3]], Sampling(temperature=0, max_tokens=6))]
    assert got == [greedy(model, prompt, 6) for prompt in ([1, 2], [3])]
    assert len(caplog.records) == 1 and "not permitted" in caplog.text


def test_frequencies_that_follow_the_length_are_not_recorded(recorder: Recorder) -> None:
    model = make_model("gqa", rope_scaling={"type": "dynamic", "factor": 2.0})
    cache = KVCache(CacheShape(2, 2, 8, torch.float32), 4, 8, DEVICE)
    assert FusedForward(model, cache, DEVICE)._graphs is None


def test_nothing_is_recorded_on_a_cpu_or_when_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_recorder(torch.device("cpu")) is None
    monkeypatch.setenv("DANLU_GRAPHS", "off")
    assert cuda_recorder(torch.device("cuda")) is None


@pytest.mark.parametrize("window", [None, 1, 2, SPLIT, SPLIT + 1, SPLIT + 2, 700])
def test_more_splits_than_needed_change_no_bit(window: int | None) -> None:
    """Attention that knows of lengths only how many splits they lie in, and a row of padding."""
    lengths = (1, SPLIT, SPLIT + 1, 2 * SPLIT + 77)
    spans = [(i, 1, n, list(range(i, i + -(-n // 64)))) for i, n in enumerate(lengths)]
    exact = PagedBatch.of(spans, DEVICE)
    lines = torch.zeros(5, exact.lines.shape[1], dtype=torch.int32, device=DEVICE)
    lines[:4] = exact.lines
    keys, values = random(16, 64, 1, 16, seed=1), random(16, 64, 1, 16, seed=2)
    q = random(5, 2, 16)
    wanted = attention.paged_attention(q[:4], keys, values, exact, 0.25, window)
    got = attention.paged_attention(q, keys, values, PagedBatch.of_decoding(lines, 4), 0.25, window)
    assert torch.equal(got[:4], wanted)


@pytest.mark.parametrize("window", range(1, 3 * SPLIT, 61))
def test_so_many_splits_hold_a_window_wherever_it_lies(window: int) -> None:
    most = PagedBatch.of_decoding(torch.zeros(1, 20, dtype=torch.int32), 16).n_splits(window)
    needed = [PagedBatch.of([(0, 1, n, [])], "cpu").n_splits(window) for n in range(window, window + SPLIT)]
    assert most == max(needed)
