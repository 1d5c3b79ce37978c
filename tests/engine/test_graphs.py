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
from danlu.engine.graphs import MOST, DecodeGraphs, Found, Inputs, Play, Shape, cuda_recorder
from danlu.engine.kv_cache import CacheShape, KVCache
from danlu.engine.runner import Runner
from danlu.kernels.gpu.batch import SPLIT, PagedBatch
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.engine.models import SHAPES, greedy, make_model, model_of, random_prompt
from tests.kernels.on_gpu import DEVICE, attention, kernels_on, random  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


class Recorder:
    """As a CUDA graph: computes nothing while it records. What a step is about must come through its inputs."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, compute: Play) -> Play:
        self.recorded += 1

        def play() -> None:
            self.played += 1
            compute()

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
    # Of 5 decoding steps of 3 sequences the first is not recorded. All know their last step: none is played in vain.
    assert recorder.recorded == 1 and recorder.played == 4


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
            expected, got = model.head(plain.hidden(batch)), played.decode(batch)
        assert got is not None and got.full.shape == expected.shape
        torch.testing.assert_close(got.full, expected, atol=1e-5, rtol=1e-5)
        assert (got.best, got.best_ids) == tuple(x.tolist() for x in got.full.max(dim=1))
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
        ((3 * SPLIT - 9,) * 5, (8, 4)),
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
    unread = batch_of(3)
    unread.rows.clear()
    for batch in (
        Batch(),
        chunk,
        unread,
        batch_of(3, hidden=True),
        batch_of(3, adapter=object()),
        batch_of(*[1] * (MOST + 1)),
    ):
        assert Shape.of(batch) is None


def test_inputs_stay_where_they_are() -> None:
    seen: list[tuple[int, ...]] = []
    lines: list[Tensor] = []

    def decode(inputs: Inputs) -> Found:
        seen.append(tuple(t.data_ptr() for t in (*inputs[:3], inputs.paged.lines)))
        lines.append(inputs.paged.lines.clone())
        return Found(inputs.ids[:, None].float(), torch.zeros(2, len(inputs.ids), dtype=torch.int32))

    graphs = DecodeGraphs(decode, 16, torch.device("cpu"), Recorder())
    for lengths in ((40, 100, 20), (7, 8, 9), (7, SPLIT, 9, 40)):
        logits = graphs.run(batch_of(*lengths))
        assert logits is not None and logits.full.shape == (len(lengths), 1)
    assert len(set(seen)) == 1
    assert lines[1][:, :3].tolist() == [[0, 1, 7], [1, 1, 8], [2, 1, 9], [0, 0, 0]]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_gpu_records_and_waits_for_its_own() -> None:
    model, prompts = model_of("gqa"), [random_prompt(n, seed=n) for n in (3, 9, 14)]
    for device in ("cuda:0", "cuda:1"):
        e = Engine((copy.deepcopy(model).to(device), None), block_size=8)
        got = [list(o.token_ids) for o in e.generate(prompts, Sampling(temperature=0, max_tokens=20))]
        assert got == [greedy(model, prompt, 20) for prompt in prompts]
        assert isinstance(e.runner, Runner) and e.runner._fused is not None and e.runner._fused._graphs is not None
        assert any(step.play for step in e.runner._fused._graphs._steps.values())


# --- steps played ahead -----------------------------------------------------------------------------------------------


def test_a_stream_is_played_ahead(recorder: Recorder) -> None:
    """While its table has room, a step is under way before the one before it was read; at the end none is in vain."""
    model, prompt = model_of("gqa"), random_prompt(5)
    e = engine(model)
    e.scheduler.ahead = True
    played = []
    e.submit(prompt, Sampling(temperature=0, max_tokens=24))
    while e.has_work:
        e.step()
        played.append(recorder.played)
    # The prompt, a step that is not recorded, then each plays its own and one ahead, of which the last has no next one.
    assert played[:4] == [0, 0, 2, 3] and played[-1] == len(played) - 2 == 22
    assert next(e.generate(prompt, Sampling(temperature=0, max_tokens=24))).token_ids == tuple(
        greedy(model, prompt, 24)
    )


def test_answers_that_end_leave_the_others_their_step(recorder: Recorder) -> None:
    """One ends at a token that nobody could foresee; the step that was played for both is right for the other."""
    model = model_of("gqa")
    prompts = [random_prompt(n, seed=n) for n in (5, 9)]
    wanted = [greedy(model, prompt, 20) for prompt in prompts]
    stop = wanted[0][7]
    first = wanted[0].index(stop)
    assert stop not in wanted[1], "the test needs another prompt"
    e = engine(model)
    e.scheduler.ahead = True
    settings = [Sampling(temperature=0, max_tokens=20, stop_token_ids=[stop]), Sampling(temperature=0, max_tokens=20)]
    for _ in range(2):
        got = [list(output.token_ids) for output in e.generate(prompts, settings)]
        assert got == [wanted[0][: first + 1], wanted[1]]
    e.cache.check([])


def test_a_request_that_comes_finds_nothing_in_its_way(recorder: Recorder) -> None:
    """Requests come, go on with their own sampling and are cancelled, while steps are played ahead."""
    model = model_of("some_windows")
    prompts = [random_prompt(n, seed=n) for n in (4, 11, 6, 8)]
    e = engine(model, max_sequences=3)
    e.scheduler.ahead = True
    requests = []
    for number, prompt in enumerate(prompts):
        requests.append(e.submit(prompt, Sampling(temperature=0, max_tokens=14)))
        drawn = e.submit(prompt, Sampling(temperature=1.0, seed=1, max_tokens=5)) if number == 1 else None
        for _ in range(3):
            e.step()
        if drawn is not None:
            e.cancel(drawn.id)
    while e.has_work:
        e.step()
        e.scheduler.check()
    assert [list(r.outputs()[0].token_ids) for r in requests] == [greedy(model, prompt, 14) for prompt in prompts]
    assert recorder.played > 14
    e.cache.check([])


def test_a_full_cache_plays_nothing_ahead_and_loses_nothing(recorder: Recorder) -> None:
    model = model_of("gqa")
    prompts = [random_prompt(n, seed=n) for n in (5, 7)]
    tight = engine(model, kv_bytes=6 * 4 * engine(model).cache.shape.bytes_per_token, block_size=4)
    tight.scheduler.ahead = True
    outputs = list(tight.generate(prompts, Sampling(temperature=0, max_tokens=12)))
    assert tight.stats.preemptions > 0
    assert [list(output.token_ids) for output in outputs] == [greedy(model, prompt, 12) for prompt in prompts]
    tight.cache.check([])


def test_blocks_that_changed_hands_are_another_step() -> None:
    """The same slot, position and token, in a table that begins with other blocks."""
    seen: list[list[int]] = []

    def decode(inputs: Inputs) -> Found:
        seen.append(inputs.ids.tolist())
        inputs.ids.fill_(9)
        return Found(inputs.ids[:, None].float(), torch.tensor([[0], [9]], dtype=torch.int32))

    def batch(token: int, length: int, table: list[int]) -> Batch:
        made = Batch(goes_on=True, values=False)
        made.add([token], length - 1, table, 1)
        return made

    graphs = DecodeGraphs(decode, 4, torch.device("cpu"), Recorder())
    graphs.run(batch(3, 5, [7, 8]))
    graphs.run(batch(3, 5, [7, 8]))  # recorded, played, and played ahead
    assert seen == [[3], [3], [9]]
    graphs.run(batch(9, 6, [7, 8]))  # this was it
    assert seen == [[3], [3], [9], [9]]
    graphs.run(batch(9, 7, [6, 8]))
    assert seen == [[3], [3], [9], [9], [9], [9]], "computed anew, and the one after it"
    graphs.run(batch(5, 8, [6, 8]))  # a token that was drawn; behind it the table has no room
    assert seen[6:] == [[5]]


def test_a_graph_that_cannot_be_recorded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(compute: Play) -> Play:
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
