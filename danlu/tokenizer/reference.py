"""Byte-pair encoding in one page: what training and encoding mean, without the speed.

Training starts with the 256 bytes as tokens and repeats: count all neighbouring pairs, join the most frequent one
everywhere, call the result a new token. By hand, on the words "abab" (once) and "ab" (twice):

    pairs: (a,b) 2+2 = 4, (b,a) 1       ->  merge a+b = "ab";  words are now [ab ab] and [ab]
    pairs: (ab,ab) 1                     ->  merge ab+ab = "abab"

Encoding a piece starts with its bytes and applies the merges in the order they were learned.

Ties go to the pair with the smaller ids, left id first. It is O(merges x corpus): a real trainer keeps the counts
up to date instead of counting anew (`bpe.py` uses one). This file is for reading, and for the tests, which hold
the fast trainer and encoder against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from danlu.tokenizer.alphabet import BYTE_ORDER

Pair = tuple[int, int]


def train_reference(
    pieces: Mapping[bytes, int], vocab_size: int, *, n_special: int = 0, min_frequency: int = 1
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Learn a vocabulary from pieces of text and how often each occurs.

    Ids 0 to `n_special` - 1 are kept free, then come the bytes in the order of their alphabet characters, then
    the learned tokens. Returns (tokens by id, merges in order); a special token's place holds b"".
    """
    tokens = [b""] * n_special + [bytes([byte]) for byte in BYTE_ORDER]
    ids = {token: i for i, token in enumerate(tokens) if token}
    words = [([ids[bytes([byte])] for byte in piece], count) for piece, count in pieces.items()]
    merges: list[tuple[bytes, bytes]] = []
    while len(tokens) < vocab_size:
        counts: Counter[Pair] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_frequency:
            break
        merges.append((tokens[best[0]], tokens[best[1]]))
        joined = tokens[best[0]] + tokens[best[1]]
        if joined not in ids:  # two different pairs may spell the same token: a+bc and ab+c
            ids[joined] = len(tokens)
            tokens.append(joined)
        words = [(_merge(word, best, ids[joined]), count) for word, count in words]
    return tokens, merges


def encode_reference(piece: bytes, merges: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The tokens of one piece: of the pairs present, the one learned first is joined, until none is left."""
    rank = {pair: i for i, pair in enumerate(merges)}
    parts = [bytes([byte]) for byte in piece]
    while True:
        present = [(rank[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in rank]
        if not present:
            return parts
        _, i = min(present)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _merge(word: list[int], pair: Pair, new: int) -> list[int]:
    """Replace `pair` by `new` from left to right: in "aaa" the first two are joined."""
    merged: list[int] = []
    i = 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged
