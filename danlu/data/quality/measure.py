"""What is measured of a text before anything is decided: some fifty numbers, each with one meaning.

`Measured` says what each number is, in plain Python over the whole text; it is the reference. `danlu.data.scan`
computes the same numbers in one pass of C++, bit by bit the same, for whole batches: float32 [D, M], a column for each
name of `COLUMNS`. They are stored beside the documents, so that limits (`rules`) can change without reading a text.

Everything is counted in the units of `danlu.core.text`, in characters, or in lines. A line is what stands between two
line ends without its outer white space; empty ones are no lines. A paragraph is a run of lines with no empty one
between. Shares lie in 0 ... 1; a text with nothing to count has 0.

n-grams are runs of n units, lower-cased:

    top_n         characters of the units in the n-gram that occurs most often (the longest of them), all occurrences
                  together, per characters in units; 0 when none occurs twice
    duplicate_n   walking from the left, an n-gram seen before is skipped as a whole and its characters counted; no
                  character is counted twice (Rae et al. 2021, section A1.1)

Their denominator is the characters in units, as the numerator counts only those: a text that repeats one phrase has a
share near 1 in any language. (datatrove divides by the length of the text, spaces and punctuation included, which for
English makes the same share about a fifth smaller.)

A published n is a number of words. Chinese is counted in characters and its words have about 1.6 of them, so the
counterpart of n words is round(1.6 n) characters (`CHINESE_N`), and both are measured for every text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import HAN, HANGUL, KANA, count_han, units
from danlu.data.quality import classes
from danlu.data.quality.phrases import COMMON_HAN, PHRASES, STOP_WORDS

TOP_N = (2, 3, 4, 5, 6)
DUPLICATE_N = (5, 6, 7, 8, 9, 10, 11, 13, 14, 16)
CHINESE_N = {2: 3, 3: 5, 4: 6, 5: 8, 6: 10, 7: 11, 8: 13, 9: 14, 10: 16}  # words -> characters

# name -> what it is; the order of columns, and of the C++ (`data/scan/cpp/measures.h`).
COLUMNS: dict[str, str] = {
    "characters": "code points",
    "units": "units",
    "letter_share": "characters of units per visible character",
    "symbol_share": "arrows, boxes, stars, pictographs per visible character; punctuation of any script is no symbol",
    "replacement_share": "U+FFFD per character: what is left where decoding failed",
    "han_share": "Han characters per visible character",
    "mean_line": "characters of a line, on average",
    "mean_unit": "characters of a unit, on average",
    "long_unit_share": "characters in units of more than 40: base64, hashes, concatenated garbage; per visible one",
    "alphabetic_share": "units with a letter in them, per unit",
    "repeated_line_share": "characters in lines that occurred before, of lines of four characters or more",
    "repeated_phrase_share": "runs of five units that occurred before; 0 below 44 units, which are too few to say",
    "advertising_rate": "phrases of advertising per 100 units; fewer than three are not counted",
    "spam_rate": "phrases of gambling, pornography and link selling per 100 units; a single one is not counted",
    "link_rate": "URLs per 100 units",
    "generated": "1 when the head of the text says that a program wrote it",
    "hash_rate": "number signs per unit, without those that begin a line: headings of Markdown",
    "ellipsis_rate": '"..." and "…" per unit',
    "stop_words": "different stop words of its language (English where there is no list)",
    "common_share": "common Han characters per Han character",
    "lines": "lines",
    "paragraphs": "paragraphs",
    "bullet_line_share": "lines that begin with a bullet, per line",
    "ellipsis_line_share": "lines that end with an ellipsis, per line",
    "terminal_line_share": "lines that end with terminal punctuation, per line",
    "short_line_share": "lines of at most 30 characters, per line",
    "brief_line_share": "lines of at most 8 characters, per line: 30 characters are five words, 8 Han characters too",
    "line_rate": "lines per unit",
    "duplicate_line_share": "lines that occurred before, per line",
    "duplicate_line_characters": "characters in lines that occurred before, per character in lines",
    "duplicate_paragraph_share": "paragraphs that occurred before, per paragraph",
    "duplicate_paragraph_characters": "characters in them, per character in lines",
    "sentences": "sentence ends: the last of a run of 。！？… anywhere, . ! ? where a space or a Han character follows",
    "clauses": "clause ends, with commas, colons and semicolons, in the same way",
    "punctuation_rate": "clause ends per 100 units",
    "curly": "opening curly brackets",
    "curly_rate": "opening curly brackets per 100 units",
    "placeholder": 'times "lorem ipsum" occurs',
    "script": 'times "javascript" occurs',
    "policy": "phrases of cookie banners, terms of use and imprints",
    **{f"top_{n}": f"characters in the most frequent {n}-gram, per character in units" for n in TOP_N},
    **{f"duplicate_{n}": f"characters in {n}-grams that occurred before, per character in units" for n in DUPLICATE_N},
}
COLUMN = {name: number for number, name in enumerate(COLUMNS)}

UNSPACED = HAN + KANA + HANGUL
SHINGLE = 5
LONG_UNIT = 40  # characters; German compounds and long identifiers stay below
HEAD = 600  # characters in which a program says that it wrote the file
# What programs write over the files they make. "generated by" alone is ordinary prose; with a file name it is not.
GENERATED = re.compile(
    r"do not edit|auto-?generated|@generated|\b(?:file|module) (?:is|was|has been) (?:automatically )?generated"
    r"|generated (?:by|from|with) ['\"]?[\w./-]+\.\w",
    re.IGNORECASE,
)


def says_generated(text: str) -> bool:
    """Does the head of the text say that a program wrote it?"""
    return GENERATED.search(text[:HEAD]) is not None


def measure(text: str, language: str) -> NDArray[np.float32]:
    """All measures of one text, float32 [M]: the reference of `danlu.data.scan`."""
    measured = Measured(text, language)
    return np.array([measured[name] for name in COLUMNS], dtype=np.float32)


class Measured:
    """A text and its measures, each computed when first asked for: `measured["letter_share"]`."""

    def __init__(self, text: str, language: str = "en") -> None:
        self.text, self.language = text, language
        self._known: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._known:
            stem, _, n = name.rpartition("_")
            if stem in ("top", "duplicate") and n.isdigit():
                self._known[name] = getattr(self, f"_{stem}")(int(n))
            else:
                self._known[name] = float(getattr(self, f"_{name}")())
        return self._known[name]

    # ---- what is counted ---------------------------------------------------------------------------------------

    @cached_property
    def units(self) -> list[str]:
        """Lower-cased units: also what near-duplicates are found by, so they are computed once."""
        return units(self.text.lower())

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[tuple[str, ...]]:
        """Each as its lines."""
        runs = groupby(map(str.strip, self.text.split("\n")), key=bool)
        return [tuple(lines) for filled, lines in runs if filled]

    @cached_property
    def visible(self) -> int:
        """Characters that are not white space."""
        return max(sum(map(len, self.text.split())), 1)

    @cached_property
    def unit_characters(self) -> int:
        return sum(map(len, self.units))

    def _phrases(self, kind: str) -> int:
        # ASCII: case is folded for a-z alone, as the compiled search does it.
        return len(re.findall("|".join(map(re.escape, PHRASES[kind])), self.text, re.IGNORECASE | re.ASCII))

    def _per_unit(self, count: float) -> float:
        return count / max(len(self.units), 1)

    def _per_line(self, count: float) -> float:
        return count / max(len(self.lines), 1)

    # ---- characters and units ----------------------------------------------------------------------------------

    def _characters(self) -> float:
        return len(self.text)

    def _units(self) -> float:
        return len(self.units)

    def _letter_share(self) -> float:
        return self.unit_characters / self.visible

    def _symbol_share(self) -> float:
        return sum(map(len, classes.SYMBOLS.findall(self.text))) / self.visible

    def _replacement_share(self) -> float:
        return self.text.count("\ufffd") / max(len(self.text), 1)

    def _han_share(self) -> float:
        return count_han(self.text) / self.visible

    def _mean_line(self) -> float:
        return self._per_line(sum(map(len, self.lines)))

    def _mean_unit(self) -> float:
        return self._per_unit(self.unit_characters)

    def _long_unit_share(self) -> float:
        return sum(length for length in map(len, self.units) if length > LONG_UNIT) / self.visible

    def _alphabetic_share(self) -> float:
        return self._per_unit(sum(any(map(str.isalpha, unit)) for unit in self.units))

    def _hash_rate(self) -> float:
        headings = sum(len(line) - len(line.lstrip("#")) for line in self.lines)
        return self._per_unit(self.text.count("#") - headings)

    def _ellipsis_rate(self) -> float:
        return self._per_unit(self.text.count("...") + self.text.count("…"))

    def _stop_words(self) -> float:
        words = STOP_WORDS.get(self.language, STOP_WORDS["en"])
        return len(set(words) & set(self.units))

    def _common_share(self) -> float:
        counts = Counter(self.units)
        return sum(counts[character] for character in set(COMMON_HAN)) / max(count_han(self.text), 1)

    # ---- phrases -----------------------------------------------------------------------------------------------

    def _advertising_rate(self) -> float:
        found = self._phrases("advertising")
        return 100 * found / max(len(self.units), 1) if found >= 3 else 0.0

    def _spam_rate(self) -> float:
        found = self._phrases("spam")
        return 100 * found / max(len(self.units), 1) if found >= 2 else 0.0

    def _link_rate(self) -> float:
        return 100 * self._phrases("link") / max(len(self.units), 1)

    def _generated(self) -> float:
        return says_generated(self.text)

    def _placeholder(self) -> float:
        return self._phrases("placeholder")

    def _script(self) -> float:
        return self._phrases("script")

    def _policy(self) -> float:
        return self._phrases("policy")

    # ---- lines -------------------------------------------------------------------------------------------------

    def _lines(self) -> float:
        return len(self.lines)

    def _paragraphs(self) -> float:
        return len(self.paragraphs)

    def _bullet_line_share(self) -> float:
        return self._per_line(sum(line.startswith(tuple(classes.BULLETS)) for line in self.lines))

    def _ellipsis_line_share(self) -> float:
        return self._per_line(sum(line.endswith(("...", "…")) for line in self.lines))

    def _terminal_line_share(self) -> float:
        return self._per_line(sum(line.endswith(tuple(classes.TERMINAL)) for line in self.lines))

    def _short_line_share(self) -> float:
        return self._per_line(sum(len(line) <= 30 for line in self.lines))

    def _brief_line_share(self) -> float:
        return self._per_line(sum(len(line) <= 8 for line in self.lines))

    def _line_rate(self) -> float:
        return self._per_unit(len(self.lines))

    def _repeated_line_share(self) -> float:
        lines = [line for line in self.lines if len(line) >= 4]
        total = sum(map(len, lines))
        return 1 - sum(map(len, set(lines))) / total if total else 0.0

    def _duplicate_line_share(self) -> float:
        return self._per_line(len(self.lines) - len(set(self.lines)))

    def _duplicate_line_characters(self) -> float:
        total = sum(map(len, self.lines))
        return (total - sum(map(len, set(self.lines)))) / max(total, 1)

    def _duplicate_paragraph_share(self) -> float:
        return (len(self.paragraphs) - len(set(self.paragraphs))) / max(len(self.paragraphs), 1)

    def _duplicate_paragraph_characters(self) -> float:
        total = sum(map(len, self.lines))
        unique = sum(sum(map(len, paragraph)) for paragraph in set(self.paragraphs))
        return (total - unique) / max(total, 1)

    def _sentences(self) -> float:
        return len(_SENTENCE.findall(self.text))

    def _clauses(self) -> float:
        return len(_CLAUSE.findall(self.text))

    def _punctuation_rate(self) -> float:
        return 100 * self["clauses"] / max(len(self.units), 1)

    def _curly(self) -> float:
        return self.text.count("{")

    def _curly_rate(self) -> float:
        return 100 * self.text.count("{") / max(len(self.units), 1)

    # ---- n-grams -----------------------------------------------------------------------------------------------

    def _ngrams(self, n: int) -> list[tuple[str, ...]]:
        return list(zip(*(self.units[k:] for k in range(n)), strict=False))

    def _repeated_phrase_share(self) -> float:
        runs = self._ngrams(SHINGLE)
        return 1 - len(set(runs)) / len(runs) if len(runs) >= 40 else 0.0

    def _top(self, n: int) -> float:
        count, length = max(
            ((count, sum(map(len, ngram))) for ngram, count in Counter(self._ngrams(n)).items()), default=(0, 0)
        )
        return count * length / self.unit_characters if count > 1 else 0.0

    def _duplicate(self, n: int) -> float:
        ngrams = self._ngrams(n)
        seen: set[tuple[str, ...]] = set()
        repeated = place = 0
        while place < len(ngrams):
            if ngrams[place] in seen:
                repeated += sum(map(len, ngrams[place]))
                place += n
            else:
                seen.add(ngrams[place])
                place += 1
        return repeated / max(self.unit_characters, 1)


def _ends(characters: str) -> re.Pattern[str]:
    """One match for each end: see `classes.WIDE_ENDS`."""
    wide, narrow = (set(characters) & set(classes.WIDE_ENDS), set(characters) - set(classes.WIDE_ENDS))
    apart = rf"\s|[{re.escape(classes.CLOSERS)}{UNSPACED}]|\Z"
    return re.compile(f"{_one_of(wide)}(?!{_one_of(characters)})|{_one_of(narrow)}(?={apart})")


def _one_of(characters: Iterable[str]) -> str:
    return f"[{re.escape(''.join(sorted(characters)))}]"


_SENTENCE = _ends(classes.SENTENCE_ENDS)
_CLAUSE = _ends(classes.CLAUSE_ENDS)
assert set(CHINESE_N.values()) <= {*TOP_N, *DUPLICATE_N}
