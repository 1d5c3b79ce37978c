"""Tensor parallel: two ranks give what one gives, and none outlives the others."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
import torch

from danlu.core.errors import UserError
from danlu.engine import Engine, Output, Sampling, parallel
from danlu.engine.child import ProcessLost
from danlu.engine.cutting import cut, cut_adapter, packed, unpacked
from danlu.model.adapter import merge, write_adapter
from danlu.model.hub import save_model
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from tests.adapters import make_adapter
from tests.engine.models import VOCABULARY, greedy, make_model, model_of, random_prompt
from tests.engine.processes import ThreadChild, children_after_kill, is_gone, until

SHAPES = ("gqa", "mha", "window", "some_windows", "qk_norm", "learned")
PROMPTS = [random_prompt(n, seed=n) for n in (1, 5, 19, 33, 2, 8)]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "Child", ThreadChild)


def close(a: Output, b: Output, tolerance: float = 1e-4) -> bool:
    """Whether two answers have the same tokens, and the same log-probabilities of the whole vocabulary."""
    assert a.logprobs is not None and b.logprobs is not None
    for x, y in zip(a.logprobs, b.logprobs, strict=True):
        of = dict(y.top)
        if max(abs(logprob - of[token]) for token, logprob in x.top) > tolerance:
            return False
    return a.token_ids == b.token_ids


@pytest.mark.parametrize("shape", SHAPES)
def test_two_ranks_answer_as_one_in_chunks_and_through_preemption(threads: None, shape: str) -> None:
    model = model_of(shape)
    sampling = Sampling(temperature=0, max_tokens=12, logprobs=VOCABULARY)
    alone = list(Engine((model, None), block_size=8).generate(PROMPTS, sampling))
    per_token = Engine((model, None)).cache.shape.bytes_per_token
    with Engine(
        (model, None), tensor_parallel=2, max_batch_tokens=11, block_size=8, kv_bytes=8 * 8 * per_token
    ) as engine:
        assert engine.cache.n_blocks == 8 and engine.cache.shape.n_kv_heads == model.config.n_kv_heads // 2
        together = list(engine.generate(PROMPTS, sampling))
        assert engine.stats.preemptions > 0
        engine.cache.check([])
    assert all(close(a, b) for a, b in zip(alone, together, strict=True))
    assert [list(a.token_ids) for a in together] == [greedy(model, p, 12) for p in PROMPTS]


def test_four_ranks_and_biases_that_are_added_once(threads: None) -> None:
    model = make_model("learned", qkv_bias=True, output_bias=True, mlp_bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    with Engine((model, None), tensor_parallel=4) as engine:
        got = [list(o.token_ids) for o in engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=8))]
    assert got == [greedy(model, p, 8) for p in PROMPTS]


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.1), (4, 1e-4)])  # the int8 kernel rounds its sums to bfloat16
def test_quantised_models_are_cut_as_they_are(threads: None, bits: int, tolerance: float) -> None:
    model = make_model("gqa", hidden_size=64, intermediate_size=128)
    quantize_(model, bits)
    sampling = Sampling(temperature=0, max_tokens=1, logprobs=VOCABULARY)
    alone = list(Engine((model, None), block_size=8).generate(PROMPTS, sampling))
    with Engine((model, None), tensor_parallel=2, block_size=8) as engine:
        together = list(engine.generate(PROMPTS, sampling))
    assert all(close(a, b, tolerance) for a, b in zip(alone, together, strict=True))


def test_scores_are_those_of_one(threads: None) -> None:
    alone = list(Engine((model_of("gqa"), None), block_size=8).score(PROMPTS))
    with Engine((model_of("gqa"), None), tensor_parallel=2, max_batch_tokens=7) as engine:
        for a, b in zip(alone, engine.score(PROMPTS), strict=True):
            assert [x.token_id for x in a] == [x.token_id for x in b]
            assert all(abs(x.logprob - y.logprob) < 1e-4 for x, y in zip(a, b, strict=True))


def test_guesses_are_checked_by_all_ranks(threads: None) -> None:
    model, draft = model_of("gqa"), make_model("gqa", n_layers=1)
    with Engine((model, None), tensor_parallel=2, speculate=(draft, None)) as engine:
        assert engine.speculator is not None
        engine.speculator._worth = lambda lengths: list(lengths)  # type: ignore[method-assign]
        got = [list(o.token_ids) for o in engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=12))]
        assert engine.stats.draft_tokens > 0
    assert got == [greedy(model, p, 12) for p in PROMPTS]


def test_a_closed_engine_says_so(threads: None) -> None:
    before = torch.get_num_threads()
    with Engine((model_of("gqa"), None), tensor_parallel=2) as engine:
        next(engine.generate([1, 2], Sampling(max_tokens=2)))
    engine.close()
    assert torch.get_num_threads() == before
    with pytest.raises(ProcessLost, match="closed"):
        next(engine.generate([1, 2]))


def test_bfloat16(threads: None) -> None:
    sampling = Sampling(temperature=0, max_tokens=1, logprobs=VOCABULARY)
    model = make_model("gqa").to(torch.bfloat16)
    alone = list(Engine((model, None), block_size=8).generate(PROMPTS, sampling))
    with Engine((model, None), tensor_parallel=2, block_size=8) as engine:
        assert engine.dtype == torch.bfloat16
        together = list(engine.generate(PROMPTS, sampling))
    assert all(close(a, b, 0.3) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("shape", "changes", "bits", "size", "says"),
    [
        ("gqa", {}, 0, 3, r"2 KV heads cannot be shared by 3\. possible: 1, 2"),
        ("mqa", {}, 0, 2, r"1 KV heads .* possible: 1\."),
        ("gqa", {"intermediate_size": 49}, 0, 2, "width of 49 is not a multiple of 2"),
        ("gqa", {"intermediate_size": 64}, 4, 2, "16 of the attention's output of 32 are not whole groups of 32"),
        ("gqa", {}, 0, 0, "tensor_parallel is 0"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, shape: str, changes: dict[str, int], bits: int, size: int, says: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("no process may be started")

    monkeypatch.setattr(parallel, "Child", never)
    model = make_model(shape, **changes)
    if bits:
        quantize_(model, bits)
    with pytest.raises(UserError, match=says):
        Engine((model, None), tensor_parallel=size)


def test_slices_add_up_to_the_model() -> None:
    """By hand: q rows of head pairs, k and v rows of one head; columns of `out` for the same heads."""
    model = make_model("gqa")  # hidden 32, heads of 8: q 32 rows, k 16, v 16
    qkv, out = (dict(model.named_parameters())[f"blocks.0.attention.{name}.weight"] for name in ("qkv", "out"))
    second = cut("blocks.0.attention.qkv.weight", qkv, 1, 2, model.config)
    assert torch.equal(second, torch.cat([qkv[16:32], qkv[40:48], qkv[56:64]]))
    assert torch.equal(cut("blocks.0.attention.out.weight", out, 1, 2, model.config), out[:, 16:])
    rows = [cut("embedding.weight", model.embedding.weight, r, 2, model.config) for r in (0, 1)]
    assert [len(part) for part in rows] == [51, 50] and torch.equal(torch.cat(rows), model.embedding.weight)


# --- adapters ---------------------------------------------------------------------------------------------------------


def written(model: Transformer, folder: Path) -> dict[str, Path]:
    """Adapters of different ranks for different matrices, on disk."""
    some = ("v_proj", "down_proj", "c_attn", "mlp.c_proj")
    for name, adapter in (
        ("small", make_adapter(model.config, seed=1, rank=1)),
        ("some", make_adapter(model.config, seed=2, rank=5, ends=some, scale=0.5)),
    ):
        write_adapter(adapter, folder / name, model.config)
    return {name: folder / name for name in ("small", "some")}


@pytest.mark.parametrize(("shape", "size"), [("gqa", 2), ("mha", 2), ("qk_norm", 2), ("learned", 4)])
def test_slices_of_an_adapter_are_slices_of_the_merged_model(shape: str, size: int) -> None:
    """W + B A, cut, is W, cut, and B A of the cut adapter: for columns so that the ranks' sums agree."""
    model = make_model(shape, family="gpt2" if shape == "learned" else "llama")
    adapter = make_adapter(model.config, rank=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge(model, adapter)
    for rank in range(size):
        own = unpacked(packed(cut_adapter(adapter, rank, size, model.config)))
        changes: dict[str, torch.Tensor] = {}
        for part in own.parts:
            name = f"{part.module}.weight"
            here = changes.setdefault(name, torch.zeros_like(cut(name, before[name], rank, size, model.config)))
            here[part.first : part.first + len(part.b)] += part.product()
        for name, change in changes.items():
            old, new = (cut(name, x[name], rank, size, model.config) for x in (before, model.state_dict()))
            torch.testing.assert_close(old + change, new, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", ["gqa", "mha", "learned"])
def test_adapters_in_one_batch_answer_as_with_one_rank(threads: None, shape: str, tmp_path: Path) -> None:
    model = make_model(shape, family="gpt2" if shape == "learned" else "llama")
    adapters = written(model, tmp_path)
    sampling = Sampling(temperature=0, max_tokens=10, logprobs=VOCABULARY)
    names = ["some", None, "small", "small", None, "some"]
    alone = list(Engine((model, None), block_size=8, adapters=adapters).generate(PROMPTS, sampling, names))
    with Engine((model, None), tensor_parallel=2, max_batch_tokens=11, block_size=8, adapters=adapters) as engine:
        together = list(engine.generate(PROMPTS, sampling, names))
    plain = list(Engine((model, None), block_size=8).generate(PROMPTS, sampling))
    assert all(close(a, b, 1e-3) for a, b in zip(alone, together, strict=True))
    assert [close(a, b, 0.1) for a, b in zip(plain, together, strict=True)] == [name is None for name in names]


def test_ranks_forget_an_adapter_with_its_last_request(threads: None, tmp_path: Path) -> None:
    model = make_model("gqa", family="llama")
    adapters = written(model, tmp_path)
    sampling = Sampling(temperature=0, max_tokens=6)
    with Engine((model, None), tensor_parallel=2, adapters={"a": adapters["some"]}) as engine:
        assert isinstance(engine.runner, parallel.ParallelRunner)
        first = next(engine.generate([1, 2, 3], sampling, "a")).token_ids
        request = engine.submit([1, 2, 3], sampling, adapter="a")
        engine.step()
        engine.unload_adapter("a")
        engine.load_adapter("a", adapters["small"])
        second = next(engine.generate([1, 2, 3], sampling, "a")).token_ids
        assert request.outputs()[0].token_ids == first != second, "begun with the old one, finished with the old one"
        assert not engine.runner._unused
        del request
        gc.collect()
        assert list(engine.runner._unused) == [1]
        assert next(engine.generate([1, 2, 3], sampling, "a")).token_ids == second
        assert not engine.runner._unused
        with pytest.raises(UserError, match="does not fit"):
            engine.load_adapter("b", written(make_model("gqa", hidden_size=64, family="llama"), tmp_path)["some"])


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parallel") / "model"
    save_model(make_model("gqa", family="llama"), path)
    return path


def rank_of(engine: Engine) -> parallel.Child:
    assert isinstance(engine.runner, parallel.ParallelRunner)
    (child,) = engine.runner._children
    return child


def test_two_processes_answer_as_one_until_one_is_killed(model_path: Path, tmp_path: Path) -> None:
    engine = Engine(model_path, tensor_parallel=2)
    sampling = Sampling(temperature=0, max_tokens=8)
    got = [list(o.token_ids) for o in engine.generate(PROMPTS, sampling)]
    assert got == [greedy(model_of("gqa"), p, 8) for p in PROMPTS]
    adapted = make_model("gqa", family="llama")
    adapter = make_adapter(adapted.config, rank=3)
    write_adapter(adapter, tmp_path, adapted.config)
    engine.load_adapter("own", tmp_path)
    merge(adapted, adapter)
    got = [list(o.token_ids) for o in engine.generate(PROMPTS, sampling, ["own"] * 3 + [None] * 3)]
    models = [adapted] * 3 + [model_of("gqa")] * 3
    assert got == [greedy(model, p, 8) for model, p in zip(models, PROMPTS, strict=True)]
    stream = engine.stream([1, 2, 3], Sampling(max_tokens=60, ignore_eos=True))
    next(stream)
    os.kill(rank_of(engine).process.pid, signal.SIGKILL)
    with pytest.raises(ProcessLost, match="rank 1 of 2 ended: killed by SIGKILL"):
        list(stream)
    with pytest.raises(ProcessLost, match="rank 1 of 2"):
        next(engine.generate([1, 2]))


# At its top, without a guard, as a script is first written.
SCRIPT = """
import sys
from danlu import Engine, Sampling
engine = Engine(sys.argv[1], tensor_parallel=2)
print("children", *(child.process.pid for child in engine.runner._children), flush=True)
while True:
    list(engine.generate([1, 2, 3], Sampling(max_tokens=60, ignore_eos=True)))
"""


def test_no_rank_outlives_a_killed_engine(model_path: Path) -> None:
    (pid,) = children_after_kill(SCRIPT, str(model_path))
    until(lambda: is_gone(pid))


def test_a_step_that_is_broken_off_leaves_no_rank_waiting(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a step: the ranks stand at different places, so the engine ends and says so."""
    engine = Engine(model_path, tensor_parallel=2)
    assert isinstance(engine.runner, parallel.ParallelRunner)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.runner._runner, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(engine.generate([1, 2]))
    assert rank_of(engine).process.returncode is not None
    with pytest.raises(ProcessLost, match=r"broken off \(KeyboardInterrupt\)"):
        next(engine.generate([1, 2]))
