"""Scores of prompts: the log-probabilities of a forward pass without a cache, however the prompt was read."""

from __future__ import annotations

import pytest
import torch

from danlu.core.errors import DanluError, UserError
from danlu.engine import Engine, Sampling
from tests.engine.models import CONTEXT, full_forward, make_model, model_of, random_prompt


def expected(prompt: list[int]) -> list[float]:
    logprobs = full_forward(model_of("gqa"), prompt).log_softmax(dim=-1)
    return [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]


def close(got: object, wanted: list[float]) -> None:
    assert isinstance(got, tuple)
    assert [one.logprob for one in got] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("budget", [5, 16, 256])
def test_scores_equal_a_forward_pass_in_chunks_and_in_company(budget: int) -> None:
    prompts = [random_prompt(n, seed=n) for n in (1, 2, 17, 33, CONTEXT)]
    e = Engine((model_of("gqa"), None), max_batch_tokens=budget, block_size=4)
    for prompt, got in zip(prompts, e.score(prompts), strict=True):
        close(got, expected(prompt))
        assert [one.token_id for one in got] == prompt[1:]
    assert e.stats.kv_blocks_used == 0 and e.stats.generated_tokens == 0


def test_a_prompt_that_is_in_the_cache_is_read_again() -> None:
    prompt = random_prompt(40)
    e = Engine((model_of("gqa"), None), block_size=4)
    list(e.generate(prompt, Sampling(max_tokens=1)))
    [got] = e.score(prompt)
    close(got, expected(prompt))


def test_scores_and_an_answer_in_one_request() -> None:
    prompt = random_prompt(21)
    plain = Sampling(max_tokens=9, temperature=0)
    both = Sampling(max_tokens=9, temperature=0, prompt_logprobs=3, n=2)
    e = Engine((model_of("gqa"), None), block_size=4, max_batch_tokens=8)
    [wanted], outs = list(e.generate(prompt, plain)), list(e.generate(prompt, both))
    for out in outs:
        assert out.token_ids == wanted.token_ids and out.prompt_logprobs is not None
        close(out.prompt_logprobs, expected(prompt))
        for one in out.prompt_logprobs:
            assert len(one.top) == 3 and one.top[0][1] >= one.top[1][1] >= one.top[2][1]
            assert one.rank < 3 or one.logprob <= one.top[2][1]
            if one.rank < 3:
                assert one.top[one.rank] == (one.token_id, one.logprob)
    assert wanted.prompt_logprobs is None


def test_scores_survive_a_preemption() -> None:
    per_token = Engine((model_of("gqa"), None)).cache.shape.bytes_per_token
    e = Engine((model_of("gqa"), None), block_size=4, kv_bytes=13 * 4 * per_token, max_batch_tokens=6)
    prompts = [random_prompt(n, seed=n) for n in (14, 30, 26)]
    s = Sampling(max_tokens=16, temperature=0, prompt_logprobs=0)
    for prompt, out in zip(prompts, e.generate(prompts, s), strict=True):
        close(out.prompt_logprobs, expected(prompt))
    assert e.stats.preemptions > 0


def test_the_last_token_needs_a_place_in_the_cache_too() -> None:
    """An answer's last token is never read again; a text to be scored is read to its end."""
    per_token = Engine((model_of("gqa"), None)).cache.shape.bytes_per_token
    e = Engine((model_of("gqa"), None), block_size=4, kv_bytes=5 * 4 * per_token)
    prompt = random_prompt(21)
    [got] = e.score(prompt[:20])
    close(got, expected(prompt[:20]))
    assert len(next(e.generate(prompt[:20], Sampling(max_tokens=1, temperature=0))).token_ids) == 1
    with pytest.raises(UserError, match="needs 21 tokens in the KV cache, which holds 20"):
        e.score(prompt).__next__()


def test_the_first_piece_of_every_answer_brings_the_scores() -> None:
    prompt = random_prompt(21)
    e = Engine((model_of("gqa"), None), block_size=4, max_batch_tokens=8)
    pieces = list(e.stream(prompt, Sampling(max_tokens=5, ignore_eos=True, prompt_logprobs=1, n=3)))
    for index in range(3):
        first, *others = [piece for piece in pieces if piece.index == index]
        close(first.prompt_logprobs, expected(prompt))
        assert len(others) == 4 and not any(piece.prompt_logprobs for piece in others)
    [alone] = e.stream(prompt, Sampling(max_tokens=0, prompt_logprobs=0))
    close(alone.prompt_logprobs, expected(prompt))


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = make_model("gqa")
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(DanluError, match="not a number"):
        list(Engine((model, None)).score([1, 2, 3]))


def test_no_tokens_and_no_scores_is_refused() -> None:
    with pytest.raises(UserError, match="max_tokens is 0"):
        Sampling(max_tokens=0)
    e = Engine((model_of("gqa"), None))
    with pytest.raises(UserError, match="the context of this model"):
        list(e.score(random_prompt(CONTEXT + 1)))
