"""Encoding: exact round trips, special strings that stay text, and the same ids as transformers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.tokenizer.tokenizer import Tokenizer, make_config
from tests.tokenizer.shared import CODE, POEM, SPECIAL, TEXTS, small_json, small_tokenizer

TOKENIZER = small_tokenizer()
special_strings = st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), max_size=8).map("".join)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=80), special_strings))
@example("")
@example("\x00\x01\x1f\x7f\u0085\u2028\ufeff\ufffd")
@example("👩‍👩‍👧‍👦 🏳️‍🌈 𠮷野家 é\u0301 <|im_end|><|im_<|im_end|>end|>")
@example("\r\n\r \t\u3000 　")
def test_text_round_trip_and_no_control_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.special_ids.isdisjoint(ids)
    assert b"".join(map(TOKENIZER.token_bytes, ids)) == text.encode()


@given(st.binary(max_size=60))
def test_any_bytes_are_spelled_by_tokens(data: bytes) -> None:
    """A model may emit any ids; bytes that are no UTF-8 decode as Python and the library do."""
    ids = [TOKENIZER._control.token_to_id(c) for c in _alphabet(data)]
    assert b"".join(map(TOKENIZER.token_bytes, ids)) == data
    assert TOKENIZER.decode(ids) == data.decode("utf-8", "replace") == TOKENIZER._control.decode(ids)


@given(st.lists(st.integers(0, 419), max_size=40), st.booleans())
def test_decode_equals_the_library(ids: list[int], skip: bool) -> None:
    # the library decodes added tokens apart from their neighbours' bytes only where those are whole characters
    ordinary = [i for i in ids if i not in TOKENIZER.special_ids]
    assert TOKENIZER.decode(ordinary) == TOKENIZER._control.decode(ordinary)
    if skip:
        assert TOKENIZER.decode(ids, skip_special=True) == TOKENIZER.decode(ordinary)


def _alphabet(data: bytes) -> str:
    from danlu.tokenizer.alphabet import to_alphabet

    return to_alphabet(data)


@pytest.mark.parametrize(
    ("text", "back"), [("a\ud800b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("\udfff", "\ufffd"), ("好\udc80", "好\ufffd")]
)
def test_surrogates_are_joined_or_replaced(text: str, back: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == back
    assert TOKENIZER.encode_batch([text]) == [TOKENIZER.encode(back)]


def test_special_strings_are_tokens_only_when_asked() -> None:
    text = "<|im_start|>user"
    assert TOKENIZER.encode(text, special=True)[0] == 2
    assert 2 not in TOKENIZER.encode(text)
    assert TOKENIZER.decode(TOKENIZER.encode(text, special=True)) == text
    assert TOKENIZER.decode(TOKENIZER.encode(text, special=True), skip_special=True) == "user"


def test_batch_equals_one_by_one() -> None:
    texts = [*TEXTS, "", "<|im_end|>"]
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]
    assert TOKENIZER.encode_batch([]) == []


def test_roles() -> None:
    assert (TOKENIZER.eos_id, TOKENIZER.pad_id, TOKENIZER.bos_id) == (0, 1, None)
    assert TOKENIZER.stop_ids == {0, 3}
    assert TOKENIZER.special_ids == {0, 1, 2, 3}
    assert TOKENIZER.prefix_ids == ()
    assert TOKENIZER.decode([420, -1, 10**9]) == ""


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == small_json()
    assert again.fingerprint == TOKENIZER.fingerprint
    assert again.config == TOKENIZER.config
    assert again.encode(POEM) == TOKENIZER.encode(POEM)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_transformers_reads_it_with_equal_ids(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    TOKENIZER.save(tmp_path)
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        theirs = kind.from_pretrained(tmp_path)
        assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (0, 1, None)
        assert set(theirs.all_special_ids) == TOKENIZER.special_ids
        for text in TEXTS:
            assert theirs.encode(text, add_special_tokens=False) == theirs(text).input_ids == TOKENIZER.encode(text)
            assert theirs.decode(TOKENIZER.encode(text)) == text
        marked = "<|im_start|>user\nhi<|im_end|>\n"
        assert theirs.encode(marked, add_special_tokens=False) == TOKENIZER.encode(marked, special=True)
        assert theirs.encode(marked, split_special_tokens=True) == TOKENIZER.encode(marked)


def test_reads_what_transformers_saves(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    TOKENIZER.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.encode(CODE) == TOKENIZER.encode(CODE)
    assert (again.eos_id, again.pad_id, again.stop_ids) == (TOKENIZER.eos_id, TOKENIZER.pad_id, TOKENIZER.stop_ids)
    assert again.chat_template == TOKENIZER.chat_template


def with_added(*contents: str, special: bool) -> Tokenizer:
    """The small tokenizer with more added tokens, as families have them."""
    data = json.loads(small_json())
    for content in contents:
        index = 416 + len(data["added_tokens"])
        data["added_tokens"].append(
            {"id": index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": special}
        )  # fmt: skip
    return Tokenizer(json.dumps(data), TOKENIZER.config)


def test_markup_not_flagged_special_is_control_and_blanks_are_text() -> None:
    tokenizer = with_added("<think>", "        ", special=False)
    assert tokenizer.control_tokens["<think>"] == 420
    assert tokenizer.encode("<think>        x", special=True)[:2] == [420, 421]
    ids = tokenizer.encode("<think>        x<|im_end|>")
    assert 421 in ids  # a run of blanks as a token is ordinary text (GPT-NeoX, CodeGen)
    assert not {420, 3} & set(ids)
    assert tokenizer.decode(ids) == "<think>        x<|im_end|>"
    assert tokenizer.encode_batch(["<think>        x"]) == [tokenizer.encode("<think>        x")]
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert tokenizer.vocab_size == 422


def test_added_token_with_chinese_name() -> None:
    tokenizer = with_added("<|开始|>", special=True)
    assert tokenizer.encode("<|开始|>", special=True) == [420]
    assert tokenizer.decode([420]) == "<|开始|>"
    assert tokenizer.decode(tokenizer.encode("<|开始|>好")) == "<|开始|>好"


def test_leading_bos_is_reported_not_added() -> None:
    data = json.loads(small_json())
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }
    tokenizer = Tokenizer(json.dumps(data), TOKENIZER.config | {"bos_token": "<|endoftext|>"})
    assert tokenizer.prefix_ids == (0,)
    assert tokenizer.encode(POEM) == TOKENIZER.encode(POEM)


def sentencepiece_like() -> Tokenizer:
    """A Llama 2 shaped vocabulary: blanks as U+2581, bytes as <0xNN>, one blank put before the text."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{b:02X}>": 3 + b for b in range(256)}}
    for token in ("▁", "h", "i", "▁h", "▁hi"):
        vocabulary[token] = len(vocabulary)
    data: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for i, c in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocabulary,
            "merges": [["▁", "h"], ["▁h", "i"]],
        },
    }  # fmt: skip
    return Tokenizer(json.dumps(data), {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}})


@pytest.mark.parametrize("text", ["hi", "hi hi", " hi", "你 hi 😀", "h\ni", "</s>hi<s>"])
def test_sentencepiece_vocabulary(text: str) -> None:
    tokenizer = sentencepiece_like()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer._control.decode(ids)
    assert {1, 2}.isdisjoint(ids)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


def test_word_vocabulary_that_cannot_keep_text_apart_is_refused() -> None:
    data = {
        "version": "1.0", "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True}],
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1}, "unk_token": "<unk>"},
    }  # fmt: skip
    with pytest.raises(UserError, match="would become a special token"):
        Tokenizer(json.dumps(data))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer.json in .*nowhere"):
        Tokenizer.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json: this is no tokenizer.json that can be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="can be read"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": ')
    with pytest.raises(UserError, match=r"tokenizer_config.json cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match="does not hold a JSON object"):
        Tokenizer.load(tmp_path)


def test_truncation_and_padding_in_the_file_are_not_obeyed() -> None:
    """Some published files say "cut at 512": a tokenizer that cuts silently drops training data."""
    data = json.loads(small_json())
    data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                       "pad_type_id": 0, "pad_token": "<|pad|>"}  # fmt: skip
    tokenizer = Tokenizer(json.dumps(data), TOKENIZER.config)
    assert tokenizer.encode(POEM) == TOKENIZER.encode(POEM)
    assert tokenizer.encode_batch(["a", POEM]) == TOKENIZER.encode_batch(["a", POEM])


def test_a_vocabulary_of_50000_loads_quickly(tmp_path: Path) -> None:
    data = json.loads(small_json())
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    letters = [c for c in vocabulary if len(c) == 1]
    for left in letters:  # all pairs of bytes until there are enough
        for right in letters:
            if len(vocabulary) < 50_000 and left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append([left, right])
    Tokenizer(json.dumps(data), make_config(eos_token="<|endoftext|>")).save(tmp_path)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        tokenizer = Tokenizer.load(tmp_path)
        seconds.append(time.process_time() - start)
    assert tokenizer.vocab_size == 50_000
    assert min(seconds) < 0.5


@pytest.mark.parametrize("unit", ["a", " ", "\n", " \n", "明", "=", "1", "\u0301", "<|im_end|>"])
def test_long_runs_take_linear_time(unit: str) -> None:
    """A megabyte of one character is where a careless pattern or merge loop needs hours."""

    def seconds(n: int) -> float:
        text = unit * (n // len(unit)) + "x"
        start = time.process_time()
        ids = TOKENIZER.encode(text)
        spent = time.process_time() - start
        assert TOKENIZER.decode(ids) == text
        return spent

    short = min(seconds(10_000) for _ in range(3))
    assert seconds(100_000) < 40 * short + 0.2  # quadratic would be 100 times as long
