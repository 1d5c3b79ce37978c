"""Embeddings: hidden states of a forward pass without a cache, however and beside whatever the text was read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from danlu.core.errors import DanluError, UserError
from danlu.engine import Engine, Pooling, Replicas, Sampling, parallel
from danlu.engine.compiled import CompiledRunner
from danlu.kernels.build import library
from danlu.model.adapter import merge, write_adapter
from danlu.model.hub import save_model
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.adapters import make_adapter
from tests.engine.models import CONTEXT, SHAPES, greedy, make_model, model_of, random_prompt
from tests.engine.processes import ThreadChild

SIZES: dict[str, Any] = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}  # what the kernels compute
COMPILED = pytest.mark.skipif(library() is None, reason="no compiled kernels here")
PATHS = ["torch", pytest.param("compiled", marks=COMPILED)]
TEXTS = [random_prompt(n, seed=n) for n in (1, 2, 17, 33, CONTEXT)]


def engine(model: Transformer, path: str, **options: object) -> Engine:
    e = Engine((model, None), **{"block_size": 16 if path == "compiled" else 4} | options)  # type: ignore[arg-type]
    assert isinstance(e.runner, CompiledRunner) == (path == "compiled")
    return e


@torch.inference_mode()
def expected(model: Transformer, text: list[int], pooling: str) -> torch.Tensor:
    hidden = model.hidden(torch.tensor([text]))[0]
    return F.normalize(hidden[-1] if pooling == "last" else hidden.mean(0), dim=0)


def test_equal_to_transformers(tmp_path: Path) -> None:
    """A Llama of the library's own making: its last hidden states, on torch and on the compiled kernels."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=99, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    oracle = transformers.LlamaForCausalLM(config).eval()
    oracle.save_pretrained(tmp_path)
    texts = [[token % 99 for token in text] for text in TEXTS]
    with torch.inference_mode():
        hidden = [oracle.model(torch.tensor([text])).last_hidden_state[0] for text in texts]
    for block_size in (8, 16):
        e = Engine(tmp_path, block_size=block_size, max_batch_tokens=20, device="cpu", dtype="float32")
        assert isinstance(e.runner, CompiledRunner) == (block_size == 16 and library() is not None)
        for normalize in (False, True):
            last, mean = torch.stack([h[-1] for h in hidden]), torch.stack([h.mean(0) for h in hidden])
            if normalize:
                last, mean = F.normalize(last, dim=1), F.normalize(mean, dim=1)
            torch.testing.assert_close(e.embed(texts, normalize=normalize), last, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(e.embed(texts, "mean", normalize=normalize), mean, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_equal_to_a_forward_pass_in_chunks_and_in_company(shape: str, pooling: str) -> None:
    model = model_of(shape)
    for budget in (5, 16, 256):
        e = engine(model, "torch", max_batch_tokens=budget)
        got = e.embed(TEXTS, pooling)
        assert got.shape == (5, 32) and got.dtype == torch.float32
        for vector, text in zip(got, TEXTS, strict=True):
            torch.testing.assert_close(vector, expected(model, text, pooling), atol=1e-4, rtol=1e-4)
        assert e.stats.kv_blocks_used == 0 and e.stats.generated_tokens == 0 and e.stats.finished == {"stop": 5}


def test_one_text_none_and_a_string(talker: Any) -> None:
    e = Engine(talker)
    one, many = e.embed("明月"), e.embed(["明月", "def", "明月"])
    assert one.shape == (1, 32) and many.shape == (3, 32)
    torch.testing.assert_close(many[0], one[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(e.embed(e.encode("明月")), one, atol=1e-5, rtol=1e-5)
    assert float(many[0] @ many[1]) < 0.99 < float(many[0] @ many[2])
    assert e.embed([]).shape == (0, 32)


@COMPILED
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_bits_do_not_depend_on_company_chunks_and_preemption(bits: int) -> None:
    """Vectors, and the answers and scores beside them, are equal to the last bit however they were computed."""
    model = make_model("gqa", **SIZES)
    if bits:
        quantize_(model, bits)
    last, mean = (Sampling(max_tokens=0, pooling=Pooling(kind)) for kind in ("last", "mean"))
    answer = Sampling(temperature=0.9, seed=1, max_tokens=34, logprobs=2, ignore_eos=True)
    asked = [
        (random_prompt(30, seed=1), answer),
        (random_prompt(16, seed=3), answer),
        (random_prompt(50, seed=2), mean),
        (random_prompt(33, seed=4), last),
        (random_prompt(60, seed=5), mean),
        (random_prompt(25, seed=6), Sampling(max_tokens=0, prompt_logprobs=2)),
        (random_prompt(1, seed=7), mean),
        (random_prompt(41, seed=8), last),
    ]
    alone = [next(engine(model, "compiled").generate(text, how)) for text, how in asked]
    per_token = engine(model, "compiled").cache.shape.bytes_per_token
    preemptions = 0
    for budget, blocks in ((7, 7), (23, 9), (256, 99)):
        room = {
            "kv_bytes": blocks * 16 * per_token,
            "max_sequences": 5,
            "stall": None,
        }  # so that a clock decides nothing
        e = engine(model, "compiled", max_batch_tokens=budget, **room)
        for _ in range(2):  # the second time beginnings are in the cache
            together = list(e.generate([text for text, _ in asked], [how for _, how in asked]))
            for a, b in zip(alone, together, strict=True):
                assert (a.embedding, a.token_ids, a.logprobs) == (b.embedding, b.token_ids, b.logprobs)
                assert a.prompt_logprobs == b.prompt_logprobs
        preemptions += e.stats.preemptions
        e.cache.check([])
    assert preemptions > 0
    assert len({out.embedding for out in alone}) == 6


@pytest.mark.parametrize("path", PATHS)
def test_only_rows_that_are_wanted_go_through_the_head(path: str) -> None:
    model = make_model("gqa", **SIZES)
    e = engine(model, path)
    shapes, run = [], e.runner.run

    def watched(batch: Any) -> Any:
        logits, hidden = run(batch)
        shapes.append((len(batch.ids), len(logits.best), *hidden.shape))
        return logits, hidden

    e.runner.run = watched  # type: ignore[method-assign]
    e.embed(TEXTS[3], "mean")
    e.embed(TEXTS[2])
    assert shapes == [(33, 0, 33, 64), (17, 0, 1, 64)]
    if isinstance(e.runner, CompiledRunner):
        calls, step = [], e.runner.decoder.step
        e.runner.decoder.step = lambda *a, **k: calls.append((a[5], k)) or step(*a, **k)  # type: ignore
    answer = e.submit(TEXTS[1], Sampling(max_tokens=2, ignore_eos=True))
    vector = e.submit(TEXTS[2], Sampling(max_tokens=0, pooling=Pooling("mean")))
    e.step()
    assert vector.finished and not answer.finished
    assert shapes[2:] == [(19, 1, 17, 64)]
    if isinstance(e.runner, CompiledRunner):
        assert [(len(rows), k["want_best"], k["want_hidden"]) for rows, k in calls] == [
            (1, True, False),
            (17, False, True),
        ]


@pytest.mark.parametrize("path", PATHS)
def test_a_known_beginning_is_used_where_it_is_right(path: str) -> None:
    model = make_model("gqa", **SIZES)
    text = random_prompt(60)
    for pooling in ("last", "mean"):
        e = engine(model, path)
        next(e.generate(text, Sampling(max_tokens=1)))
        before = e.stats.prefix_hits
        torch.testing.assert_close(e.embed(text, pooling)[0], expected(model, text, pooling), atol=1e-4, rtol=1e-4)
        known = 59 // e.cache.block_size * e.cache.block_size
        assert e.stats.prefix_hits - before == (known if pooling == "last" else 0), "a mean is over all tokens"
        before = e.stats.prefix_hits
        assert list(next(e.generate(text, Sampling(max_tokens=4, temperature=0))).token_ids) == greedy(model, text, 4)
        assert e.stats.prefix_hits - before == known, "what was read for a vector serves the next prompt"


@pytest.mark.parametrize("path", PATHS)
def test_preemption_in_the_middle_of_a_text(path: str) -> None:
    """Rows that were added are not added again. An answer that grows takes the blocks of a half-read text."""
    model = make_model("gqa", **SIZES)
    size = 16 if path == "compiled" else 4
    per_token = engine(model, path).cache.shape.bytes_per_token
    e = engine(model, path, kv_bytes=64 * per_token, max_batch_tokens=4)
    first = e.submit(random_prompt(size - 1), Sampling(max_tokens=20, temperature=0, ignore_eos=True))
    text = random_prompt(64 - size, seed=3)
    second = e.submit(text, Sampling(max_tokens=0, pooling=Pooling("mean")))
    while not second.finished:
        e.step()
        e.scheduler.check()
    assert e.stats.preemptions > 0 and second.pool is not None and second.pool.n == len(text)
    got = torch.tensor(second.outputs()[0].embedding)
    torch.testing.assert_close(got, expected(model, text, "mean"), atol=1e-4, rtol=1e-4)
    assert first.finished and list(first.outputs()[0].token_ids) == greedy(model, random_prompt(size - 1), 20)


@pytest.mark.parametrize("path", PATHS)
def test_adapters(path: str, tmp_path: Path) -> None:
    model = make_model("gqa", **SIZES, family="llama")
    adapters = {name: make_adapter(model.config, seed=seed) for seed, name in enumerate(("one", "two"))}
    models: dict[str | None, Transformer] = {None: model}
    for name, adapter in adapters.items():
        write_adapter(adapter, tmp_path / name, model.config)
        models[name] = copy.deepcopy(model)
        merge(models[name], adapter)
    e = engine(model, path, adapters={name: tmp_path / name for name in adapters}, max_batch_tokens=19)
    names = ["two", None, "one", "two", None]
    for pooling in ("last", "mean", "last"):  # the third time beginnings are known, each under its adapter
        got = e.embed([TEXTS[3]] * 5, pooling, adapter=names)
        for vector, name in zip(got, names, strict=True):
            torch.testing.assert_close(vector, expected(models[name], TEXTS[3], pooling), atol=1e-3, rtol=1e-3)
    assert float(got[0] @ got[1]) < 0.99 and float(got[0] @ got[2]) < 0.99, "the adapters are told apart"


@pytest.mark.parametrize("drafter", ["lookup", "model"])
def test_beside_answers_that_are_guessed(drafter: str) -> None:
    model, prompt = model_of("gqa"), [1, 2, 3, 4] * 6
    e = Engine((model, None), speculate="lookup" if drafter == "lookup" else (make_model("gqa", n_layers=1), None))
    assert e.speculator is not None
    e.speculator._worth = lambda lengths: list(lengths)  # type: ignore[method-assign]
    answer = e.submit(prompt, Sampling(temperature=0, max_tokens=30))
    for text in TEXTS:
        e.step()
        torch.testing.assert_close(e.embed(text)[0], expected(model, text, "last"), atol=1e-4, rtol=1e-4)
    while not answer.finished:
        e.step()
    assert list(answer.outputs()[0].token_ids) == greedy(model, prompt, 30)
    assert drafter == "lookup" or e.stats.draft_tokens > 0


def test_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "Child", ThreadChild)
    model, prompt = model_of("gqa"), random_prompt(9)
    with Engine((model, None), tensor_parallel=2, max_batch_tokens=11) as e:
        answer = e.submit(prompt, Sampling(temperature=0, max_tokens=8))
        for pooling in ("last", "mean"):
            got = e.embed(TEXTS, pooling)
            wanted = torch.stack([expected(model, text, pooling) for text in TEXTS])
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
        assert list(answer.outputs()[0].token_ids) == greedy(model, prompt, 8)


def test_replicas_bring_vectors_and_scores(tmp_path: Path) -> None:
    model = make_model("gqa", family="llama")
    save_model(model, tmp_path / "model")
    with Replicas(tmp_path / "model", 1, kv_bytes=1 << 22) as engines:
        vector = engines.submit(TEXTS[3], Sampling(max_tokens=0, pooling=Pooling("mean")))
        scores = engines.submit(TEXTS[2], Sampling(max_tokens=2, prompt_logprobs=1, n=2))
        deltas = []
        while engines.has_work:
            deltas += engines.step()
    [only] = [delta for delta in deltas if delta.request_id == vector.id]
    assert only.finish_reason == "stop"
    torch.testing.assert_close(torch.tensor(only.embedding), expected(model, TEXTS[3], "mean"), atol=1e-4, rtol=1e-4)
    [wanted] = Engine(tmp_path / "model").score(TEXTS[2], top=1)
    first = [next(d for d in deltas if d.request_id == scores.id and d.index == index) for index in (0, 1)]
    for delta in first:
        assert delta.prompt_logprobs is not None
        assert [s.token_id for s in delta.prompt_logprobs] == [s.token_id for s in wanted]
        assert [s.logprob for s in delta.prompt_logprobs] == pytest.approx([s.logprob for s in wanted], abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_give_float32(dtype: str) -> None:
    model = copy.deepcopy(model_of("gqa"))
    e = Engine((model, None), dtype=dtype)
    got = e.embed(TEXTS, "mean")
    assert got.dtype == torch.float32 and torch.allclose(got.norm(dim=1), torch.ones(5), atol=1e-5)
    wanted = torch.stack([expected(model_of("gqa"), text, "mean") for text in TEXTS])
    assert float((got * wanted).sum(1).min()) > 0.99


def test_a_cancelled_text_leaves_nothing_behind() -> None:
    e = engine(model_of("gqa"), "torch", max_batch_tokens=4)
    request = e.submit(TEXTS[4], Sampling(max_tokens=0, pooling=Pooling("mean")))
    e.step()
    e.cancel(request.id)
    assert request.outputs()[0].finish_reason == "cancelled" and request.outputs()[0].embedding is None
    assert e.stats.kv_blocks_used == 0
    e.cache.check([])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_nan_is_an_error_and_the_engine_goes_on(path: str, pooling: str) -> None:
    model = copy.deepcopy(make_model("gqa", **SIZES))
    with torch.no_grad():
        model.embedding.weight[5] = float("nan")
    e = engine(model, path)
    with pytest.raises(DanluError, match="not a number"):
        e.embed([1, 5, 2], pooling)
    text = [1, 2, 3, 4]
    torch.testing.assert_close(e.embed(text, pooling)[0], expected(model, text, pooling), atol=1e-4, rtol=1e-4)
    e.cache.check([])


def test_what_is_refused() -> None:
    e = engine(model_of("gqa"), "torch", kv_bytes=5 * 4 * 256)
    assert e.capacity == 20
    assert e.embed(random_prompt(20)).shape == (1, 32)
    with pytest.raises(UserError, match="needs 21 tokens in the KV cache, which holds 20"):
        e.embed(random_prompt(21))
    with pytest.raises(UserError, match="the context of this model"):
        e.embed(random_prompt(CONTEXT + 1))
    with pytest.raises(UserError, match="the prompt is empty"):
        e.embed([[]])
    with pytest.raises(UserError, match='must be "last" or "mean"'):
        e.embed([1], "cls")
    with pytest.raises(UserError, match="no adapter"):
        e.embed([1], adapter="x")
    assert not e.has_work
