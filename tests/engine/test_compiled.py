"""The engine on the compiled kernels: the same answers as on torch, whatever else runs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.engine import Engine, Sampling
from danlu.engine.compiled import CompiledRunner, compile_model
from danlu.engine.limits import weight_bytes
from danlu.kernels.build import library
from danlu.model.hub import save_model
from danlu.model.quantized import FLOAT8, NF4, Scheme, quantize_
from danlu.model.transformer import Transformer
from tests.engine.models import greedy, make_model, random_prompt

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")

SIZES = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
FAMILY_OF: dict[str, dict[str, Any]] = {  # shapes that a file can have
    "gqa": {"family": "llama"},
    "mha": {"family": "qwen2", "head_dim": 32},
    "qk_norm": {},
    "learned": {"family": "gpt2", "n_kv_heads": 4, "qkv_bias": True, "output_bias": True, "mlp_bias": True},
}
SHAPES = ("gqa", "mqa", "mha", "window", "some_windows", "qk_norm", "learned")


def model_of(shape: str) -> Transformer:
    return make_model(shape, **SIZES | ({"head_dim": 32} if shape == "mha" else {}))


def engine(model: Transformer, **limits: int) -> Engine:
    e = Engine((model, None), **limits)  # type: ignore[arg-type]
    assert isinstance(e.runner, CompiledRunner)
    return e


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_the_oracle_in_any_company(shape: str) -> None:
    model = model_of(shape)
    prompts = [random_prompt(n, seed=n) for n in (1, 5, 19, 33, 2, 8)]
    wanted = [greedy(model, p, 12) for p in prompts]
    e = engine(model, max_batch_tokens=11, max_sequences=3)
    got = [list(o.token_ids) for o in e.generate(prompts, Sampling(temperature=0, max_tokens=12))]
    assert got == wanted
    e.cache.check([])


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_bits_do_not_depend_on_batches_chunks_and_preemption(bits: int) -> None:
    """Sampled answers with log-probabilities: equal to the last bit however they were computed."""
    model = model_of("gqa")
    if bits:
        quantize_(model, bits)
    prompts = [random_prompt(n, seed=n) for n in (30, 12, 25, 17)]
    settings = [Sampling(temperature=0.9, seed=i, max_tokens=24, logprobs=2) for i in range(4)]
    alone = [next(engine(model).generate(p, s)) for p, s in zip(prompts, settings, strict=True)]
    tight = engine(model, kv_bytes=9 * 16 * engine(model).cache.shape.bytes_per_token, max_batch_tokens=7)
    together = list(tight.generate(prompts, settings))
    assert tight.stats.preemptions > 0
    for a, b in zip(alone, together, strict=True):
        assert a.token_ids == b.token_ids and a.logprobs == b.logprobs


@pytest.mark.parametrize("bits", [0, 4])
def test_bits_do_not_depend_on_guesses(bits: int) -> None:
    """Drafts that are right, wrong and cut short: the same tokens and the same log-probabilities."""
    model, small = model_of("gqa"), make_model("gqa", **SIZES, n_layers=1)
    if bits:
        quantize_(model, bits)
    prompts = [[1, 2, 3, 4] * 6, random_prompt(12), [9, 8] * 9]
    settings = [Sampling(temperature=0.6, seed=i, max_tokens=30, logprobs=2) for i in range(3)]
    wanted = list(engine(model).generate(prompts, settings))
    for source in ((small, None), (model, None)):
        e = Engine((model, None), speculate=source)
        assert e.speculator is not None
        e.speculator._worth = lambda lengths: list(lengths)  # type: ignore[method-assign]
        got = list(e.generate(prompts, settings))
        assert e.stats.draft_hits > 0
        for a, b in zip(wanted, got, strict=True):
            assert a.token_ids == b.token_ids and a.logprobs == b.logprobs


@pytest.mark.parametrize(
    "scheme",
    [Scheme(8), Scheme(4, 32), Scheme(4, 64, False), Scheme(4, None), Scheme(8, 32), Scheme(8, 64, False), FLOAT8, NF4],
    ids=str,
)
def test_quantised_answers_are_near_those_of_torch(scheme: Scheme) -> None:
    """Every way of storing, in the library's own products or written out for it."""
    model = make_model("qk_norm", **SIZES | FAMILY_OF["qk_norm"] | {"hidden_size": 64, "intermediate_size": 128})
    quantize_(model, scheme)
    ids = random_prompt(40)
    compiled = next(engine(model).generate(ids, Sampling(temperature=0, max_tokens=1, logprobs=101)))
    on_torch = next(
        Engine((model, None), block_size=8).generate(ids, Sampling(temperature=0, max_tokens=1, logprobs=101))
    )
    a, b = (dict(o.logprobs[0].top) for o in (compiled, on_torch))  # type: ignore[index]
    assert max(abs(a[token] - b[token]) for token in a if b[token] > -8) < 0.3


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_nan_ends_the_request_and_not_the_engine(bits: int) -> None:
    model = copy.deepcopy(model_of("gqa"))
    if bits:
        quantize_(model, bits)
    with torch.no_grad():
        model.blocks[1].mlp_norm.weight[3] = float("nan")
    e = engine(model)
    request = e.submit([1, 2, 3], Sampling(max_tokens=4))
    while not request.finished:
        e.step()
    assert request.outputs()[0].finish_reason == "error"
    e.cache.check([])


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("shape", FAMILY_OF)
def test_weights_are_held_once(shape: str, bits: int, tmp_path: Path) -> None:
    """From a directory: the same bits as from a model in memory, which keeps its numbers; the engine's own has none."""
    model = make_model(shape, **SIZES | FAMILY_OF[shape])
    if bits:
        quantize_(model, bits)
    save_model(model, tmp_path)
    ids, sampling = random_prompt(20), Sampling(temperature=0.8, seed=1, max_tokens=9, logprobs=3)
    given, read = engine(model), Engine(tmp_path)
    a, b = next(given.generate(ids, sampling)), next(read.generate(ids, sampling))
    assert a.token_ids == b.token_ids and a.logprobs == b.logprobs
    assert not any(tensor.is_meta for tensor in given.model.state_dict().values())
    assert all(tensor.is_meta for tensor in read.model.state_dict().values())
    assert read.device == given.device and read.dtype == given.dtype
    assert weight_bytes(read.model) == weight_bytes(model)
    drafted = Engine(tmp_path, speculate=tmp_path)
    assert next(drafted.generate(ids, sampling)).token_ids == a.token_ids


def test_torch_gets_the_numbers_that_the_kernels_refuse(tmp_path: Path) -> None:
    narrow = make_model("gqa", family="llama")  # heads of 8
    save_model(narrow, tmp_path)
    e = Engine(tmp_path)
    assert not isinstance(e.runner, CompiledRunner)
    [out] = e.generate([5, 6, 7], Sampling(temperature=0, max_tokens=8))
    assert list(out.token_ids) == greedy(narrow, [5, 6, 7], 8)


def test_what_the_kernels_do_not_compute_runs_on_torch() -> None:
    narrow = make_model("gqa")  # heads of 8
    assert compile_model(narrow, max_tokens=8, max_context=64, kv_dtype=torch.float32) is None
    assert not isinstance(Engine((narrow, None)).runner, CompiledRunner)


def test_logits_are_written_only_where_they_are_read() -> None:
    """Greedy answers need the largest alone; a neighbour that draws gets all of them, and nobody's answer changes."""
    e = Engine((model_of("gqa"), None))
    asked, step = [], e.runner.decoder.step  # type: ignore[union-attr]
    e.runner.decoder.step = lambda *a, **k: asked.append(k["want_logits"]) or step(*a, **k)  # type: ignore
    best = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True)
    alone = next(e.generate([1, 2, 3], best)).token_ids
    assert asked == [False] * 4
    others = [Sampling(max_tokens=4, temperature=1.0, seed=1, ignore_eos=True), replace(best, logprobs=2)]
    outs = list(e.generate([[1, 2, 3]] * 3, [best, *others]))
    assert outs[0].token_ids == outs[2].token_ids == alone
    assert asked[4:] == [True] * len(asked[4:])
