from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.errors import DanluError, UserError
from danlu.engine import Delta, Engine, Output, Request, Sampling
from danlu.model.hub import save_model
from danlu.model.quantized import quantize_
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer
from tests.engine.models import CONTEXT, SHAPES, full_forward, greedy, make_model, model_of, random_prompt

GREEDY = Sampling(temperature=0, max_tokens=12)
Talker = tuple[Transformer, Tokenizer]


def engine(shape: str = "gqa", **limits: int) -> Engine:
    return Engine((model_of(shape), None), **{"block_size": 4} | limits)  # type: ignore[arg-type]


def empty(e: Engine) -> bool:
    """Nothing is left behind: no sequence, no block."""
    e.cache.check([])
    return not e.has_work and e.stats.kv_blocks_used == 0 and not e._requests


# --- what comes out does not depend on what else runs ---------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_the_oracle_in_any_company(shape: str) -> None:
    prompts = [random_prompt(n, seed=n) for n in (1, 5, 19, 33, 2, 8)]
    wanted = [greedy(model_of(shape), p, 12) for p in prompts]
    alone = [list(next(engine(shape).generate(p, GREEDY)).token_ids) for p in prompts]
    assert alone == wanted
    small = engine(shape, max_batch_tokens=7, max_sequences=3, kv_bytes=14 * 4 * 2 * 2 * 4 * 8 * 4)
    together = list(small.generate(prompts, GREEDY))
    assert [list(o.token_ids) for o in together] == wanted
    assert empty(small)


def test_how_long_prompts_are_read_beside_answers_changes_no_answer() -> None:
    """One after another, so that each is read beside those before it, in pieces that the clock chooses."""
    prompts = [random_prompt(n, seed=n) for n in (3, 50, 40, 21)]
    s = Sampling(temperature=0.9, seed=3, max_tokens=20)
    wanted = [next(engine().generate(p, s)).token_ids for p in prompts]
    pieces = {}
    for stall in (1.0, 2.0, None):
        e = Engine((model_of("gqa"), None), block_size=4, stall=stall)
        requests = []
        for prompt in prompts:
            requests.append(e.submit(prompt, s))
            e.step()
        while e.has_work:
            e.step()
        assert [request.outputs()[0].token_ids for request in requests] == wanted
        assert empty(e)
        pieces[stall] = e.stats.steps
    assert pieces[1.0] > pieces[None] == 20 + len(prompts) - 1


@pytest.mark.parametrize("stall", [0.5, float("nan"), "fast"])
def test_a_stall_that_is_no_factor_is_refused(stall: float) -> None:
    with pytest.raises(UserError, match="stall"):
        Engine((model_of("gqa"), None), stall=stall)


def test_preemption_changes_no_answer() -> None:
    prompts = [random_prompt(n, seed=n) for n in (9, 12, 15, 11)]
    roomy = engine()
    tight = engine(kv_bytes=11 * 4 * roomy.cache.shape.bytes_per_token)
    s = Sampling(temperature=0.9, seed=3, max_tokens=20, frequency_penalty=0.4, logprobs=1)
    wanted, got = list(roomy.generate(prompts, s)), list(tight.generate(prompts, s))
    assert roomy.stats.preemptions == 0 and tight.stats.preemptions > 0
    assert [o.token_ids for o in got] == [o.token_ids for o in wanted]
    assert empty(tight)


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch() -> None:
    prompts = [random_prompt(n, seed=n) for n in (3, 14, 7)]
    settings = [Sampling(seed=i, max_tokens=15, top_p=0.9, temperature=1.2) for i in range(3)]
    alone = [next(engine().generate(p, s)).token_ids for p, s in zip(prompts, settings, strict=True)]
    company = [Sampling(seed=9, max_tokens=9), Sampling(temperature=0, max_tokens=30)]
    mixed = list(engine().generate([*prompts, prompts[0], prompts[1]], [*settings, *company]))
    assert [o.token_ids for o in mixed[:3]] == alone
    again = list(engine().generate([*prompts, prompts[0], prompts[1]], [*settings, *company]))
    assert again == mixed


def test_without_a_seed_answers_differ() -> None:
    answers = {next(engine().generate([1, 2], Sampling(max_tokens=20))).token_ids for _ in range(3)}
    assert len(answers) == 3


def test_n_answers_each_with_its_own_draw() -> None:
    outs = list(engine().generate([[1, 2], [3]], Sampling(n=3, seed=5, max_tokens=20)))
    assert [(o.request_id, o.index) for o in outs] == [(f"request-{r}", i) for r in (0, 1) for i in range(3)]
    assert len({o.token_ids for o in outs[:3]}) == 3
    assert outs[0].token_ids == next(engine().generate([1, 2], Sampling(seed=5, max_tokens=20))).token_ids


def test_logprobs_equal_those_of_a_full_forward() -> None:
    prompt = random_prompt(6)
    out = next(engine().generate(prompt, Sampling(temperature=0.8, seed=1, top_k=20, max_tokens=10, logprobs=3)))
    logprobs = full_forward(model_of("gqa"), [*prompt, *out.token_ids]).log_softmax(-1)
    assert out.logprobs is not None and len(out.logprobs) == 10
    for i, scored in enumerate(out.logprobs):
        wanted = logprobs[len(prompt) - 1 + i]
        assert scored.token_id == out.token_ids[i]
        assert scored.logprob == pytest.approx(float(wanted[scored.token_id]), abs=1e-4)
        values, ids = wanted.topk(3)
        assert [token for token, _ in scored.top] == ids.tolist()
        assert [p for _, p in scored.top] == pytest.approx(values.tolist(), abs=1e-4)


# --- where an answer ends -------------------------------------------------------------------------------------------


def test_an_answer_ends_at_a_stop_token_unless_told_otherwise() -> None:
    prompt = random_prompt(5)
    wanted = greedy(model_of("gqa"), prompt, 12)
    end = wanted[6]
    cut = wanted[: wanted.index(end) + 1]
    out = next(engine().generate(prompt, Sampling(temperature=0, max_tokens=12, stop_token_ids=[end])))
    assert (list(out.token_ids), out.finish_reason) == (cut, "stop")
    model = make_model("gqa", eos_ids=(end,))
    out = next(Engine((model, None)).generate(prompt, GREEDY))
    assert (list(out.token_ids), out.finish_reason) == (cut, "stop")
    out = next(Engine((model, None)).generate(prompt, Sampling(temperature=0, max_tokens=12, ignore_eos=True)))
    assert (list(out.token_ids), out.finish_reason) == (wanted, "length")


def test_an_answer_ends_at_the_context() -> None:
    out = next(engine().generate(random_prompt(CONTEXT - 5), Sampling(temperature=0)))
    assert (len(out.token_ids), out.finish_reason, out.prompt_tokens) == (5, "length", CONTEXT - 5)
    out = next(engine(max_context=20).generate(random_prompt(10), Sampling(temperature=0, max_tokens=999)))
    assert len(out.token_ids) == 10


def test_stop_strings_cut_streams_and_answers_alike(talker: Talker) -> None:
    free = next(Engine(talker).generate("床前明月光 stop", Sampling(seed=4, max_tokens=40, temperature=2)))
    text = free.text
    assert len(text) > 20
    for at in range(3, len(text) - 3, 4):
        stop = text[at : at + 3]
        s = Sampling(seed=4, max_tokens=40, temperature=2, stop=[stop, "never seen"])
        out = next(Engine(talker).generate("床前明月光 stop", s))
        assert out.text == text[: text.index(stop)] and out.finish_reason == "stop"
        pieces = list(Engine(talker).stream("床前明月光 stop", s))
        assert "".join(p.text for p in pieces) == out.text
        assert [t for p in pieces for t in p.token_ids] == list(out.token_ids)
        assert [p.finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["stop"]


def test_the_text_is_what_the_tokenizer_decodes(talker: Talker) -> None:
    tokenizer = talker[1]
    for seed in range(5):
        out = next(Engine(talker).generate("你好", Sampling(seed=seed, max_tokens=50, ignore_eos=True)))
        assert out.text == tokenizer.decode(out.token_ids, skip_special=True)


# --- prompts --------------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_string_ids_or_messages(talker: Talker) -> None:
    e, tokenizer = Engine(talker), talker[1]
    messages = [{"role": "user", "content": "你好"}]
    ids = tokenizer.encode_chat(messages, add_generation_prompt=True)
    assert ids[-1] == tokenizer.encode("\n")[0] and tokenizer.control_tokens["<|im_start|>"] in ids
    one = [next(e.generate(p, GREEDY)).token_ids for p in (messages, ids)]
    many = [o.token_ids for o in e.generate([messages, ids, "你好"], GREEDY)]
    assert one == many[:2] == [many[0], many[0]]
    assert many[2] == next(e.generate(tokenizer.encode("你好"), GREEDY)).token_ids
    assert next(e.generate("", GREEDY)).prompt_tokens == 1, "an empty string is the start token"
    assert list(e.generate([], GREEDY)) == []


@pytest.mark.parametrize(
    ("prompt", "sampling", "says"),
    [
        ([1] * 70, GREEDY, "the prompt has 70 tokens and the context of this model is 64"),
        ([1] * 64, GREEDY, "the prompt has 64 tokens and the context of this model is 64"),
        ([], GREEDY, "the prompt is empty"),
        ([5, 101], GREEDY, "token id 101 is outside the vocabulary of 101"),
        ([-1], GREEDY, "token id -1 is outside"),
        ([1], Sampling(logit_bias={500: 1}), "logit_bias names token 500"),
        ([1], Sampling(stop="x"), "stop strings need a tokenizer"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused_at_once(prompt: list[int], sampling: Sampling, says: str) -> None:
    e = engine()
    with pytest.raises(UserError, match=says):
        e.submit(prompt, sampling)
    assert empty(e)
    with pytest.raises(UserError, match="no tokenizer"):
        e.generate("text", GREEDY)


def test_a_request_that_can_never_fit_the_cache_is_refused_by_name() -> None:
    per_block = 4 * engine().cache.shape.bytes_per_token
    e = engine(kv_bytes=5 * per_block)  # 20 tokens, where the context has 64
    with pytest.raises(UserError, match="request-0 needs 26 tokens in the KV cache, which holds 20"):
        e.submit(random_prompt(16), Sampling(max_tokens=10))
    with pytest.raises(UserError, match="request-1 needs 31 tokens"):
        e.submit(random_prompt(30), Sampling())
    out = next(e.generate(random_prompt(16), Sampling(temperature=0)))
    assert len(out.token_ids) == 5, "without a wish the answer takes what there is; its last token is never stored"
    assert empty(e)


def test_bad_limits_are_one_sentence() -> None:
    with pytest.raises(UserError, match="max_sequences is 0"):
        engine(max_sequences=0)
    with pytest.raises(UserError, match='dtype is "float8"'):
        Engine((model_of("gqa"), None), dtype="float8")
    with pytest.raises(UserError, match="2 prompts and 1 samplings"):
        engine().generate([[1], [2]], [GREEDY])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_context", 1.5),
        ("max_sequences", None),
        ("block_size", "16"),
        ("kv_bytes", True),
        ("tensor_parallel", None),
        ("prefix_cache", "no"),
        ("dtype", float),
        ("device", "nowhere"),
        ("device", 1.5),
        ("adapters", ["poet"]),
    ],
)
def test_an_option_of_a_wrong_type_is_one_sentence_and_a_hint(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} is ") as refused:
        Engine((model_of("gqa"), None), **{name: value})
    assert refused.value.hint


@pytest.mark.parametrize("source", [(1, 2), (5, None), (), (1, 2, 3)])
def test_a_pair_that_is_no_model(source: Any) -> None:
    with pytest.raises(UserError, match=r"model is .* it must be "):
        Engine(source)
    with pytest.raises(UserError, match="the tokenizer is 5"):
        Engine((model_of("gqa"), 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "prompt",
    [5, None, 1.5, b"abc", {"role": "user", "content": "x"}, [None], [1.5], [[1], 5], [[1, 2.5]], [True], iter("a")],
)
def test_what_is_no_prompt_is_refused_before_anything_is_computed(talker: Talker, prompt: Any) -> None:
    e = Engine(talker)
    with pytest.raises(UserError, match=r"a prompt is .* it must be a string, a list of token ids"):
        e.generate(prompt, GREEDY)
    with pytest.raises(UserError, match=r"a prompt is .* it must be a list of token ids"):
        e.submit(prompt if prompt != [True] else [1.5], GREEDY)
    assert not e.has_work and len(list(e.generate([1], GREEDY))) == 1


def test_other_arguments_of_a_wrong_type(talker: Talker) -> None:
    e: Any = Engine(talker)
    for wrong in (5, "x", {"max_tokens": 5}, [5]):
        with pytest.raises(UserError, match=r"sampling is .* it must be a Sampling"):
            e.generate("x", wrong)
        with pytest.raises(UserError, match=r"sampling is .* it must be a Sampling"):
            e.stream("x", wrong)
    for call in (
        lambda: e.generate("x", GREEDY, 5),
        lambda: e.stream("x", GREEDY, ["poet"]),
        lambda: e.submit([1], GREEDY, priority="high"),
        lambda: e.cancel([]),
        lambda: e.load_adapter(5, "x"),
        lambda: e.load_adapter("poet", 5),
        lambda: e.unload_adapter([]),
    ):
        with pytest.raises(UserError, match=r" is .* it must be "):
            call()
    assert not e.has_work


# --- the loop -------------------------------------------------------------------------------------------------------


def test_continuous_batching_lets_a_short_answer_overtake() -> None:
    e = engine()
    long = e.submit([1, 2, 3], Sampling(temperature=0, max_tokens=30))
    for _ in range(5):
        e.step()
    short = e.submit([4, 5], Sampling(temperature=0, max_tokens=3))
    order: list[str] = []
    while e.has_work:
        order += [d.request_id for d in e.step() if d.finish_reason]
    assert order == [short.id, long.id]
    assert e.stats.steps == 30, "the short one cost no step of its own"


def test_callbacks_and_deltas_add_up_to_the_output(talker: Talker) -> None:
    e = Engine(talker)
    seen: list[Delta] = []
    request = e.submit(e.encode("月"), Sampling(n=2, seed=1, max_tokens=20, logprobs=0), seen.append)
    returned: list[Delta] = []
    while e.has_work:
        returned += e.step()
    assert seen == returned and request.finished
    for out in request.outputs():
        mine = [d for d in seen if d.index == out.index]
        assert "".join(d.text for d in mine) == out.text
        assert tuple(t for d in mine for t in d.token_ids) == out.token_ids
        assert tuple(p for d in mine for p in d.logprobs or ()) == out.logprobs
        assert mine[-1].finish_reason == out.finish_reason


def test_cancelling_frees_slot_and_blocks_at_once() -> None:
    e = engine(max_sequences=1)
    running = e.submit([1, 2, 3], GREEDY)
    waiting = e.submit([4], GREEDY)
    e.step()
    assert (e.stats.running, e.stats.waiting) == (1, 1) and e.stats.kv_used > 0
    e.cancel(waiting.id)
    e.cancel(running.id)
    e.cancel(running.id)
    e.cancel("unknown")
    assert e.stats.kv_blocks_used == 0 and (e.stats.running, e.stats.waiting) == (0, 0)
    assert [(d.request_id, d.finish_reason) for d in e.step()] == [
        (waiting.id, "cancelled"),
        (running.id, "cancelled"),
    ]
    assert running.outputs()[0].token_ids == tuple(greedy(model_of("gqa"), [1, 2, 3], 1))
    assert empty(e)


def test_leaving_a_stream_or_generate_early_cancels() -> None:
    e = engine()
    stream = e.stream([1, 2], Sampling(max_tokens=50, seed=1))
    next(stream)
    assert e.stats.running == 1
    stream.close()
    assert e.stats.kv_blocks_used == 0
    answers = e.generate([[1], [2], [3]], [GREEDY, Sampling(max_tokens=60), GREEDY])
    next(answers)
    answers.close()
    assert e.stats.kv_blocks_used == 0
    e.step()
    assert empty(e)


def test_two_streams_in_turn_lose_nothing() -> None:
    e = engine()
    a, b = e.stream([1, 2], GREEDY), e.stream([3], GREEDY)
    got: dict[str, list[int]] = {"a": [], "b": []}
    for x, y in zip(a, b, strict=True):
        got["a"] += x.token_ids
        got["b"] += y.token_ids
    assert got == {"a": greedy(model_of("gqa"), [1, 2], 12), "b": greedy(model_of("gqa"), [3], 12)}


@pytest.mark.parametrize("seed", range(4))
def test_random_traffic_with_cancels_leaks_nothing(seed: int) -> None:
    chance = random.Random(seed)
    shape = chance.choice(list(SHAPES))
    bytes_per_token = engine(shape).cache.shape.bytes_per_token
    e = engine(
        shape,
        kv_bytes=chance.randint(17, 24) * 4 * bytes_per_token,
        max_batch_tokens=chance.randint(3, 30),
        max_sequences=chance.randint(1, 5),
    )
    live: list[Request] = []
    for turn in range(60):
        if chance.random() < 0.4:
            s = Sampling(temperature=0, max_tokens=chance.randint(1, 20), n=chance.randint(1, 2))
            live.append(e.submit(random_prompt(chance.randint(1, 40), seed=turn), s))
        if live and chance.random() < 0.2:
            e.cancel(chance.choice(live).id)
        e.step()
        e.scheduler.check()
    while e.has_work:
        e.step()
    assert empty(e) and all(request.finished for request in live)
    for request in live[::5]:
        for out in request.outputs():
            wanted = greedy(model_of(shape), request.prompt_ids, len(out.token_ids))
            assert list(out.token_ids) == wanted


def test_submit_and_cancel_from_other_threads() -> None:
    e = engine(max_sequences=4)
    requests: list[Request] = []
    done = threading.Event()

    def client(number: int) -> None:
        chance = random.Random(number)
        for _ in range(10):
            request = e.submit([number, 1], Sampling(temperature=0, max_tokens=chance.randint(1, 8)))
            requests.append(request)
            if chance.random() < 0.3:
                e.cancel(request.id)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]

    def stepper() -> None:
        while not done.is_set() or e.has_work:
            e.step()

    loop = threading.Thread(target=stepper)
    for thread in [loop, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    loop.join()
    assert empty(e) and len(requests) == 40 and all(request.finished for request in requests)
    for request in requests:
        out = request.outputs()[0]
        assert list(out.token_ids) == greedy(model_of("gqa"), request.prompt_ids, 8)[: len(out.token_ids)]


def test_a_model_that_gives_nan_ends_the_request_and_not_the_engine() -> None:
    model = make_model("gqa")
    e = Engine((model, None))
    with torch.no_grad():
        kept = model.embedding.weight[7].clone()
        model.embedding.weight[7] = float("nan")
    with pytest.raises(DanluError, match="not a number"):
        list(e.generate([7], GREEDY))
    with torch.no_grad():
        model.embedding.weight[7] = kept
    e.cache.keys[0].nan_to_num_()
    assert e.stats.finished == {"error": 1} and e.stats.kv_blocks_used == 0


def test_counters() -> None:
    e = engine()
    outs: list[Output] = list(e.generate([[1, 2, 3], [4]], GREEDY))
    stats = e.stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (4, sum(len(o.token_ids) for o in outs))
    assert stats.finished == {"length": 2} and stats.steps == 12
    assert stats.step_seconds >= stats.last_step_seconds > 0 and stats.tokens_per_second > 0


# --- other numbers than float32 --------------------------------------------------------------------------------------


def test_an_int8_model_runs_like_any_other() -> None:
    model = make_model("gqa")
    quantize_(model)
    prompts = [random_prompt(n, seed=n) for n in (3, 17)]
    e = Engine((model, None), block_size=4, max_batch_tokens=8)
    assert e.cache.shape.dtype == torch.float32
    assert [list(o.token_ids) for o in e.generate(prompts, GREEDY)] == [greedy(model, p, 12) for p in prompts]


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_in_another_dtype_keeps_its_scales(bits: int, from_file: bool, tmp_path: Path) -> None:
    model, prompt = make_model("qk_norm", hidden_size=64, intermediate_size=96), random_prompt(9)
    quantize_(model, bits)
    wanted = full_forward(model, prompt)[-1].log_softmax(-1)
    scales = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith("weight_scale")}
    save_model(model, tmp_path)
    e = Engine(tmp_path if from_file else (model, None), dtype="bfloat16", block_size=4)
    assert e.dtype == e.cache.shape.dtype == torch.bfloat16
    for name, scale in scales.items():
        assert torch.equal(e.model.state_dict()[name], scale)
    got = dict(next(e.generate(prompt, Sampling(temperature=0, max_tokens=1, logprobs=101))).logprobs[0].top)  # type: ignore[index]
    assert max(abs(got[token] - float(wanted[token])) for token in range(101)) < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(dtype: str) -> None:
    e = Engine((make_model("some_windows"), None), dtype=dtype, block_size=4, max_batch_tokens=8)
    assert e.cache.shape.dtype == getattr(torch, dtype)
    prompt = random_prompt(20)
    out = next(e.generate(prompt, Sampling(temperature=0, max_tokens=10, logprobs=0)))
    wanted = full_forward(model_of("some_windows"), [*prompt, *out.token_ids]).log_softmax(-1)
    for i, scored in enumerate(out.logprobs or ()):
        assert scored.logprob == pytest.approx(float(wanted[19 + i, scored.token_id]), abs=0.3)


def test_a_penalty_that_overflows_ends_its_own_request_alone() -> None:
    e = engine()
    bad = e.submit(random_prompt(5), Sampling(repetition_penalty=1e-300, max_tokens=5, seed=1))
    greedy_bad = e.submit(random_prompt(5), Sampling(repetition_penalty=1e-300, max_tokens=5, temperature=0))
    good = e.submit(random_prompt(7), GREEDY)
    while e.has_work:
        e.step()
    assert bad.sequences[0].finish_reason == greedy_bad.sequences[0].finish_reason == "error"
    assert good.sequences[0].generated == greedy(model_of("gqa"), random_prompt(7), 12)
