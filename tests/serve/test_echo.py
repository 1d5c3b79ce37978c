"""Scores of prompts over HTTP: `echo` on /v1/completions, with the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from danlu.engine import Engine
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


def sentencepiece() -> Tokenizer:
    """Llama 2 shaped: <s> before every text, and one blank before its first word; bytes for what has no token."""
    special = ("<unk>", "<s>", "</s>")
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "i", "▁h", "▁hi"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    data = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": content, **flags} for i, content in enumerate(special)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first],
            "pair": [start, first, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                replace,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": ["▁ h", "▁h i"],
            "unk_token": "<unk>",
            "byte_fallback": True,
        },
    }
    return Tokenizer(json.dumps(data), make_config(eos_token="</s>", bos_token="<s>"))


def test_what_a_tokenizer_puts_before_a_text_takes_no_place_in_it() -> None:
    """The start token is not shown, nor is the blank before the first word."""
    words = sentencepiece()
    ids = words.encode("hi hi ü")
    assert words.prefix_ids == (1,) and len(ids) == 5
    with tiny.in_thread({"m": Engine((tiny.tiny_model(words), words), kv_bytes=16 << 20)}) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        ask: dict[str, Any] = {"model": "m", "echo": True, "logprobs": 0}
        for prompt in ("hi hi ü", [1, *ids]):
            choice = client.completions.create(prompt=prompt, max_tokens=0, **ask).choices[0]
            assert choice.text == "hi hi ü"
            scores: Any = choice.logprobs
            assert scores.tokens == ["<s>", " hi", " hi", " ", "bytes:\\xc3", "bytes:\\xbc"]
            assert scores.text_offset == [0, 0, 2, 5, 6, 7], "of half a character the rest stands behind it"
            assert [p is None for p in scores.token_logprobs] == [True, *[False] * 5]
        force = {str(words.token_id("h")): 100}
        choice = client.completions.create(prompt="hi hi ü", max_tokens=2, logit_bias=force, **ask).choices[0]
        assert choice.text == "hi hi ühh"
        assert choice.logprobs is not None and choice.logprobs.text_offset == [0, 0, 2, 5, 6, 7, 7, 8]


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
