"""Adapters beside one model: each answer is that of the merged model, whoever else is in the batch."""

from __future__ import annotations

import copy
import gc
import threading
from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.engine import Engine, Output, Sampling
from danlu.engine.compiled import CompiledRunner
from danlu.kernels.build import library
from danlu.model.adapter import Adapter, merge, write_adapter
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.adapters import make_adapter
from tests.engine.models import VOCABULARY, full_forward, greedy, make_model, random_prompt

SIZES = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
GREEDY = Sampling(temperature=0, max_tokens=10)
EVERY = Sampling(temperature=0, max_tokens=1, logprobs=VOCABULARY)
PATHS = ["torch", pytest.param("compiled", marks=pytest.mark.skipif(library() is None, reason="no compiled kernels"))]


def base(shape: str = "gqa") -> Transformer:
    return make_model(shape, **SIZES | ({"family": "gpt2"} if shape == "learned" else {"family": "llama"}))


def adapters_of(model: Transformer) -> dict[str, Adapter]:
    """Different ranks, different matrices."""
    config = model.config
    some = ("v_proj", "down_proj", "c_attn", "mlp.c_proj")
    return {
        "small": make_adapter(config, seed=1, rank=1),
        "some": make_adapter(config, seed=2, rank=5, ends=some),
        "large": make_adapter(config, seed=3, rank=40, scale=0.5),
    }


def merged(model: Transformer, adapter: Adapter) -> Transformer:
    model = copy.deepcopy(model)
    merge(model, adapter)
    return model


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """`adapters_of(base())` on disk."""
    return written(base(), tmp_path)


def written(model: Transformer, folder: Path) -> dict[str, Path]:
    for name, adapter in adapters_of(model).items():
        write_adapter(adapter, folder / name, model.config)
    return {name: folder / name for name in adapters_of(model)}


def engine(model: Transformer, path: str, **options: object) -> Engine:
    e = Engine((model, None), **{"block_size": 16 if path == "compiled" else 4} | options)  # type: ignore[arg-type]
    assert isinstance(e.runner, CompiledRunner) == (path == "compiled")
    return e


def bits(output: Output) -> object:
    """Everything a row's logits decide, to the last bit."""
    return output.token_ids, output.logprobs, output.finish_reason


# ---- the mathematics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", ["gqa", "mha", "learned"])
def test_an_adapter_is_the_merged_model(path: str, shape: str, tmp_path: Path) -> None:
    model = base(shape)
    e = engine(model, path, adapters=written(model, tmp_path))
    prompt = random_prompt(21)
    firsts = []
    for name, adapter in adapters_of(model).items():
        own = merged(model, adapter)
        assert list(next(e.generate(prompt, GREEDY, adapter=name)).token_ids) == greedy(own, prompt, 10)
        beside, into = (
            next(f.generate(prompt, EVERY, adapter=a)).logprobs[0].top  # type: ignore[index]
            for f, a in ((e, name), (engine(own, path), None))
        )
        difference = max(abs(dict(beside)[token] - value) for token, value in into)
        assert difference < 1e-4
        firsts.append(dict(beside))
    assert max(abs(firsts[0][t] - firsts[1][t]) for t in firsts[0]) > 0.1, "the adapters are told apart"


@pytest.mark.parametrize("path", PATHS)
def test_several_in_one_batch(path: str, sources: dict[str, Path]) -> None:
    model = base()
    models = {None: model} | {name: merged(model, adapter) for name, adapter in adapters_of(model).items()}
    names = ["some", None, "large", "small", "some", None, "large"]
    prompts = [random_prompt(n, seed=n) for n in (20, 3, 1, 17, 20, 9, 33)]
    e = engine(model, path, adapters=sources, max_batch_tokens=13)
    got = [list(o.token_ids) for o in e.generate(prompts, GREEDY, adapter=names)]
    assert got == [greedy(models[name], p, 10) for p, name in zip(prompts, names, strict=True)]
    e.cache.check([])


@pytest.mark.skipif(library() is None, reason="no compiled kernels here")
@pytest.mark.parametrize("quantised", [0, 8, 4])
def test_bits_do_not_depend_on_company_chunks_and_preemption(quantised: int, sources: dict[str, Path]) -> None:
    """Nor, without an adapter, on whether there are adapters at all."""
    model = base()
    if quantised:
        quantize_(model, quantised)
    names = ["large", None, "small", "some"]
    prompts = [random_prompt(n, seed=n) for n in (30, 12, 25, 17)]
    settings = [Sampling(temperature=0.9, seed=i, max_tokens=24, logprobs=2) for i in range(4)]
    alone = [
        next(engine(model, "compiled", adapters={name: sources[name]} if name else None).generate(p, s, name))
        for p, s, name in zip(prompts, settings, names, strict=True)
    ]
    tight = engine(
        model,
        "compiled",
        adapters=sources,
        kv_bytes=9 * 16 * engine(model, "compiled").cache.shape.bytes_per_token,
        max_batch_tokens=7,
    )
    together = list(tight.generate(prompts, settings, names))
    assert tight.stats.preemptions > 0
    assert [bits(o) for o in together] == [bits(o) for o in alone]
    tight.cache.check([])


@pytest.mark.skipif(library() is None, reason="no compiled kernels here")
@pytest.mark.parametrize("quantised", [8, 4])
def test_beside_a_quantised_base(quantised: int, sources: dict[str, Path]) -> None:
    """What torch computes from the same bytes, up to the rounding of activations."""
    model = base()
    quantize_(model, quantised)
    prompt = random_prompt(30)
    tops = [
        dict(next(engine(model, path, adapters=sources).generate(prompt, EVERY, "large")).logprobs[0].top)  # type: ignore[index]
        for path in ("torch", "compiled")
    ]
    plain = dict(next(engine(model, "torch").generate(prompt, EVERY)).logprobs[0].top)  # type: ignore[index]
    near = max(abs(tops[0][t] - tops[1][t]) for t in plain if tops[0][t] > -8)
    assert near < 0.5 < max(abs(plain[t] - tops[0][t]) for t in plain if tops[0][t] > -8)


@pytest.mark.parametrize("path", PATHS)
def test_scores(path: str, sources: dict[str, Path]) -> None:
    model, text = base(), random_prompt(30)
    e = engine(model, path, adapters=sources, max_batch_tokens=13)
    names = ["large", None, "some"]
    models = {None: model} | {name: merged(model, adapter) for name, adapter in adapters_of(model).items()}
    for scores, name in zip(e.score([text] * 3, adapter=names), names, strict=True):
        wanted = full_forward(models[name], text)[:-1].log_softmax(-1)[range(29), text[1:]]
        assert [s.logprob for s in scores] == pytest.approx(wanted.tolist(), abs=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quantised", [0, 4])
def test_in_sixteen_bits_on_torch(dtype: str, quantised: int, sources: dict[str, Path]) -> None:
    model, prompt = base(), random_prompt(20)
    if quantised:
        quantize_(model, quantised)
    tops = [
        dict(next(e.generate(prompt, EVERY, "some")).logprobs[0].top)  # type: ignore[index]
        for e in (engine(copy.deepcopy(model), "torch", adapters=sources, dtype=d) for d in ("float32", dtype))
    ]
    plain = dict(next(engine(model, "torch").generate(prompt, EVERY)).logprobs[0].top)  # type: ignore[index]
    likely = [token for token in plain if tops[0][token] > -6]
    assert max(abs(tops[0][t] - tops[1][t]) for t in likely) < 0.3 < max(abs(tops[0][t] - plain[t]) for t in likely)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("drafter", ["lookup", "model"])
def test_with_speculation(path: str, drafter: str, sources: dict[str, Path]) -> None:
    """Guesses come from the text, or from a model without adapters; the answers are those of the adapters."""
    model = base()
    models = {None: model} | {name: merged(model, adapter) for name, adapter in adapters_of(model).items()}
    names = ["some", None, "large"]
    prompts = [random_prompt(5, seed=n) * 3 for n in (1, 2, 3)]
    e = engine(model, path, adapters=sources, speculate="lookup" if drafter == "lookup" else (base(), None))
    got = [list(o.token_ids) for o in e.generate(prompts, GREEDY, names)]
    assert got == [greedy(models[name], p, 10) for p, name in zip(prompts, names, strict=True)]


def test_preemption_on_torch(sources: dict[str, Path]) -> None:
    model = base()
    roomy = engine(model, "torch", adapters=sources)
    tight = engine(model, "torch", adapters=sources, kv_bytes=11 * 4 * roomy.cache.shape.bytes_per_token)
    prompts = [random_prompt(n, seed=n) for n in (9, 12, 15, 11)]
    names = ["some", "large", None, "some"]
    s = Sampling(temperature=0, max_tokens=20)
    wanted = [o.token_ids for o in roomy.generate(prompts, s, names)]
    assert [o.token_ids for o in tight.generate(prompts, s, names)] == wanted
    assert tight.stats.preemptions > 0
    tight.cache.check([])


# ---- the prefix cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_prefix_is_shared_under_one_adapter_only(path: str, sources: dict[str, Path]) -> None:
    model, prompt = base(), random_prompt(40, seed=5)
    e = engine(model, path, adapters=sources)
    known = e.cache.block_size * (39 // e.cache.block_size)
    models = {None: model} | {name: merged(model, adapter) for name, adapter in adapters_of(model).items()}
    for name in (None, "some", "large"):
        for hits in (0, known):
            before = e.stats.prefix_hits
            assert list(next(e.generate(prompt, GREEDY, adapter=name)).token_ids) == greedy(models[name], prompt, 10)
            assert e.stats.prefix_hits - before == hits
    # Other weights under an old name begin with nothing known.
    e.unload_adapter("some")
    e.load_adapter("some", sources["small"])
    before = e.stats.prefix_hits
    answer = next(e.generate(prompt, GREEDY, adapter="some"))
    assert list(answer.token_ids) == greedy(models["small"], prompt, 10) and e.stats.prefix_hits == before


# ---- coming and going ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_unloading_lets_running_requests_finish(path: str, sources: dict[str, Path]) -> None:
    model = base()
    e = engine(model, path, adapters=sources)
    wanted = greedy(merged(model, adapters_of(model)["large"]), [1, 2, 3], 10)
    running = e.submit([1, 2, 3], GREEDY, adapter="large")
    for _ in range(3):
        e.step()
    waiting = e.submit([1, 2, 3], GREEDY, adapter="large")
    e.unload_adapter("large")
    with pytest.raises(UserError, match=r'no adapter "large".*loaded: small, some'):
        e.submit([1, 2, 3], GREEDY, adapter="large")
    e.load_adapter("large", sources["small"])  # the name is free, and does not change who is under way
    while e.has_work:
        e.step()
    assert [list(r.outputs()[0].token_ids) for r in (running, waiting)] == [wanted, wanted]
    assert len(e.runner._adapters) == 4
    del running, waiting
    gc.collect()
    assert len(e.runner._adapters) == 3, "the weights went with the last request"


@pytest.mark.parametrize("path", PATHS)
def test_loading_while_another_thread_steps(path: str, sources: dict[str, Path]) -> None:
    model = base()
    e = engine(model, path, adapters={"some": sources["some"]})
    wanted = greedy(merged(model, adapters_of(model)["some"]), [1, 2, 3], 30)
    request = e.submit([1, 2, 3], Sampling(temperature=0, max_tokens=30), adapter="some")
    thread = threading.Thread(target=lambda: [e.step() for _ in range(30)])
    thread.start()
    while thread.is_alive():
        e.load_adapter("large", sources["large"])
        e.unload_adapter("large")
    thread.join()
    assert list(request.outputs()[0].token_ids) == wanted


def test_the_model_outside_the_engine_is_as_it_was(sources: dict[str, Path]) -> None:
    """Two engines share a model; neither sees the other's adapters, nor does a plain forward pass."""
    model, prompt = base(), random_prompt(12)
    plain = greedy(model, prompt, 10)
    first = engine(model, "torch", adapters=sources)
    second = engine(model, "torch", adapters={"some": sources["large"]})
    stream = first.stream(prompt, GREEDY, adapter="some")
    tokens = list(next(stream).token_ids)
    assert greedy(model, prompt, 10) == plain
    assert list(next(second.generate(prompt, GREEDY)).token_ids) == plain
    assert list(next(second.generate(prompt, GREEDY, "some")).token_ids) == greedy(
        merged(base(), adapters_of(model)["large"]), prompt, 10
    )
    tokens += [token for delta in stream for token in delta.token_ids]
    assert tokens == greedy(merged(base(), adapters_of(model)["some"]), prompt, 10)
    del first, second, stream
    gc.collect()
    assert not any(module._forward_hooks for module in model.modules())


# ---- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_adapter_is_refused_and_the_engine_goes_on(path: str, sources: dict[str, Path], tmp_path: Path) -> None:
    model = base()
    other = make_model("gqa", **SIZES | {"family": "llama", "n_layers": 3})
    write_adapter(make_adapter(other.config), tmp_path / "other", other.config)
    e = engine(model, path, adapters=sources)
    request = e.submit([1, 2, 3], GREEDY, adapter="some")
    e.step()
    with pytest.raises(UserError, match=r"changes model\.layers\.2.*does not have"):
        e.load_adapter("other", tmp_path / "other")
    with pytest.raises(UserError, match='there is an adapter "some" already'):
        e.load_adapter("some", sources["small"])
    with pytest.raises(UserError, match="needs a name"):
        e.load_adapter("", sources["small"])
    for call in (
        lambda: e.submit([1], GREEDY, adapter="other"),
        lambda: e.generate([1], GREEDY, adapter="other"),
        lambda: e.stream([1], GREEDY, adapter="other"),
        lambda: e.unload_adapter("other"),
    ):
        with pytest.raises(UserError, match=r'no adapter "other".*loaded: small, some, large'):
            call()
    with pytest.raises(UserError, match="2 prompts and 1 adapters"):
        e.generate([[1], [2]], GREEDY, adapter=["some"])
    with pytest.raises(UserError, match="has no adapters"):
        engine(model, path).submit([1], GREEDY, adapter="some")
    with pytest.raises(UserError, match="does not have"):
        engine(model, path, adapters={"other": tmp_path / "other"})
    while not request.finished:
        e.step()
    assert list(request.outputs()[0].token_ids) == greedy(merged(model, adapters_of(model)["some"]), [1, 2, 3], 10)


def test_n_answers_share_the_adapter(sources: dict[str, Path]) -> None:
    model = base()
    e = engine(model, "torch", adapters=sources)
    s = Sampling(temperature=0.8, seed=4, n=3, max_tokens=8)
    one = engine(merged(model, adapters_of(model)["large"]), "torch")
    wanted = [o.token_ids for o in one.generate([7, 8], s)]
    assert [o.token_ids for o in e.generate([7, 8], s, "large")] == wanted
