"""The compiled encoder gives the ids of the library: for every pattern, every code point, any text, any added token."""

from __future__ import annotations

import ctypes
import json
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core import native
from danlu.tokenizer import characters, encoder
from danlu.tokenizer.alphabet import from_alphabet
from danlu.tokenizer.bpe import split_pattern
from danlu.tokenizer.gguf import GPT2, LLAMA3, PRE_TOKENIZERS, QWEN2
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import SPECIAL, TEXTS, small_json, small_tokenizer

pytestmark = pytest.mark.skipif(encoder.load() is None, reason="no compiler here")

PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "llama3": (LLAMA3,),
    "qwen2": (QWEN2,),
    "danlu": (split_pattern(),),
    "danlu3": (split_pattern(3),),
}
# Letters of several scripts, marks, digits, blanks, line ends, what contractions are made of, and what no rule names.
ALPHABET = (
    "abstTSmMlLdrevE'ſ 　\u00a0\t\r\n\u2028"
    "中文字々〇ひカーไทยก็é\u0301\u0327१Ⅷ²5.。,-_<|>!😀👍🏽\u200d\ufe0f\ue000\u0000"
)
texts = st.text(st.sampled_from(ALPHABET), max_size=60) | st.text(max_size=40)


def state(cuts: tuple[str, ...], **model: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(small_json())
    alphabet = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits = [{"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False} for cut in cuts]
    made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, alphabet]}
    made["added_tokens"] = []
    made["model"].update(model)
    return made


def both(made: dict[str, Any]) -> tuple[Any, encoder.Encoder | None]:
    library = tokenizers.Tokenizer.from_str(json.dumps(made))
    return library, encoder.make_encoder(json.dumps(made).encode(), [library])


@cache
def pair(name: str) -> tuple[Any, encoder.Encoder]:
    library, compiled = both(state(PATTERNS[name]))
    assert compiled is not None
    return library, compiled


def cut_by_library(library: Any, text: str) -> list[bytes]:
    return [from_alphabet(piece) for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)]


def ids_of(library: Any, text: str) -> list[int]:
    return list(library.encode(text, add_special_tokens=False).ids)


# ---- the pattern


def test_the_table_of_characters_is_that_of_the_library() -> None:
    """Each class and each code point of Unicode 14; of the long blocks of Han, Hangul and private use a sample."""
    table = (ctypes.c_uint8 * characters.N_CODES)()
    encoder.load().danlu_classes(table)
    bits = np.frombuffer(table, np.uint8)
    if unicodedata.unidata_version == characters.UNICODE:
        own = characters.recent_and_composing()
        assert np.array_equal(bits & characters.RECENT, own & characters.RECENT)
        known = own & characters.RECENT == 0
        assert np.array_equal(bits[known] & characters.COMPOSES, own[known])
    codes = [c for c in range(characters.N_CODES) if not bits[c] & characters.RECENT and not 0xD800 <= c < 0xE000]
    dull = [range(0x4F00, 0x9F00), range(0xAD00, 0xD700), range(0xE100, 0xF800), range(0x20100, 0x2A600)]
    dull += [range(0x2A800, 0x2EB00), range(0x30010, 0x31300), range(0xF0000, 0x110000)]
    codes = [c for c in codes if c % 97 == 0 or not any(c in block for block in dull)]
    for bit, members in characters.members_in_library("".join(map(chr, codes))).items():
        assert [c for c in codes if bits[c] & bit] == sorted(map(ord, members)), f"class {bit}"


@pytest.mark.parametrize("name", PATTERNS)
def test_every_kind_of_character_in_every_place(name: str) -> None:
    """One character of each class beside each other: behind apostrophes and blanks, before and after words and ends."""
    library, compiled = pair(name)
    some = sorted(set(ALPHABET) | set("ŉﬆßKﬁ๑𝟙𞤀"))
    for shape in ("{a}{b}", "x{a}{b}y", " {a}{b} ", "'{a}{b}", "中{a}{b}中", "1{a}{b}2", "\n{a}{b}\n", "..{a}{b}"):
        for a in some:
            text = "☃".join(shape.format(a=a, b=b) for b in some)
            assert compiled.pieces(text) == cut_by_library(library, text), (shape, a)


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_any_text_is_cut_and_encoded_as_by_the_library(name: str, text: str) -> None:
    library, compiled = pair(name)
    if not any(unicodedata.category(c) == "Cn" for c in text):
        assert compiled.pieces(text) == cut_by_library(library, text)
    assert compiled.encode_one(text) == ids_of(library, text)
    ids, ends = compiled.encode([text, "", text + text])
    assert ends[0] == 0 and ends[1] == ends[2]
    assert ids.tolist() == ids_of(library, text) + ids_of(library, text + text)


def real_texts() -> list[str]:
    folder = Path(json.__file__).parent
    code = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py"))]
    readme = Path(__file__).parents[2] / "README.zh-CN.md"
    return [*TEXTS, *code, readme.read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", PATTERNS)
def test_real_text(name: str) -> None:
    library, compiled = pair(name)
    ids, ends = compiled.encode(real_texts())
    for text, (start, end) in zip(real_texts(), pairwise(ends), strict=True):
        assert ids[start:end].tolist() == ids_of(library, text)


# ---- what a file may ask for


def test_whole_words_and_missing_bytes() -> None:
    """`ignore_merges`, and a vocabulary without some bytes, whose characters then leave no id."""
    made = state((LLAMA3,), ignore_merges=True)
    made["model"]["vocab"] |= {"zqj": 420, "Ġzqj": 421}
    for key in ("ä", "A", "¸"):
        joined = [k for k in made["model"]["vocab"] if key in k]
        for token in joined:
            del made["model"]["vocab"][token]
        made["model"]["merges"] = [m for m in made["model"]["merges"] if key not in "".join(m)]
    library, compiled = both(made)
    assert compiled is not None
    for text in ["zqj zqj zqjq", "A", "AA bAb", "中 中文", *TEXTS]:
        assert compiled.encode_one(text) == ids_of(library, text)


def test_nfc_texts_that_it_could_change_go_to_the_library() -> None:
    made = state((QWEN2,)) | {"normalizer": {"type": "NFC"}}
    library, compiled = both(made)
    assert compiled is not None
    for text in ["e\u0301", "plain", "\u2126", "\u1100\u1161\u11a8", "中文", "a\u0327\u0301", "\uf900", "각"]:
        assert compiled.encode_one(text) == ids_of(library, text)
        assert compiled.encode([text])[0].tolist() == ids_of(library, text)
    composed, _ = compiled.encode(["中", "e\u0301", "b"])
    assert composed.tolist() == [*ids_of(library, "中"), *ids_of(library, "é"), *ids_of(library, "b")]


@given(st.text("中ab<|>", max_size=30) | texts)
@settings(max_examples=150, deadline=None)
def test_added_tokens_are_found_as_the_library_finds_them(text: str) -> None:
    library, compiled, plain = with_added()
    for i, tokenizer in enumerate((library, plain)):
        assert compiled.encode_one(text, added=i) == ids_of(tokenizer, text)


@cache
def with_added() -> tuple[Any, encoder.Encoder, Any]:
    """Longer and shorter ones, in both passes, that overlap; and a second tokenizer that takes special ones as text."""
    made = state((QWEN2,))

    def tokenizer(as_text: bool) -> Any:
        library = tokenizers.Tokenizer.from_str(json.dumps(made))
        library.add_special_tokens(["<|a|>", "<|", "b<|a"])
        for content, normalized in (("<|a|>b", False), ("ab", True), ("bb", False), ("|>中", True), (">", True)):
            library.add_tokens([tokenizers.AddedToken(content, normalized=normalized)])
        library.encode_special_tokens = as_text
        return library

    first, second = tokenizer(False), tokenizer(True)
    compiled = encoder.make_encoder(json.dumps(made).encode(), [first, second])
    assert compiled is not None
    return first, compiled, second


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_whatever_else_is_left_to_the_library(change: dict[str, Any]) -> None:
    assert both(state((GPT2,)) | change)[1] is None
    assert both(state((GPT2,), dropout=0.5))[1] is None
    assert both(state((r"\p{L}+",)))[1] is None


def test_all_patterns_of_gguf_files_but_one_are_known() -> None:
    for name, rule in PRE_TOKENIZERS.items():
        assert (rule.patterns in encoder.CUTS) == (name != "default"), name


def test_damaged_vocabularies_are_refused() -> None:
    library = encoder.load()
    ids = np.arange(3, dtype=np.uint32)
    for tokens, merges, n in ((b"a\nb", b"", 0), (b"a\nb\nab", b"a b b", 1), (b"a\nb\nab", b"a c", 1), (b"", b"", 0)):
        arguments = (tokens, len(tokens), ids.ctypes.data, 3, merges, len(merges), n)
        assert not library.danlu_encoder_new(encoder.GPT2, 0, 0, 0, *arguments)


# ---- size, threads, memory


@pytest.mark.parametrize("piece", ["a", "ab", "中", " ", "\n", "'", "😀", "a1", "\u0301"])
def test_long_pieces_are_not_quadratic(piece: str) -> None:
    """100,000 times the same thing; the library agrees on a length that it can do."""
    library, compiled = pair("llama3")
    assert compiled.encode_one(piece * 500) == ids_of(library, piece * 500)
    assert len(compiled.encode_one(piece * 100_000)) > 0


@pytest.mark.parametrize("name", PATTERNS)
def test_long_texts_on_many_threads_are_the_same(name: str) -> None:
    """Cut for threads at line ends: the same ids as in one go, which an added token enforces."""
    made = state(PATTERNS[name])
    plain, other = (tokenizers.Tokenizer.from_str(json.dumps(made)) for _ in range(2))
    other.add_tokens(["<" + "never>"])  # not in any text, this one included
    compiled = encoder.make_encoder(json.dumps(made).encode(), [plain, other])
    assert compiled is not None
    text = " \n \n  ".join(real_texts()) * 12 + " \n \n  " * 100 + "\r\n".join(real_texts())
    assert len(text) > 3 * 2**18
    one, _ = compiled.encode(["", text, "x"], added=1, threads=1)
    many, ends = compiled.encode(["", text, "x"], threads=5)
    assert np.array_equal(one, many) and ends.tolist() == [0, 0, len(many) - 1, len(many)]


def test_python_threads_share_one_encoder() -> None:
    _, compiled = pair("danlu")
    expected, results = compiled.encode(real_texts())[0], []
    workers = [Thread(target=lambda: results.append(compiled.encode(real_texts(), threads=2)[0])) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6 and all(np.array_equal(result, expected) for result in results)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_text_do_no_harm(data: bytes) -> None:
    """Python never sends them; the compiled side must not read or write beyond its arrays all the same."""
    for name in PATTERNS:
        _, compiled = pair(name)
        out, count = np.full(len(data) + 8, 7, np.uint32), ctypes.c_int64()
        place, length = ctypes.c_char_p(data), ctypes.c_uint64(len(data))
        total = compiled.library.danlu_encoder_encode(
            compiled.handle, 0, ctypes.byref(place), ctypes.byref(length), 1, 1, out.ctypes.data, ctypes.byref(count)
        )
        assert 0 <= total <= len(data) and (out[len(data) :] == 7).all()


# ---- the tokenizer around it


def test_tokenizer_takes_the_compiled_encoder_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<|im_start|>user\n床前明月光<|im_end|> \ud83d\ude00\ud800"
    by_library, compiled = small_tokenizer(), small_tokenizer()
    assert compiled.encode("x" * 300_000) and compiled._encoder is not None and by_library._encoder is None
    for special in (False, True):
        assert compiled.encode(text, special=special) == by_library.encode(text, special=special)
    assert compiled.encode_batch([text, ""]) == by_library.encode_batch([text, ""])
    ids, ends = by_library.encode_arrays([])
    assert (ids.dtype, ends.tolist()) == (np.uint32, [0])
    ids, ends = compiled.encode_arrays([])
    assert (ids.dtype, ends.tolist()) == (np.uint32, [0])
    monkeypatch.setenv("DANLU_KERNELS", "off")
    native.load.cache_clear()
    without = Tokenizer(small_json())
    assert without.encode("x" * 300_000) == compiled.encode("x" * 300_000) and without._encoder is None
    native.load.cache_clear()
    assert SPECIAL[2] in text
