from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.engine import Engine, Sampling
from danlu.engine.detokenize import TextStream
from danlu.engine.request import Request, Sequence
from danlu.engine.speculative import LOSS, MOST, Books, Lookup
from tests.engine.models import CONTEXT, SHAPES, full_forward, make_model, model_of, random_prompt


def sequence(tokens: list[int], max_length: int = CONTEXT) -> Sequence:
    request = Request("r", tokens[:1], Sampling())
    return Sequence(request, 0, tokens, max_length, TextStream(None, (), skip_special=True))


def eager(e: Engine) -> Engine:
    """Checks every guess it can get, whatever that costs; a single token is enough to look one up."""
    assert e.speculator is not None
    if e.speculator.drafter.free:
        e.speculator.drafter = Lookup(width=1)
    e.speculator._worth = lambda lengths: list(lengths)  # type: ignore[method-assign]
    return e


def empty(e: Engine) -> bool:
    e.cache.check([])
    return not e.has_work and e.stats.kv_blocks_used == 0


# --- lookup ----------------------------------------------------------------------------------------------------------


def test_lookup_copies_what_followed_the_same_three_tokens() -> None:
    lookup = Lookup()
    text = sequence([1, 2, 3, 4, 5, 6, 9, 2, 3, 4])
    assert lookup.propose([text], [3]) == [[5, 6, 9]]
    text.tokens += [5, 7]
    assert lookup.propose([text], [3]) == [[]]  # 4 5 7 is new
    text.tokens += [3, 4, 5]
    assert lookup.propose([text], [2]) == [[7, 3]]  # the latest occurrence, not the first


def test_lookup_continues_a_loop_through_its_own_guesses() -> None:
    text = sequence([7, 1, 2, 3, 1, 2, 3])
    assert Lookup().propose([text], [8]) == [[1, 2, 3, 1, 2, 3, 1, 2]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 5), st.integers(1, 8))
def test_lookup_equals_a_search(tokens: list[int], grown: int, most: int) -> None:
    lookup = Lookup()
    text = sequence(tokens[:1])
    lookup.propose([text], [most])  # the index grows with the text
    text.tokens = tokens
    [got] = lookup.propose([text], [most])
    places = [i for i in range(3, len(tokens)) if tokens[i - 3 : i] == tokens[-3:]]
    wanted = (tokens[places[-1] :] * most)[:most] if places else []
    assert got == wanted


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("drafter", ["lookup", "draft"])
def test_answers_are_those_of_plain_decoding(shape: str, drafter: str) -> None:
    model = model_of(shape)
    speculate = "lookup" if drafter == "lookup" else (make_model(shape, n_layers=1), None)
    loops = [[1, 2, 3, 4] * 5, [9, 8, 7] * 6, random_prompt(11, 3)]
    settings = [
        Sampling(temperature=0, max_tokens=30),
        Sampling(temperature=0.8, seed=5, max_tokens=24, logprobs=2),
        Sampling(temperature=1.0, seed=6, top_p=0.9, frequency_penalty=0.5, max_tokens=27),
    ]
    plain = Engine((model, None), block_size=16)
    fast = eager(Engine((model, None), block_size=16, speculate=speculate))
    wanted, got = list(plain.generate(loops, settings)), list(fast.generate(loops, settings))
    assert [o.token_ids for o in got] == [o.token_ids for o in wanted]
    for one, other in zip(got[1].logprobs or (), wanted[1].logprobs or (), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert fast.stats.draft_tokens > 0 and empty(fast)
    assert fast.stats.steps <= plain.stats.steps


def test_a_draft_model_that_is_the_model_is_always_right() -> None:
    model = model_of("gqa")
    e = eager(Engine((model, None), block_size=16, speculate=(model, None)))
    [out] = e.generate([random_prompt(9)], Sampling(temperature=0, max_tokens=28))
    assert len(out.token_ids) == 28
    assert e.stats.draft_hits == e.stats.draft_tokens > 20
    assert e.stats.steps <= 1 + -(-27 // (MOST + 1)) + 1


def test_the_distribution_is_that_of_the_model() -> None:
    """Three tokens, 1,600 times, with guesses right and wrong: as often as the model's probabilities say."""
    model = model_of("gqa")
    prompt = [5, 6, 7, 5, 6, 7, 5]
    settings = {"temperature": 0.7, "top_k": 3}
    e = eager(Engine((model, None), speculate=(model, None), max_sequences=800, max_batch_tokens=8192))
    s = [Sampling(seed=round * 1000, n=800, max_tokens=3, **settings) for round in range(2)]  # type: ignore[arg-type]
    outs = [out for sampling in s for out in e.generate(prompt, sampling)]
    assert 0 < e.stats.draft_hits < e.stats.draft_tokens
    expected = {(): 1.0}
    for _ in range(3):
        longer = {}
        for tokens, p in expected.items():
            top = (full_forward(model, [*prompt, *tokens])[-1] / 0.7).topk(3)
            for q, token in zip(top.values.softmax(0).tolist(), top.indices.tolist(), strict=True):
                longer[(*tokens, token)] = p * q
        expected = longer
    seen = Counter(out.token_ids for out in outs)
    assert set(seen) <= set(expected)
    for tokens, p in expected.items():
        assert abs(seen[tokens] / len(outs) - p) < 5 * (p * (1 - p) / len(outs)) ** 0.5


def test_preemption_and_cancellation_with_guesses_leak_nothing() -> None:
    model = model_of("gqa")
    prompts = [[1, 2, 3] * n for n in (3, 4, 5, 4)]
    s = Sampling(temperature=0, max_tokens=24)
    wanted = list(Engine((model, None), block_size=4).generate(prompts, s))
    bytes_per_token = Engine((model, None)).cache.shape.bytes_per_token
    for speculate in ("lookup", (make_model("gqa", n_layers=1), None)):
        e = eager(Engine((model, None), block_size=4, kv_bytes=19 * 4 * bytes_per_token, speculate=speculate))
        assert [o.token_ids for o in e.generate(prompts, s)] == [o.token_ids for o in wanted]
        assert e.stats.preemptions > 0 and empty(e)
        requests = [e.submit(p, s) for p in prompts]
        for _ in range(6):
            e.step()
            e.scheduler.check()
        for request in requests:
            e.cancel(request.id)
        e.step()  # hands over what the cancelled had to say
        assert empty(e)


# --- whether it pays -------------------------------------------------------------------------------------------------


def test_guesses_that_are_never_right_are_soon_not_checked() -> None:
    class Wrong:
        free = True

        def propose(self, sequences: list[Sequence], most: list[int]) -> list[list[int]]:
            return [[0] * n for n in most]

        def seconds(self, sequences: list[Sequence], depth: int, steps: int) -> float:
            return 0.0

    e = Engine((model_of("gqa"), None), speculate="lookup")
    assert e.speculator is not None
    e.speculator.drafter = Wrong()
    e.speculator.learn = lambda step, seconds: type(e.speculator).learn(  # type: ignore[method-assign]
        e.speculator,
        step,
        1.0 + 0.1 * sum(n for _, n in step),  # type: ignore[arg-type]
    )
    never_zero = Sampling(max_tokens=60, seed=1, logit_bias={0: -100})
    list(e.generate([random_prompt(3)], never_zero))
    tried = e.stats.draft_tokens
    assert 0 < tried < 60 and e.stats.draft_hits == 0
    list(e.generate([random_prompt(4)], never_zero))  # the next answer begins with what was learnt
    assert e.stats.draft_tokens < 1.3 * tried


def test_a_drafter_that_never_pays_is_tried_in_a_small_share_of_the_time() -> None:
    asked = []

    class Dear:
        free = False

        def propose(self, sequences: list[Sequence], most: list[int]) -> list[list[int]]:
            asked.append(sum(most))
            return [[0] * n for n in most]

        def seconds(self, sequences: list[Sequence], depth: int, steps: int) -> float:
            return 0.5 * depth + 1.0 / steps

    e = Engine((model_of("gqa"), None), speculate="lookup")
    assert e.speculator is not None
    e.speculator.drafter = Dear()
    e.speculator._worth = lambda lengths: [0] * len(lengths)  # type: ignore[method-assign]
    e.speculator.learn = lambda step, seconds: type(e.speculator).learn(  # type: ignore[method-assign]
        e.speculator,
        step,
        float(sum(n for _, n in step)),  # type: ignore[arg-type]
    )
    list(e.generate([random_prompt(3)] * 4, Sampling(max_tokens=60, seed=1, logit_bias={0: -100})))
    # A trial takes 1.5 s and a step of four 4 s: some trials, each of one guess for each of four, and never two in
    # fewer than 1.5 / 0.03 / 4 = 12.5 steps.
    trials = [step for step, n in enumerate(asked) if n]
    assert 2 <= len(trials) <= 5 and {asked[step] for step in trials} == {4}
    assert all(after - before >= 12 for before, after in pairwise(trials))


def test_books_bound_what_guesses_may_lose() -> None:
    """A plain step takes 1 s; one with a wrong guess 3, and 1 to make it. There is one whenever the books allow it."""
    books, plain = Books(), 0
    books.close(1.0, 1.0)
    for _ in range(2000):
        if books.red:
            books.close(1.0, 1.0)
            plain += 1
        else:
            books.spend(1.0)
            books.close(3.0, 1.0)
    lost, time = 3 * (2000 - plain), 2000 + 3 * (2000 - plain)
    assert 0 < lost < 2 * LOSS * time
    for _ in range(20):  # then they are right, and may go on
        books.close(1.0, 3.0)
    assert not books.red


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="another vocabulary"):
        Engine((model_of("gqa"), None), speculate=(make_model("gqa", vocab_size=99), None))
    with pytest.raises(UserError, match="reads 32 tokens"):
        Engine((model_of("gqa"), None), speculate=(make_model("gqa", max_position=32), None))
