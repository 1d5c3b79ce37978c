from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import UserError
from danlu.tokenizer.gguf import PRE_TOKENIZERS, tokenizer_from_gguf
from tests.assets import AssetUnavailable, fetch

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "llama_cpp.json").read_text())


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for the bytes, by the definition."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    names = {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [names[byte] for byte in range(256)]


def small(**changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary: 256 bytes, a few merges, two control tokens, one user-defined one."""
    tokens = [*byte_alphabet(), "he", "ll", "hell", "hello", "Ġhello", "<|endoftext|>", "<|im_end|>", "<mark>"]
    settings = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [1] * 261 + [3, 3, 4],
        "merges": ["h e", "l l", "he ll", "hell o", "Ġ hello"],
        "bos_token_id": 261,
        "eos_token_id": 262,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in settings.items() if value is not None}


def sentencepiece(**changes: Any) -> dict[str, Any]:
    recorded = ORACLE["sentencepiece"]
    settings = {"model": "llama", **{key: recorded[key] for key in ("tokens", "scores", "token_type")}}
    settings |= {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in settings.items()}


def test_byte_level_ids_by_hand() -> None:
    tokenizer = tokenizer_from_gguf(small())
    assert tokenizer is not None
    assert tokenizer.encode("hello hello") == [259, 260]
    assert tokenizer.encode("<|im_end|>") == list(b"<|im_end|>")
    assert tokenizer.encode("hello<|im_end|>", special=True) == [259, 262]
    assert tokenizer.decode(tokenizer.encode("早 🙂\x00\n")) == "早 🙂\x00\n"
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (261, 262, None, 264)
    assert tokenizer.stop_ids == {261, 262}
    assert tokenizer.prefix_ids == ()


def test_bos_before_every_text() -> None:
    asked, by_rule = tokenizer_from_gguf(small(add_bos_token=True)), tokenizer_from_gguf(small(pre="llama-bpe"))
    refused = tokenizer_from_gguf(small(pre="llama-bpe", add_bos_token=False))
    assert asked and by_rule and refused
    assert (asked.prefix_ids, by_rule.prefix_ids, refused.prefix_ids) == ((261,), (261,), ())


def test_whole_words_need_no_merges() -> None:
    """llama-bpe takes a piece that is a token as that token, gpt-2 only if the merges lead there."""
    ids = []
    for pre in ("llama-bpe", "gpt-2"):
        tokenizer = tokenizer_from_gguf(small(pre=pre, merges=["h e", "l l"]))
        assert tokenizer is not None
        ids.append(tokenizer.encode("hello"))
    assert ids == [[259], [256, 257, ord("o")]]


def test_end_of_turn_is_control_even_if_the_file_forgot() -> None:
    tokenizer = tokenizer_from_gguf(small(token_type=[1] * 264))
    assert tokenizer is not None
    assert tokenizer.special_ids == {261, 262}


def test_chat_templates() -> None:
    one = tokenizer_from_gguf({**small(), "tokenizer.chat_template": "{{ messages[0]['content'] }}!"})
    assert one is not None
    assert one.render_chat([{"role": "user", "content": "hi"}], add_generation_prompt=False) == "hi!"
    two = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    several = tokenizer_from_gguf({**small(), **two})
    assert several is not None
    assert several.chat_template == "plain"
    assert len(several.config["chat_template"]) == 2


def test_no_tokenizer() -> None:
    assert tokenizer_from_gguf({"general.architecture": "llama"}) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (small(model="t5"), 'of kind "t5"'),
        (small(pre="qwen22"), r'"qwen22".*did you mean "qwen2"'),
        (small(tokens=[]), "0 tokens"),
        (small(token_type=[1]), "1 token types"),
        (small(tokens="x"), "not a list of str"),
        (small(merges=["h"]), "merge 0"),
        (small(merges=["h zz"]), "merge 0"),
        (small(eos_token_id=999), "eos_token_id is 999"),
        (small(tokens=["\udcff", *byte_alphabet(), *"abcdefg"]), "not UTF-8"),
        (sentencepiece(scores=[0.0]), "1 scores"),
    ],
)
def test_what_is_wrong_is_said(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tokenizer_from_gguf(metadata, "some.gguf")
    assert "some.gguf" in str(caught.value)


def test_sentencepiece_gives_the_ids_of_llama_cpp() -> None:
    tokenizer = tokenizer_from_gguf(sentencepiece())
    assert tokenizer is not None
    assert tokenizer.prefix_ids == (1,)
    for text, ids in zip(ORACLE["texts"], ORACLE["sentencepiece"]["text_ids"], strict=True):
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.real
@pytest.mark.parametrize("name", ORACLE["pre_tokenizers"])
def test_pre_tokenizers_give_the_ids_of_llama_cpp(name: str) -> None:
    """The vocabulary of SmolLM2, declared to have each of the pre-tokenizers."""
    from danlu.model.gguf.reader import open_gguf

    try:
        path = fetch("smollm2")
    except AssetUnavailable as error:
        pytest.skip(str(error))
    with open_gguf(path) as file:
        tokenizer = tokenizer_from_gguf({**file.metadata, "tokenizer.ggml.pre": name})
    assert tokenizer is not None
    assert name in PRE_TOKENIZERS
    for text, ids in zip(ORACLE["texts"], ORACLE["pre_tokenizers"][name], strict=True):
        assert tokenizer.encode(text) == ids, text
