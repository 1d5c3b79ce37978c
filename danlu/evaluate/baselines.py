"""Trivial baselines: what needs no neural network.

`xz -9e` is a dictionary compressor: it knows nothing but the text it is given, and finds repetitions in it. A
language model that needs more bits per byte than that has not learned anything worth its weights.

The byte n-gram knows what followed the last k bytes in the training text. With c(h, b) how often byte b followed
the history h, N(h) the sum of these and T(h) the number of different bytes seen after h, Witten and Bell (1991)
interpolate the orders,

    p_k(b | h) = (c(h, b) + T(h) * p_{k-1}(b | h')) / (N(h) + T(h)),        h' = h without its oldest byte,
    p_{-1}(b)  = 1/256,

so a history seen rarely or with many different successors trusts the shorter one more; an unseen one is skipped.

Worked example, order 2 (one byte of history), trained on "abab" and its end 0, history "a", next "b":

    c(b) = 2, N = 5, T = 3            p_0(b | ) = (2 + 3/256) / (5 + 3) = 0.2515
    c(a, b) = 2, N(a) = 2, T(a) = 1   p_1(b | a) = (2 + 1 * 0.2515) / (2 + 1) = 0.7505

Data layout: an n-gram of up to 8 bytes is one uint64, history in the high bytes and the next byte in the lowest.
So counting is sorting, all n-grams of one history are neighbours in the sorted array, and looking up a million of
them is two binary searches in numpy. No hash collisions, no Python loop over bytes.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 8  # bytes in a uint64
DEFAULT_ORDER = 6  # on a few megabytes of text longer histories are too rare and make it worse

Codes = NDArray[np.uint64]


def xz_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits that `xz -9e` needs for each UTF-8 byte of the texts, one after another in one file."""
    data = "".join(texts).encode("utf-8", "replace")
    packed = lzma.compress(data, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    return 8 * len(packed) / len(data) if data else 0.0


@dataclass(frozen=True)
class _Order:
    """All n-grams of one length: `codes` sorted; per history its total, number of successors and place in codes."""

    codes: Codes  # [G]
    counts: NDArray[np.int64]  # [G]
    histories: Codes  # [H], sorted
    starts: NDArray[np.int64]  # [H + 1], where a history's successors begin in `codes`
    totals: NDArray[np.int64]  # [H]


class ByteNgram:
    """An interpolated byte n-gram. `order` counts the predicted byte too: order 6 looks at 5 bytes."""

    def __init__(self, texts: Iterable[str], order: int = DEFAULT_ORDER) -> None:
        assert 1 <= order <= MAX_ORDER
        self.order = order
        data, is_text = _join(texts)
        counted = is_text.copy()
        counted[1:] |= is_text[:-1]  # the zero byte after a text: so the model learns where texts end
        self._orders = [_count(_codes(data, n)[counted]) for n in range(1, order + 1)]

    def bits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Bits that each text needs, [len(texts)]. Every text begins with an empty history."""
        data, is_text = _join(texts)
        p = np.full(int(is_text.sum()), 1 / 256)
        for n, table in enumerate(self._orders, start=1):
            p = _interpolate(table, _codes(data, n)[is_text], p)
        lengths = [len(text.encode("utf-8", "replace")) for text in texts]
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        running = np.concatenate([[0.0], np.cumsum(-np.log2(p))])
        bits: NDArray[np.float64] = running[ends[1:]] - running[ends[:-1]]
        return bits

    def distribution(self, history: bytes) -> NDArray[np.float64]:
        """Probability of each next byte after `history`, [256]."""
        padded = b"\0" * MAX_ORDER + history
        p = np.full(256, 1 / 256)
        for n, table in enumerate(self._orders, start=1):
            code = np.uint64(int.from_bytes(padded[len(padded) - n + 1 :], "big")) if n > 1 else np.uint64(0)
            at = int(np.searchsorted(table.histories, code))
            if at == len(table.histories) or table.histories[at] != code:
                break  # a longer history contains this one, so it is unseen too
            place = slice(table.starts[at], table.starts[at + 1])
            seen = np.zeros(256)
            seen[(table.codes[place] & np.uint64(255)).astype(np.int64)] = table.counts[place]
            kinds = place.stop - place.start
            p = (seen + kinds * p) / (table.totals[at] + kinds)
        return p

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Continue `prompt` by up to `length` bytes drawn at random; it ends early where a training text ended."""
        generator = np.random.default_rng(seed)
        text = bytearray(prompt.encode())
        begin = len(text)
        for _ in range(length):
            p = self.distribution(bytes(text[-self.order :]))
            byte = int(generator.choice(256, p=p / p.sum()))
            if byte == 0:
                break
            text.append(byte)
        return bytes(text[begin:]).decode("utf-8", "ignore")


def _join(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Texts as one byte array with MAX_ORDER zero bytes around each, and a mask of the bytes that are text."""
    gap = b"\0" * MAX_ORDER
    parts = [text.encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(gap + gap.join([*parts, b""]), dtype=np.uint8)
    is_text = np.zeros(len(data), dtype=bool)
    at = MAX_ORDER
    for part in parts:
        is_text[at : at + len(part)] = True
        at += len(part) + MAX_ORDER
    return data, is_text


def _codes(data: NDArray[np.uint8], n: int) -> Codes:
    """The n bytes that end at each position as one number, oldest byte highest, [len(data)]."""
    codes = np.zeros(len(data), dtype=np.uint64)
    for back in range(min(n, len(data))):
        codes[back:] |= data[: len(data) - back].astype(np.uint64) << np.uint64(8 * back)
    return codes


def _count(codes: Codes) -> _Order:
    unique, counts = np.unique(codes, return_counts=True)
    histories, starts = np.unique(unique >> np.uint64(8), return_index=True)
    totals = np.add.reduceat(counts, starts) if len(starts) else np.zeros(0, dtype=np.int64)
    ends = np.append(starts, len(unique)).astype(np.int64)
    return _Order(unique, counts.astype(np.int64), histories, ends, totals.astype(np.int64))


def _interpolate(table: _Order, codes: Codes, lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """One line of the recursion for all positions: codes [N] and p of the shorter history [N] -> p [N]."""
    if not len(table.codes):
        return lower
    at = np.minimum(np.searchsorted(table.codes, codes), len(table.codes) - 1)
    count = np.where(table.codes[at] == codes, table.counts[at], 0)
    history = codes >> np.uint64(8)
    at = np.minimum(np.searchsorted(table.histories, history), len(table.histories) - 1)
    known = table.histories[at] == history
    kinds, total = np.diff(table.starts)[at], table.totals[at]
    return np.where(known, (count + kinds * lower) / (total + kinds), lower)
