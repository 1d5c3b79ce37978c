"""Scores of prompts over HTTP: `echo` on /v1/completions, with the official client."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from danlu.engine import Engine
from danlu.tokenizer import bpe
from danlu.tokenizer.tokenizer import Tokenizer, make_config
from tests.serve import tiny

PROMPT = "床前明月光, def add(first"


def tokenizer() -> Tokenizer:
    return tiny.tiny_tokenizer(chat_template=False)


def label(piece: bytes) -> str:
    """How the answer writes a token."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def scores_of(text: Any, top: int = 0) -> Any:
    return next(tiny.tiny_engine(chat_template=False).score(text, top))


@pytest.mark.parametrize("spelling", ["text", "ids"])
def test_the_prompt_alone_with_its_scores(client: OpenAI, spelling: str) -> None:
    ids = tokenizer().encode(PROMPT)
    prompt: Any = PROMPT if spelling == "text" else ids
    answer = client.completions.create(model="base", prompt=prompt, echo=True, logprobs=2, max_tokens=0)
    [choice] = answer.choices
    assert choice.text == PROMPT and choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 0
    assert answer.usage.total_tokens == len(ids)
    scores: Any = choice.logprobs
    pieces = [tokenizer().token_bytes(token) for token in ids]
    assert scores.tokens == [label(piece) for piece in pieces]
    assert any(token.startswith("bytes:") for token in scores.tokens), "some characters are cut"
    assert scores.text_offset == [len(b"".join(pieces[:i]).decode(errors="replace")) for i in range(len(pieces))]
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    wanted = scores_of(PROMPT, 2)
    assert scores.token_logprobs[1:] == pytest.approx([one.logprob for one in wanted], abs=1e-4)
    for top, one in zip(scores.top_logprobs[1:], wanted, strict=True):
        best = {label(tokenizer().token_bytes(token)): logprob for token, logprob in one.top}
        assert {token: top[token] for token in best} == pytest.approx(best, abs=1e-4)
        assert 2 <= len(top) <= 3


def test_echo_and_an_answer_are_the_two_together(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "base", "prompt": PROMPT, "max_tokens": 9, "temperature": 0, "logprobs": 1}
    ask["extra_body"] = {"ignore_eos": True}
    plain = client.completions.create(**ask).choices[0]
    both = client.completions.create(**ask, echo=True)
    [choice] = both.choices
    assert choice.text == PROMPT + plain.text
    n = len(tokenizer().encode(PROMPT))
    assert both.usage is not None and both.usage.model_dump()["completion_tokens"] == 9
    ours: Any = choice.logprobs
    theirs: Any = plain.logprobs
    assert len(ours.tokens) == n + 9 == both.usage.total_tokens
    assert ours.tokens[n:] == theirs.tokens
    assert ours.token_logprobs[n:] == pytest.approx(theirs.token_logprobs, abs=1e-4)
    assert ours.text_offset[n:] == [len(PROMPT) + offset for offset in theirs.text_offset]


def test_several_prompts_and_choices(client: OpenAI) -> None:
    prompts = ["明月", "def add(", "The furnace"]
    ask: dict[str, Any] = {"model": "base", "prompt": prompts, "n": 2, "max_tokens": 4, "seed": 3}
    plain = client.completions.create(**ask).choices
    both = client.completions.create(**ask, echo=True, logprobs=0).choices
    for index, choice in enumerate(both):
        assert choice.text == prompts[index // 2] + plain[index].text
        scores: Any = choice.logprobs
        wanted = [one.logprob for one in scores_of(prompts[index // 2])]
        assert scores.token_logprobs[1 : 1 + len(wanted)] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 7])
@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, max_tokens: int, logprobs: int | None) -> None:
    ask: dict[str, Any] = {"model": "base", "prompt": [PROMPT, "明"], "max_tokens": max_tokens, "seed": 5, "n": 2}
    ask |= {"echo": True, "logprobs": logprobs, "temperature": 1.3}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert mine[0].text == ask["prompt"][choice.index // 2], "the prompt comes first, by itself"
        assert "".join(c.text for c in mine) == choice.text
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            if logprobs is None:
                assert choice.logprobs is None and all(c.logprobs is None for c in mine)
            else:
                joined = [item for c in mine for item in getattr(c.logprobs, name)]
                assert joined == getattr(choice.logprobs, name)


def test_without_scores_it_is_only_text_and_the_cache_serves(client: OpenAI) -> None:
    for max_tokens in (0, 3):
        choice = client.completions.create(model="tiny", prompt=PROMPT, echo=True, max_tokens=max_tokens).choices[0]
        assert choice.text.startswith(PROMPT) and choice.logprobs is None
    engine = tiny.tiny_engine()
    with tiny.in_thread({"tiny": engine}) as url:
        for _ in range(2):
            body = {"model": "tiny", "prompt": [5] * 100, "echo": True, "max_tokens": 1}
            assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200
    assert engine.stats.prefix_hits == 96


def test_the_token_that_ends_an_answer_has_its_place(client: OpenAI) -> None:
    """Who scores a prompt leaves out the last entry as the answer's one token, whatever that was."""
    end = tokenizer().eos_id
    ask: dict[str, Any] = {"model": "base", "prompt": PROMPT, "max_tokens": 1, "logprobs": 1, "temperature": 0}
    ask["logit_bias"] = {str(end): 100}
    choice = client.completions.create(**ask, echo=True).choices[0]
    scores: Any = choice.logprobs
    assert choice.finish_reason == "stop" and choice.text == PROMPT
    assert scores.tokens[-1] == "<|endoftext|>" and scores.text_offset[-1] == len(PROMPT)
    wanted = [one.logprob for one in scores_of(PROMPT)]
    assert scores.token_logprobs[1:-1] == pytest.approx(wanted, abs=1e-4)
    plain: Any = client.completions.create(**ask).choices[0].logprobs
    assert plain.tokens == [], "without an echo it is no part of the answer"


def test_a_start_token_is_scored_after_and_takes_no_place_in_the_text() -> None:
    import json

    special = ["<|begin|>", *tiny.SPECIAL]
    trained = json.loads(bpe.train_bpe(tiny.TEXT, vocab_size=330, special_tokens=special))
    begin = next(token["id"] for token in trained["added_tokens"] if token["content"] == "<|begin|>")
    trained["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [begin], "tokens": ["<|begin|>"]}},
    }
    config = make_config(eos_token="<|endoftext|>", bos_token="<|begin|>", special_tokens=special)
    starting = Tokenizer(json.dumps(trained), config)
    assert starting.prefix_ids == (begin,)
    engine = Engine((tiny.tiny_model(starting), starting), kv_bytes=16 << 20)
    [wanted] = Engine((tiny.tiny_model(starting), starting), kv_bytes=16 << 20).score("明月 add")
    with tiny.in_thread({"m": engine}) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        text: Any
        for text in ("明月 add", starting.encode("明月 add")):
            choice = client.completions.create(model="m", prompt=text, echo=True, logprobs=0, max_tokens=0).choices[0]
            assert choice.text == "明月 add"
            scores: Any = choice.logprobs
            shown = [starting.decode([token]) for token in starting.encode("明月 add")]
            if isinstance(text, str):
                assert scores.tokens == ["<|begin|>", *shown]
                assert scores.text_offset == [0, 0, *accumulate(map(len, shown[:-1]))]
                assert scores.token_logprobs[1:] == pytest.approx([one.logprob for one in wanted], abs=1e-4)
            else:
                assert scores.tokens == shown and scores.text_offset == [0, *accumulate(map(len, shown[:-1]))]


def test_limits(client: OpenAI) -> None:
    full = client.completions.create(model="tiny", prompt=[5] * tiny.CONTEXT, echo=True, logprobs=0, max_tokens=0)
    assert full.choices[0].logprobs is not None and full.choices[0].logprobs.tokens is not None
    assert len(full.choices[0].logprobs.tokens) == tiny.CONTEXT, "nothing needs room behind it"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[5] * (tiny.CONTEXT + 1), echo=True, max_tokens=0)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "prompt"
    assert f"{tiny.CONTEXT + 1} in the prompt, 0 for the answer" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[5] * tiny.CONTEXT, echo=True)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match='only with "echo": true'):
        client.completions.create(model="tiny", prompt="x", max_tokens=0)


def test_a_model_without_tokenizer_has_scores_and_no_text() -> None:
    engine = Engine((tiny.tiny_model(tiny.tiny_tokenizer()), None), kv_bytes=16 << 20)
    with tiny.in_thread({"bare": engine}) as url:
        body = {"model": "bare", "prompt": [1, 2, 3], "echo": True, "logprobs": 0, "max_tokens": 0}
        [choice] = httpx.post(f"{url}/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "" and choice["logprobs"]["tokens"] == ["1", "2", "3"]
    assert choice["logprobs"]["token_logprobs"][0] is None and choice["logprobs"]["text_offset"] == [0, 0, 0]
