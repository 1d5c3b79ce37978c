"""The index of benchmark items, and the judge of what a text shares with them.

An item is looked for in *pieces*, each a run of units:

    prompt             when it is long enough to mean this item and no other
    prompt + choices   "Which of these is a mammal?" alone says nothing; as exams print them: "A. cat B. carp"
    prompt + answer    for a short prompt without choices
    answer             when it is twice as long as an n-gram: a solution or a chain of thought without its question

and a text holds a piece (of m units) in one of two ways:

    exact   n units in a row of the piece are in the text, and such runs make up SHARE of it; or 2n units in a row,
            for a long piece of which a part was copied. n = 13 units where words are units (Brown et al. 2020,
            appendix C), 20 where Han characters are: a Chinese word has about 1.6 of them, so both say as much.
    fuzzy   the longest common subsequence of the piece and a stretch of the text about as long has SIMILAR * m units:
            a copy in which words were changed, dropped or put in. Gaps of a template count on neither side.

Nobody compares all pieces with all texts. A text is first searched for seeds (four units in a row, `seeds`); a piece is
looked at only when a quarter of its seeds lie in the text. Two sorts of seeds are left out of the index: those that
many items of one benchmark share ("Which of the following statements is correct") belong to its form and not to an
item, and those that are hardly more than numbers ("1 2 3 4 5") are in every table. An item that is left with no seed,
as a grid of digits is, cannot be looked for; `report` counts those.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import count_han
from danlu.data.contamination.benchmarks import Benchmark, Item
from danlu.data.contamination.seeds import WIDTH, Seeds, seed_keys, without_gaps
from danlu.data.contamination.units import GAP, GAP_HASH, find_units

NGRAM_UNITS = {"en": 13, "zh": 20}
LEAST_UNITS = {"en": 8, "zh": 12}  # of a piece that may speak for an item
SHARE = 0.5
SIMILAR = 0.8
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHORT_PROMPT = 26  # units; a longer prompt speaks for itself
_SEED_SHARE = 0.25  # of a piece's seeds that make it worth a look
_FORM_ITEMS, _FORM_SHARE = 4, 0.02  # a seed in more items than this belongs to the form of the benchmark
_BATCH_CHARS = 4_000_000
_GLUED = re.compile(f"[A-Za-z0-9_]*{GAP}[A-Za-z0-9_{GAP}]*")  # letters that touch a gap are one word with what fills it


@dataclass(frozen=True)
class Hit:
    """One item found in a text, at `text[start:end]`. `share`: of the piece that was found there."""

    benchmark: str
    item: str
    part: str  # prompt, prompt+choices, prompt+answer, answer
    kind: str  # exact, fuzzy
    share: float
    start: int
    end: int

    def describe(self) -> str:
        """The detail beside a reason: "humaneval HumanEval/3 prompt, exact, share 1.0, at 120-480"."""
        return f"{self.benchmark} {self.item} {self.part}, {self.kind}, share {self.share}, at {self.start}-{self.end}"


@dataclass(frozen=True)
class Piece:
    benchmark: str
    item: str
    part: str
    n: int
    hashes: NDArray[np.uint64]  # [m], gaps included
    telling: NDArray[np.bool_]  # [m - WIDTH + 1]: which runs of WIDTH units may be seeds


@dataclass
class Contamination:
    """Benchmarks, ready to be looked for: `Contamination.load(["humaneval", "mmlu=data/mmlu"]).check(text)`."""

    benchmarks: list[Benchmark]
    share: float = SHARE
    similar: float = SIMILAR
    pieces: list[Piece] = field(default_factory=list)
    own_seeds: NDArray[np.int64] = field(init=False)  # of each piece: one without any is never looked at
    unprotected: Counter[str] = field(default_factory=Counter)  # benchmark -> items that cannot be looked for

    @classmethod
    def load(cls, specs: Iterable[str], share: float = SHARE, similar: float = SIMILAR) -> Contamination:
        """Read benchmarks by their specs (see `danlu.data.contamination.benchmarks`). Raises UserError as that does."""
        from danlu.data.contamination.benchmarks import load

        return cls([load(spec) for spec in specs], share, similar)

    def __post_init__(self) -> None:
        for benchmark in self.benchmarks:
            self._add(benchmark)
        found = [(seed_keys(piece.hashes), piece.telling) for piece in self.pieces]
        keys = np.concatenate([np.empty(0, np.uint64), *(key[whole] for key, whole in found)])
        piece_of = np.repeat(np.arange(len(found)), [int(whole.sum()) for _, whole in found])
        place = np.concatenate([np.empty(0, np.int64), *(np.flatnonzero(whole) for _, whole in found)])
        kept = self._is_own(keys, piece_of)
        keys, piece_of, place = keys[kept], piece_of[kept], place[kept]
        order = np.argsort(keys, kind="stable")
        self._piece, self._place = piece_of[order], place[order]  # postings, by key
        distinct, self._first, self._count = np.unique(keys[order], return_index=True, return_counts=True)
        self._seeds = Seeds(distinct)
        own = self.own_seeds = np.bincount(piece_of, minlength=len(self.pieces))
        self._count_unprotected(own > 0)
        longest = np.array([2 * piece.n - WIDTH + 1 for piece in self.pieces], dtype=np.int64)
        self._needed = np.minimum(np.maximum(np.ceil(own * _SEED_SHARE), np.clip(own, 1, 2)), longest)

    def _add(self, benchmark: Benchmark) -> None:
        for item in benchmark.items:
            self.pieces += pieces_of(benchmark.name, item)

    def _count_unprotected(self, has_seeds: NDArray[np.bool_]) -> None:
        found = {(p.benchmark, p.item) for p, has in zip(self.pieces, has_seeds.tolist(), strict=True) if has}
        for benchmark in self.benchmarks:
            self.unprotected[benchmark.name] = sum((benchmark.name, i.id) not in found for i in benchmark.items)

    def _is_own(self, keys: NDArray[np.uint64], piece_of: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool per posting: is the seed one of its item, or of the form that all items of its benchmark have."""
        numbers: dict[bytes, int] = {}  # pieces of equal text are one item here: repeating it makes no form of it
        item = np.array([numbers.setdefault(p.hashes.tobytes(), len(numbers)) for p in self.pieces], np.int64)[piece_of]
        benches = [benchmark.name for benchmark in self.benchmarks]
        bench = np.array([benches.index(p.benchmark) for p in self.pieces], dtype=np.int64)[piece_of]
        _, key = np.unique(keys, return_inverse=True)
        pair = key * max(len(benches), 1) + bench
        once = np.unique(pair * max(len(numbers), 1) + item) // max(len(numbers), 1)  # each seed once an item
        pairs, items = np.unique(once, return_counts=True)
        sizes = np.array([len(benchmark.items) for benchmark in self.benchmarks])
        limit = np.maximum(_FORM_ITEMS, sizes * _FORM_SHARE)
        is_form = items > limit[pairs % max(len(benches), 1)]
        return ~np.isin(pair, pairs[is_form])

    # ---- checking --------------------------------------------------------------------------------------------------

    def check(self, text: str) -> list[Hit]:
        """Every item that `text` holds, each once (its surest piece), in the order of where they begin."""
        return self.check_many([text])[0]

    def check_many(self, texts: Sequence[str]) -> list[list[Hit]]:
        """`check` of each; faster, because the texts are searched for seeds together."""
        found: list[list[Hit]] = []
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size >= _BATCH_CHARS:
                found += self._check_batch(batch)
                batch, size = [], 0
        return found + self._check_batch(batch)

    def _check_batch(self, texts: list[str]) -> list[list[Hit]]:
        hits = self._seeds.find(texts)
        counts = self._count[hits.seed]
        row = np.repeat(np.arange(len(hits.seed)), counts)  # a hit for each piece that has the seed
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        posting = self._first[hits.seed][row] + nth
        pieces = self._piece[posting]
        group = hits.text[row].astype(np.int64) * max(len(self.pieces), 1) + pieces
        groups, member, size = np.unique(group, return_inverse=True, return_counts=True)
        promising = size >= self._needed[groups % max(len(self.pieces), 1)]
        rows = np.flatnonzero(promising[member])
        rows = rows[np.argsort(member[rows], kind="stable")]
        found: list[dict[tuple[str, str], Hit]] = [{} for _ in texts]
        cut = np.flatnonzero(np.diff(member[rows])) + 1
        units: dict[int, Any] = {}
        for part in np.split(rows, cut) if len(rows) else []:
            number, piece = int(hits.text[row[part[0]]]), int(pieces[part[0]])
            if number not in units:
                units = {number: find_units(texts[number])}  # groups come text by text: one at a time is kept
            hit = self._judge(
                self.pieces[piece], units[number], hits.unit[row[part]], self._place[posting[part]], piece
            )
            if hit is not None:
                key = (hit.benchmark, hit.item)
                best = found[number].get(key)
                if best is None or (hit.kind, -hit.share) < (best.kind, -best.share):
                    found[number][key] = hit
        return [sorted(one.values(), key=lambda h: (h.start, h.benchmark, h.item)) for one in found]

    def _judge(
        self, piece: Piece, units: Any, at: NDArray[np.int32], place: NDArray[np.int64], number: int
    ) -> Hit | None:
        """Is the piece in the text, where its seeds `place` were found `at`?"""
        m = len(piece.hashes)
        begin = np.sort(at.astype(np.int64) - place)  # where the piece would begin; shifted by what was put in
        slack = m // 3 + 4
        in_reach = np.searchsorted(begin, begin + slack, side="right") - np.arange(len(begin))
        if in_reach.max() < self._needed[number]:
            return None
        densest = int(np.argmax(in_reach))
        low = max(int(begin[densest]) - slack // 2, 0)
        high = min(int(begin[densest + in_reach[densest] - 1]) + m + slack, len(units.hashes))
        window = units.hashes[low:high]
        kind, share, first, last = compare(piece.hashes, window, piece.n, self.share, self.similar)
        if not kind:
            return None
        if kind == "fuzzy":  # from where most seeds say that it begins
            first = max(int(begin[densest]), 0) - low
            last = min(int(begin[densest + in_reach[densest] - 1]) + m, len(units.hashes)) - 1 - low
        start, end = int(units.starts[low + first]), int(units.ends[low + last])
        return Hit(piece.benchmark, piece.item, piece.part, kind, round(share, 3), start, end)

    def report(self) -> dict[str, Any]:
        """What was looked for: by benchmark items, those that cannot be found, version and hashes of its files."""
        return {
            b.name: {
                "items": len(b.items),
                "cannot_be_found": self.unprotected[b.name],
                "version": b.version,
                "files": dict(b.files),
            }
            for b in self.benchmarks
        }


@functools.lru_cache(maxsize=1)
def load_once(specs: tuple[str, ...], share: float = SHARE, similar: float = SIMILAR) -> Contamination:
    """`Contamination.load`, kept in a process: workers search piece after piece."""
    return Contamination.load(specs, share, similar)


def pieces_of(benchmark: str, item: Item) -> Iterable[Piece]:
    """The pieces by which an item is looked for; none when all it has is too short to mean this item."""
    ways = {"prompt": (item.prompt, 1)}
    if item.choices:
        lettered = (f"{letter}. {choice}" for letter, choice in zip(_LETTERS, item.choices, strict=False))
        ways["prompt+choices"] = ("\n".join((item.prompt, *lettered)), 1)
    elif item.answer and len(find_units(item.prompt).hashes) < _SHORT_PROMPT:
        ways["prompt+answer"] = (f"{item.prompt}\n{item.answer}", 1)
    if item.answer:
        ways["answer"] = (item.answer, 2)
    for part, (text, ngrams) in ways.items():
        piece = _piece(benchmark, item.id, part, text, ngrams)
        if piece is not None:
            yield piece


def _piece(benchmark: str, item: str, part: str, text: str, ngrams: int) -> Piece | None:
    text = _GLUED.sub(GAP, text)
    hashes, starts, ends = find_units(text, gaps=True)
    if not len(hashes):
        return None
    language = "zh" if count_han(text) >= 0.5 * len(hashes) else "en"
    least = LEAST_UNITS[language] if ngrams == 1 else ngrams * NGRAM_UNITS[language]
    if int((hashes != GAP_HASH).sum()) < least:
        return None
    words = np.array([not text[a:b].isdigit() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])
    telling = without_gaps(hashes)
    if len(telling):
        telling &= _distinct(hashes) >= 3
        telling &= _distinct(np.where(words, hashes, np.uint64(0))) - (_numbers(words) > 0) >= 2
    return Piece(benchmark, item, part, NGRAM_UNITS[language], hashes, telling)


def _distinct(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """int64 [m - WIDTH + 1]: how many different units each run of WIDTH has."""
    runs = np.sort(np.lib.stride_tricks.sliding_window_view(hashes, WIDTH), axis=1)
    return 1 + np.count_nonzero(np.diff(runs, axis=1), axis=1)


def _numbers(words: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.count_nonzero(~np.lib.stride_tricks.sliding_window_view(words, WIDTH), axis=1)


# ---- comparing -------------------------------------------------------------------------------------------------------


def compare(
    piece: NDArray[np.uint64], window: NDArray[np.uint64], n: int, share: float, similar: float
) -> tuple[str, float, int, int]:
    """(kind, share, first and last unit of the window that belong to it); kind "" when the piece is not there.

    piece   uint64 [m], window uint64 [w]: hashes of units
    """
    n = min(n, len(piece))
    ours, theirs = piece.tolist(), window.tolist()
    grams = defaultdict(list)
    for j in range(len(theirs) - n + 1):
        grams[tuple(theirs[j : j + n])].append(j)
    starts = [i for i in range(len(ours) - n + 1) if tuple(ours[i : i + n]) in grams]
    if starts:
        covered, longest = _coverage(starts, n)
        proper = len(ours) - ours.count(int(GAP_HASH))
        if covered >= share * proper or longest >= 2 * n:
            places = [j for i in starts for j in grams[tuple(ours[i : i + n])][:1]]
            return "exact", min(covered / proper, 1.0), min(places), max(places) + n - 1
    return _fuzzy(ours, theirs, similar)


def _coverage(starts: list[int], n: int) -> tuple[int, int]:
    """(units covered by runs of n from each start, length of the longest stretch without a break)."""
    covered = run = longest = 0
    end = -1
    for start in starts:
        new = start + n - max(end, start)
        run = run + new if start <= end else n
        covered += new
        end = start + n
        longest = max(longest, run)
    return covered, longest


def _fuzzy(piece: list[int], window: list[int], similar: float) -> tuple[str, float, int, int]:
    """Longest common subsequence, 64 cells an operation (Hyyrö 2004): bit i of `row` is 0 where it grew at piece[i]."""
    places: dict[int, int] = defaultdict(int)
    for i, unit in enumerate(piece):
        if unit != int(GAP_HASH):
            places[unit] |= 1 << i
    full = row = (1 << len(piece)) - 1
    for unit in window:
        matched = row & places.get(unit, 0)
        row = ((row + matched) | (row - matched)) & full
    common = len(piece) - row.bit_count()
    proper = len(piece) - piece.count(int(GAP_HASH))
    if common < similar * proper:
        return "", 0.0, 0, 0
    return "fuzzy", common / proper, 0, len(window) - 1
