"""Training: the pattern, determinism, bounded tables, and equality with the reference in plain Python."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.tokenizer.alphabet import BYTE_ORDER, BYTE_TO_CHARACTER, from_alphabet, to_alphabet
from danlu.tokenizer.bpe import pre_tokenizer, train_bpe
from danlu.tokenizer.reference import encode_reference, train_reference
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import SPECIAL, TEXTS, small_json


def pieces(text: str, han_run: int = 2) -> list[str]:
    return [
        from_alphabet(piece).decode("utf-8", "replace") for piece, _ in pre_tokenizer(han_run).pre_tokenize_str(text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("床前明月光，疑是", ["床前", "明月", "光", "，", "疑是"]),
        ("我们like Python代码", ["我们", "like", " Python", "代码"]),
        ("def f(x):\n    return 12345", ["def", " f", "(x", "):\n", "   ", " return", " ", "12", "34", "5"]),
        ("it's THEY'LL", ["it", "'s", " THEY", "'LL"]),
        ("ภาษาไทย", ["ภาษาไท", "ย"]),
        ("ひらがなカタカナ", ["ひらがなカタ", "カナ"]),
        ("cafe\u0301 ok", ["cafe\u0301", " ok"]),
        ("", []),
    ],
)
def test_pieces(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@given(st.text(max_size=60), st.integers(1, 4))
def test_pieces_lose_nothing(text: str, han_run: int) -> None:
    cut = pre_tokenizer(han_run).pre_tokenize_str(text)
    assert b"".join(from_alphabet(piece) for piece, _ in cut) == text.encode()


def test_alphabet_is_the_published_one() -> None:
    from tokenizers import pre_tokenizers

    assert set(BYTE_TO_CHARACTER.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert to_alphabet("中 a\n".encode()) == "ä¸ŃĠaĊ"
    assert all(from_alphabet(to_alphabet(bytes([b]))) == bytes([b]) for b in range(256))
    assert from_alphabet("<|开始|>") == "<|开始|>".encode()  # a token added as text, not in the alphabet


def test_same_corpus_same_bytes() -> None:
    assert small_json() == train_bpe(iter(TEXTS * 4), vocab_size=420, special_tokens=SPECIAL)


def test_order_of_documents_does_not_matter() -> None:
    shuffled = TEXTS * 4
    random.Random(0).shuffle(shuffled)
    assert small_json() == train_bpe(shuffled, vocab_size=420, special_tokens=SPECIAL)


def test_ids_are_special_then_bytes_then_merges() -> None:
    tokenizer = Tokenizer(small_json())
    assert [tokenizer.token_bytes(i) for i in range(4)] == [token.encode() for token in SPECIAL]
    assert [tokenizer.token_bytes(4 + i)[0] for i in range(256)] == BYTE_ORDER
    assert tokenizer.vocab_size == 420


def test_reference_by_hand() -> None:
    """The example of reference.py: ab occurs 4 times, then ab+ab once."""
    tokens, merges = train_reference({b"abab": 1, b"ab": 2}, 258)
    assert merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert tokens[256:] == [b"ab", b"abab"]
    assert encode_reference(b"ababa", merges) == [b"abab", b"a"]
    assert train_reference({b"aaa": 1}, 257)[1] == [(b"a", b"a")]
    assert encode_reference(b"aaa", [(b"a", b"a")]) == [b"aa", b"a"]


def assert_equals_reference(texts: list[str], vocab_size: int, min_frequency: int) -> None:
    counts = Counter(from_alphabet(piece) for t in texts for piece, _ in pre_tokenizer().pre_tokenize_str(t))
    tokens, merges = train_reference(counts, vocab_size, n_special=1, min_frequency=min_frequency)
    made = train_bpe(texts, vocab_size=vocab_size, special_tokens=["<|end|>"], min_frequency=min_frequency)
    model = json.loads(made)["model"]
    assert [tuple(map(from_alphabet, pair)) for pair in model["merges"]] == merges
    tokenizer = Tokenizer(made)
    assert [tokenizer.token_bytes(i) for i in range(1, tokenizer.vocab_size)] == tokens[1:]
    for text in texts:
        spelled = [tokenizer.token_bytes(i) for i in tokenizer.encode(text)]
        cut = [from_alphabet(piece) for piece, _ in pre_tokenizer().pre_tokenize_str(text)]
        assert spelled == [token for piece in cut for token in encode_reference(piece, merges)]


@pytest.mark.parametrize("min_frequency", [1, 2])
def test_trainer_equals_reference_on_real_text(min_frequency: int) -> None:
    assert_equals_reference(TEXTS, 450, min_frequency)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab 明月", min_size=1, max_size=20).filter(str.strip), min_size=1, max_size=8))
def test_trainer_equals_reference_on_any_text(texts: list[str]) -> None:
    """Few letters make many ties, and pairs that spell the same token in two ways."""
    assert_equals_reference(texts, 290, 1)


def test_chinese_without_spaces_keeps_the_table_small() -> None:
    """Random characters in clauses of 12: the worst case, where no clause repeats. 120 characters have 14,400 pairs."""
    characters = [chr(0x4E00 + i) for i in range(120)]

    def distinct(n_clauses: int, cut: object) -> int:
        local = random.Random(2)
        text = "，".join("".join(local.choices(characters, k=12)) for _ in range(n_clauses))
        return len({piece for piece, _ in cut.pre_tokenize_str(text)})  # type: ignore[attr-defined]

    from tokenizers import Regex, pre_tokenizers

    clauses = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+"), "isolated")
    assert distinct(4_000, clauses) > 3.9 * distinct(1_000, clauses)  # made for English: grows with the corpus
    capped = pre_tokenizer()
    assert distinct(8_000, capped) <= 120 + 120**2 + 1  # cut at two characters: bounded whatever the corpus
    assert distinct(8_000, capped) < 4 * distinct(2_000, capped) * 0.6


def test_bad_input() -> None:
    with pytest.raises(UserError, match="too small: 256 bytes and 4 special tokens already need 260"):
        train_bpe(TEXTS, vocab_size=259, special_tokens=SPECIAL)
    with pytest.raises(UserError, match="no text"):
        train_bpe([], vocab_size=300)
    with pytest.raises(UserError, match="no text"):
        train_bpe(["", " \n"], vocab_size=300)
    assert Tokenizer(train_bpe(["aa"], vocab_size=260, special_tokens=SPECIAL)).vocab_size == 260
