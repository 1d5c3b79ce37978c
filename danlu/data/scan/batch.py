"""One pass over a batch of texts: everything later stages want to know, while the bytes are in the cache.

    texts  --UTF-8, one array-->  C++, one thread  -->  measures     float32 [D, M]     what `quality.rules` decides on
                                                        signatures   uint32 [D, 128]    what near-duplicates share
                                                        hashes       16 bytes a text, 8 a line, 8 a paragraph
                                                        shingles     4 bytes each, where similarity must be exact

    scanned = scan(texts, languages)
    scanned.measure("letter_share")                      float32 [D]

A core of 2.6 GHz reads several ten megabytes a second with all measures. The alternative, one filter after the other in
Python, splits every text into words once per filter: a hundred times slower.

What each number means is said, in Python, by `quality.measure` and `dedup.signature`. Where there is no compiler those
compute them; a test holds the two together on random Unicode. The C++ keeps no state: batches may be scanned in any
number of processes or threads (ctypes gives up Python's lock), in any cut and order.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.native import Native, load
from danlu.core.text import units
from danlu.data.dedup.signature import (
    FACTOR,
    FACTOR_2,
    PERMUTATIONS,
    SEED,
    permutations,
    shingle_units,
    signatures,
    text_shingles,
    unit_hash,
)
from danlu.data.quality import classes
from danlu.data.quality.measure import COLUMN, COLUMNS, Measured, measure, says_generated
from danlu.data.quality.phrases import COMMON_HAN, PHRASES, STOP_WORDS

TEXT = Native(
    name="text",
    folder=Path(__file__).parent / "cpp",
    files=("scan.cpp",),
    instead="texts are measured in Python, a hundred times slower",
)
_PADDING = 64  # bytes behind the text that the C++ may look at
_STOP, _COMMON = 1, 2  # bits of `word_marks`


@dataclass(frozen=True)
class Scanned:
    """What is known of D texts.

    measures      float32 [D, M]     columns as in `quality.measure.COLUMNS`; [0, M] texts when not asked for
    signatures    uint32 [D, 128]    MinHash; zeros where `empty`
    units         uint32 [D]
    hashes        uint64 [D, 2]      BLAKE2b of the text, 128 bits: equal texts, and only those
    lines         uint64 [L]         hashes of the lines of all texts, without outer white space and empty ones
    line_ends     int64 [D]          lines[line_ends[i - 1] : line_ends[i]] are those of text i
    paragraphs, paragraph_ends       the same of paragraphs
    shingles      uint32 [S]         hashes of the shingles of all texts, those of one ascending and each once
    shingle_ends  int64 [D]
    """

    measures: NDArray[np.float32]
    signatures: NDArray[np.uint32]
    units: NDArray[np.uint32]
    hashes: NDArray[np.uint64]
    lines: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    line_ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    paragraphs: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    paragraph_ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    shingles: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    shingle_ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.units)

    @property
    def empty(self) -> NDArray[np.bool_]:
        """bool [D]: texts without units. Their signatures say nothing."""
        return self.units == 0

    def measure(self, name: str) -> NDArray[np.float32]:
        return self.measures[:, COLUMN[name]]


def scan(
    texts: Sequence[str],
    languages: Sequence[str],
    *,
    measures: bool = True,
    signatures: bool = True,
    lines: bool = False,
    shingles: bool = False,
) -> Scanned:
    """Read the texts once. `languages` ("zh", "en", "code:python", ...) choose stop words and the length of shingles.

    `measures` and `signatures` may be left out (their arrays then have no rows); `lines` asks for hashes of lines and
    paragraphs, `shingles` for sets of shingles. Batches of some megabytes are best: the arrays stay small and a call
    costs nothing.
    """
    assert len(texts) == len(languages), "one language a text"
    library = load(TEXT)
    if library is None:
        return _in_python(texts, languages, measures, signatures, lines, shingles)
    encoded = [_settle_sigma(text).encode("utf-8", "surrogatepass") for text in texts]
    joined = b"".join([*encoded, bytes(_PADDING)])
    count = len(texts)
    result = Scanned(
        measures=np.zeros((count if measures else 0, len(COLUMNS)), np.float32),
        signatures=np.zeros((count if signatures else 0, PERMUTATIONS), np.uint32),
        units=np.zeros(count, np.uint32),
        hashes=_text_hashes(texts, encoded),
        lines=np.zeros(joined.count(b"\n") + count if lines else 0, np.uint64),
        line_ends=np.zeros(count if lines else 0, np.int64),
        paragraphs=np.zeros(joined.count(b"\n") + count if lines else 0, np.uint64),
        paragraph_ends=np.zeros(count if lines else 0, np.int64),
        shingles=np.zeros(len(joined) if shingles and count else 0, np.uint32),  # a unit has at least one byte
        shingle_ends=np.zeros(count if shingles else 0, np.int64),
    )
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum([len(data) for data in encoded], out=offsets[1:])
    known = {name: (_language_number(name), shingle_units(name)) for name in set(languages)}
    language, shingle = np.array([known[name] for name in languages], np.uint8).reshape(-1, 2).T.copy()
    batch = _Batch(
        count,
        joined,
        _pointer(offsets),
        _pointer(language),
        _pointer(shingle),
        _pointer(result.measures) if measures else None,
        _pointer(result.signatures) if signatures else None,
        _pointer(result.units),
        _pointer(result.lines) if lines else None,
        _pointer(result.paragraphs),
        _pointer(result.line_ends),
        _pointer(result.paragraph_ends),
        _pointer(result.shingles) if shingles else None,
        _pointer(result.shingle_ends),
    )
    setup = _setup(library)
    library.danlu_scan(ctypes.byref(setup.structure), ctypes.byref(batch))
    if measures:  # the compiled search says where the pattern could match
        generated = result.measure("generated")
        for row in np.flatnonzero(generated).tolist():
            generated[row] = says_generated(texts[row])
    if not count:
        return result
    return replace(
        result,
        lines=result.lines[: result.line_ends[-1] if lines else 0],
        paragraphs=result.paragraphs[: result.paragraph_ends[-1] if lines else 0],
        shingles=result.shingles[: result.shingle_ends[-1] if shingles else 0],
    )


def _settle_sigma(text: str) -> str:
    """Capital sigma becomes the small letter that str.lower chooses there: the one letter that looks around itself."""
    if "Σ" not in text:
        return text
    lowered = text.replace("İ", "i").lower()  # "İ" is the one letter that becomes two
    return "".join(low if letter == "Σ" else letter for letter, low in zip(text, lowered, strict=True))


def _text_hashes(texts: Sequence[str], encoded: Sequence[bytes]) -> NDArray[np.uint64]:
    """Of the text as it is: a settled sigma is another character."""
    whole = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass") if "Σ" in text else data, digest_size=16).digest()
        for text, data in zip(texts, encoded, strict=True)
    ]
    return np.frombuffer(b"".join(whole), dtype="<u8").reshape(-1, 2)


# ---- what the C++ is told --------------------------------------------------------------------------------------


class _Setup(ctypes.Structure):
    """`Setup` in scan.cpp."""

    _fields_ = [
        ("page_of", ctypes.c_void_p),
        ("classes", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
        ("lower", ctypes.c_void_p),
        ("phrase_bytes", ctypes.c_char_p),
        ("phrase_offsets", ctypes.c_void_p),
        ("phrase_kinds", ctypes.c_void_p),
        ("phrases", ctypes.c_int32),
        ("languages", ctypes.c_int32),
        ("word_hashes", ctypes.c_void_p),
        ("word_marks", ctypes.c_void_p),
        ("word_offsets", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
    ]


class _Batch(ctypes.Structure):
    """`Batch` in scan.cpp."""

    _fields_ = [
        ("documents", ctypes.c_int64),
        ("bytes", ctypes.c_char_p),
        ("offsets", ctypes.c_void_p),
        ("language", ctypes.c_void_p),
        ("shingle", ctypes.c_void_p),
        ("measures", ctypes.c_void_p),
        ("signatures", ctypes.c_void_p),
        ("units", ctypes.c_void_p),
        ("lines", ctypes.c_void_p),
        ("paragraphs", ctypes.c_void_p),
        ("line_ends", ctypes.c_void_p),
        ("paragraph_ends", ctypes.c_void_p),
        ("shingles", ctypes.c_void_p),
        ("shingle_ends", ctypes.c_void_p),
    ]


def _pointer(array: NDArray[Any]) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data


@dataclass(frozen=True)
class _Kept:
    """The structure and the arrays it points to, which must live as long."""

    structure: _Setup
    arrays: tuple[Any, ...]


@functools.cache
def _setup(library: ctypes.CDLL) -> _Kept:
    library.danlu_columns.restype = ctypes.c_char_p
    library.danlu_scan.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.danlu_scan.restype = None
    assert library.danlu_columns().decode().split() == list(COLUMNS), "measures.h and measure.py name other columns"
    table = classes.table()
    phrases = [(text.lower().encode(), kind) for kind, texts in enumerate(PHRASES.values()) for text in texts]
    assert all(len(text) >= 4 for text, _ in phrases)
    joined = b"".join(text for text, _ in phrases)
    offsets = np.cumsum([0, *(len(text) for text, _ in phrases)], dtype=np.int64)
    kinds = np.array([kind for _, kind in phrases], np.uint8)
    lists = [_words(language) for language in STOP_WORDS]
    hashes = np.array([hash for words in lists for hash in words], np.uint64)
    marks = np.array([mark for words in lists for mark in words.values()], np.uint8)
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    a, b = permutations()
    arrays = (table.page_of, table.classes, table.flags, table.lower, offsets, kinds, hashes, marks, ends, a, b)
    return _Kept(
        _Setup(
            *(_pointer(array) for array in arrays[:4]),
            joined,
            _pointer(offsets),
            _pointer(kinds),
            len(phrases),
            len(lists),
            *(_pointer(array) for array in arrays[6:]),
        ),
        (*arrays, joined),
    )


def _words(language: str) -> dict[int, int]:
    """hash of a unit -> its marks, in the order of hashes."""
    marks = dict.fromkeys(map(unit_hash, COMMON_HAN), _COMMON)
    for word in STOP_WORDS[language]:
        marks[unit_hash(word)] = marks.get(unit_hash(word), 0) | _STOP
    return dict(sorted(marks.items()))


def _language_number(language: str) -> int:
    return list(STOP_WORDS).index(language) if language in STOP_WORDS else list(STOP_WORDS).index("en")


# ---- without a compiler ----------------------------------------------------------------------------------------


def _in_python(
    texts: Sequence[str], languages: Sequence[str], measured: bool, signed: bool, lines: bool, shingles: bool
) -> Scanned:
    rows = [measure(text, language) for text, language in zip(texts, languages, strict=True)] if measured else []
    hashes: list[int] = []
    paragraph_hashes: list[int] = []
    ends: list[tuple[int, int]] = []
    pairs = zip(texts, languages, strict=True) if shingles else ()
    sets = [np.unique(text_shingles(text, language)) for text, language in pairs]
    for text in texts if lines else ():
        one = Measured(text)
        hashes += map(line_hash, one.lines)
        paragraph_hashes += map(paragraph_hash, one.paragraphs)
        ends.append((len(hashes), len(paragraph_hashes)))
    return Scanned(
        measures=np.stack(rows) if rows else np.zeros((0, len(COLUMNS)), np.float32),
        signatures=signatures(texts, languages) if signed else np.zeros((0, PERMUTATIONS), np.uint32),
        units=np.array([len(units(text.lower())) for text in texts], np.uint32),
        hashes=_text_hashes(texts, [text.encode("utf-8", "surrogatepass") for text in texts]),
        lines=np.array(hashes, np.uint64),
        line_ends=np.array([end for end, _ in ends], np.int64),
        paragraphs=np.array(paragraph_hashes, np.uint64),
        paragraph_ends=np.array([end for _, end in ends], np.int64),
        shingles=np.concatenate([np.zeros(0, np.uint32), *sets]),
        shingle_ends=np.cumsum([len(one) for one in sets], dtype=np.int64),
    )


_MASK = (1 << 64) - 1


def line_hash(line: str) -> int:
    """64 bits over the UTF-8 of a line (without its outer white space), eight bytes at a time."""
    data = _settle_sigma(line).encode("utf-8", "surrogatepass")
    whole = len(data) // 8 * 8
    value = SEED ^ (len(data) * FACTOR & _MASK)
    for start in range(0, whole, 8):
        value = ((value ^ int.from_bytes(data[start : start + 8], "little")) * FACTOR) & _MASK
        value ^= value >> 32
    value = ((value ^ int.from_bytes(data[whole:], "little")) * FACTOR) & _MASK
    value = ((value ^ value >> 32) * FACTOR_2) & _MASK
    return value ^ value >> 29


def paragraph_hash(lines: Sequence[str]) -> int:
    """64 bits over the hashes of its lines."""
    value = SEED
    for line in lines:
        value = ((value ^ line_hash(line)) * FACTOR) & _MASK
        value ^= value >> 32
    return (value * FACTOR_2) & _MASK
