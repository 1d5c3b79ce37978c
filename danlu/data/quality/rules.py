"""Rules: which measures, within which limits, make a text worth learning from.

A rule compares one measure (`measure`) with a limit that depends on the kind of text: Chinese, English, code, other.
The first rule that fails gives the reason, e.g. ("quality:repeated_lines", "0.62 > 0.4"). Measures are numbers that lie
beside the documents, so changing a limit reads no text, and a batch is judged by a few comparisons of columns.

| set        | what it is                                                                                            |
|------------|-------------------------------------------------------------------------------------------------------|
| `danlu`    | the default: what holds for any script, generous enough for poems, dictionaries and source code        |
| `gopher`   | Rae et al. 2021 (arXiv:2112.11446), section A1.1 and table A1                                          |
| `c4`       | Raffel et al. 2020 (arXiv:1910.10683), section 2.2: its rules for pages; `lines` has those for lines   |
| `fineweb`  | Penedo et al. 2024 (arXiv:2406.17557), section 3.6                                                     |
| `fineweb2` | Penedo et al. 2025 (arXiv:2506.20920): the limits it publishes for Chinese, Japanese and Korean        |
| `spam`     | ours: link lists, keywords without a sentence, gambling, garbled text                                  |

Limits for English are the published ones. Those for Chinese are their counterparts in the units of
`danlu.core.text`: a published number of words n becomes round(1.6 n) characters, a rate per word is divided by 1.6, and
rules of repetition wait until a text is long enough to speak of it (`since`): a quatrain has 20 characters and may
repeat three. With their published settings these rules drop every page of classical poems. The counterparts keep 99 of
100 poems and of Debian's Chinese manual pages; `fineweb2`, which is as published but for the length of texts and lines,
keeps 99 and 94.

Where sources differ: FineWeb's paper drops a page when a tenth of its characters is in repeated lines; datatrove's
default, which built the English FineWeb, is 0.01. The table has the paper's; FineWeb2 went back to it as well.
`overrides` changes any limit, e.g. {"fineweb_repeated_lines": {"en": 0.01}, "too_short": None}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError, shown, suggest
from danlu.data.quality.measure import CHINESE_N, COLUMN, Measured

KINDS = ("zh", "en", "ja", "ko", "code", "other")
PROSE = ("zh", "en", "ja", "ko", "other")
_UNSPACED = ("zh", "ja", "ko")

Limits = Mapping[str, float]
Override = float | None | Mapping[str, float | None]


@dataclass(frozen=True)
class Rule:
    """`measure` must be at least `least` and at most `most` of the text's kind; a kind that is not listed passes.

    Kinds are looked up as the language itself ("code:python", "ja"), then as its group ("code", "other").
    `since` is the number of units from which on the rule speaks.
    """

    name: str
    measure: str
    least: Limits = field(default_factory=dict)
    most: Limits = field(default_factory=dict)
    since: Limits = field(default_factory=dict)

    def limits(self, language: str) -> tuple[float, float, float]:
        """(least, most, since) for a language; infinities and 0 where there is none."""
        infinity = float("inf")
        return (_of(self.least, language, -infinity), _of(self.most, language, infinity), _of(self.since, language, 0))


def kind_of(language: str) -> str:
    """The group of a language that has no limits of its own."""
    if language.startswith("code:") or language == "code":
        return "code"
    return language if language in ("zh", "en") else "other"


def _of(limits: Limits, language: str, default: float) -> float:
    return limits.get(language, limits.get(kind_of(language), default))


def _all(limit: float, *kinds: str) -> dict[str, float]:
    return dict.fromkeys(kinds or PROSE, limit)


# ---- the tables ------------------------------------------------------------------------------------------------

# Cheap and telling rules first. Limits for "other" are those of English, without what depends on its words; chosen by
# looking at what they drop, not tuned by training models.
DANLU = (
    # A couplet with its title has about 12 units; a Chinese unit carries about two thirds of an English one.
    Rule("too_short", "units", least={"zh": 8, "en": 16, "code": 16, "other": 16}),
    # One lost character in 5,000 is an accident, more is a wrong encoding.
    Rule("mojibake", "replacement_share", most={"zh": 2e-4, "en": 2e-4, "code": 2e-4, "other": 2e-4}),
    Rule("generated", "generated", most={"code": 0.5}),
    # Minified code has lines of thousands; FineWeb-like limits of 100 would drop files with long strings.
    Rule("minified", "mean_line", most={"code": 150}),
    Rule("symbols", "symbol_share", most={"zh": 0.1, "en": 0.1, "code": 0.2, "other": 0.1}),
    # Verse of five characters a comma has 0.83; tables of numbers with rules around them fall below 0.5.
    Rule("few_letters", "letter_share", least={"zh": 0.5, "en": 0.5, "code": 0.3, "other": 0.4}),
    Rule("long_words", "long_unit_share", most={"zh": 0.2, "en": 0.2, "code": 0.3, "other": 0.3}),
    # Songs have refrains and code has boilerplate; pages made of one repeated line are beyond both.
    Rule("repeated_lines", "repeated_line_share", most={"zh": 0.4, "en": 0.4, "code": 0.6, "other": 0.4}),
    Rule("repeated_phrases", "repeated_phrase_share", most={"zh": 0.5, "en": 0.5, "code": 0.8, "other": 0.5}),
    Rule("advertising", "advertising_rate", most={"zh": 2.0, "en": 2.0, "other": 2.0}),
)

_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_TOP_2 = {
    2: {"zh": 0.256, "ja": 0.121, "ko": 0.282},
    3: {"zh": 0.201, "ja": 0.129, "ko": 0.228},
    4: {"zh": 0.171, "ja": 0.145, "ko": 0.185},
}
_DUPLICATE_2 = {
    5: {"zh": 0.198, "ja": 0.307, "ko": 0.201},
    6: {"zh": 0.182, "ja": 0.283, "ko": 0.184},
    7: {"zh": 0.167, "ja": 0.264, "ko": 0.168},
    8: {"zh": 0.154, "ja": 0.248, "ko": 0.154},
    9: {"zh": 0.140, "ja": 0.234, "ko": 0.140},
    10: {"zh": 0.127, "ja": 0.223, "ko": 0.127},
}
_REPEATS_SINCE = _all(80, *_UNSPACED)  # as many characters as Gopher's 50 words


def _ngram_rules(prefix: str, stem: str, published: Mapping[int, Limits]) -> tuple[Rule, ...]:
    """Rules of n-grams: n words for English and others, round(1.6 n) characters for the scripts without spaces.

    The most frequent phrase of a song is its refrain, so that rule waits for twice as many characters.
    """
    rules = []
    for n, limits in published.items():
        spaced = {kind: limit for kind, limit in limits.items() if kind not in _REPEATS_SINCE}
        unspaced = {kind: limit for kind, limit in limits.items() if kind in _REPEATS_SINCE}
        if spaced:
            rules.append(Rule(f"{prefix}_{stem}_{n}_words", f"{stem}_{n}", most=spaced))
        if unspaced:
            m = CHINESE_N[n]
            since = {kind: 2 * _REPEATS_SINCE[kind] for kind in unspaced} if stem == "top" else _REPEATS_SINCE
            rules.append(Rule(f"{prefix}_{stem}_{m}_characters", f"{stem}_{m}", most=unspaced, since=since))
    return tuple(rules)


GOPHER = (
    # Quality. 50 words would be 80 characters; whole classical poems have 20, fragments of them 10.
    Rule("gopher_short", "units", least={"en": 50, "other": 50, "zh": 8, "ja": 30, "ko": 30}),
    Rule("gopher_long", "units", most={"en": 100_000, "other": 100_000, "zh": 160_000, "ja": 160_000, "ko": 160_000}),
    # A Han character is a unit of length 1, names and numbers between them are longer: beyond 5 it is no Chinese.
    Rule("gopher_short_words", "mean_unit", least={"en": 3}),
    Rule("gopher_long_words", "mean_unit", most={"en": 10, "zh": 5, "ja": 5, "ko": 6}),
    Rule("gopher_hashes", "hash_rate", most={"en": 0.1, "other": 0.1, "zh": 0.0625, "ja": 0.0625, "ko": 0.0625}),
    Rule("gopher_ellipses", "ellipsis_rate", most={"en": 0.1, "other": 0.1, "zh": 0.125, "ja": 0.125, "ko": 0.125}),
    Rule("gopher_bullets", "bullet_line_share", most=_all(0.9)),
    Rule("gopher_ellipsis_lines", "ellipsis_line_share", most=_all(0.3)),
    Rule("gopher_few_words", "alphabetic_share", least={**_all(0.8), "zh": 0.735, "ja": 0.759, "ko": 0.791}),
    # Two of the list; a text of under 100 characters may be a poem about two orioles.
    Rule("gopher_stop_words", "stop_words", least=_all(2, "en", *_UNSPACED), since=_all(100, *_UNSPACED)),
    # Repetition. Refrains of songs and formulas of manuals are lines that repeat, so Chinese gets more room.
    Rule("gopher_lines", "duplicate_line_share", most={**_all(0.30), "zh": 0.40}),
    Rule("gopher_line_characters", "duplicate_line_characters", most={**_all(0.20), "zh": 0.30}),
    Rule("gopher_paragraphs", "duplicate_paragraph_share", most=_all(0.30)),
    Rule("gopher_paragraph_characters", "duplicate_paragraph_characters", most=_all(0.20)),
    # Japanese and Korean have FineWeb2's limits, which were fitted to text in these languages. Chinese has a quarter
    # for all lengths: a hundredth of the translated manuals has more than a fifth.
    *_ngram_rules("gopher", "top", {n: _all(x, "en", "other") | _TOP_2[n] for n, x in _TOP.items()}),
    *_ngram_rules(
        "gopher",
        "duplicate",
        {n: {**_all(x, "en", "other"), **_DUPLICATE_2[n], "zh": 0.25} for n, x in _DUPLICATE.items()},
    ),
)  # fmt: skip

C4 = (
    Rule("c4_placeholder", "placeholder", most=_all(0)),
    Rule("c4_curly", "curly", most={"en": 0, "other": 0}),
    # Chinese manuals mention brackets: code is where they are frequent.
    Rule("c4_curly_rate", "curly_rate", most=_all(2, *_UNSPACED)),
    # Five sentences; a quatrain has two of four clauses, and a fragment of one couplet has two clauses.
    Rule("c4_few_sentences", "sentences", least={"en": 5, "other": 5}),
    Rule("c4_few_clauses", "clauses", least={"zh": 2}),
)

FINEWEB = (
    # Chinese manuals are half headings and commands; verse is often written without punctuation at its line ends.
    Rule("fineweb_line_ends", "terminal_line_share", least={**_all(0.12), "zh": 0.05}),
    # 30 characters are five English words, or 8 Han characters; some songs have nothing longer.
    Rule("fineweb_short_lines", "short_line_share", most={"en": 0.67, "other": 0.67}),
    Rule("fineweb_brief_lines", "brief_line_share", most={"zh": 0.8, "ja": 0.67, "ko": 0.67}),
    Rule("fineweb_repeated_lines", "duplicate_line_characters", most={**_all(0.1), "zh": 0.15}, since={"zh": 80}),
    # One line end for every 3.3 words, or for every 4 characters: verse of four characters has one for eight.
    Rule("fineweb_list", "line_rate", most={"en": 0.3, "other": 0.3, "zh": 0.25, "ja": 0.25, "ko": 0.25}),
)

FINEWEB2 = (
    Rule("fineweb2_lines", "duplicate_line_share", most={"zh": 0.287, "ja": 0.375, "ko": 0.374}, since=_REPEATS_SINCE),
    *_ngram_rules("fineweb2", "top", _TOP_2),
    *_ngram_rules("fineweb2", "duplicate", _DUPLICATE_2),
    Rule("fineweb2_line_ends", "terminal_line_share", least={"zh": 0.106, "ja": 0.167, "ko": 0.062}),
    Rule("fineweb2_repeated_lines", "duplicate_line_characters", most=_all(0.1, *_UNSPACED), since=_REPEATS_SINCE),
    # 0.178 lines a word are 0.111 a character; verse of four characters a clause has 0.14, so Chinese gets more room.
    Rule("fineweb2_list", "line_rate", most={"zh": 0.16, "ja": 0.101, "ko": 0.123}, since=_REPEATS_SINCE),
    Rule("fineweb2_short", "units", least={"zh": 8, "ja": 30, "ko": 30}),
    Rule("fineweb2_long_words", "mean_unit", most={"zh": 5, "ja": 5, "ko": 6}),
    Rule("fineweb2_few_words", "alphabetic_share", least={"zh": 0.735, "ja": 0.759, "ko": 0.791}),
    Rule("fineweb2_stop_words", "stop_words", least=_all(2, *_UNSPACED), since=_all(100, *_UNSPACED)),
)  # fmt: skip

SPAM = (
    Rule("spam_phrases", "spam_rate", most=_all(0.5)),
    Rule("spam_advertising", "advertising_rate", most=_all(2.0)),
    # A page of references has a URL every twenty words; a list of links one every five.
    Rule("spam_links", "link_rate", most={**_all(15.0), "zh": 10.0}),
    # Keywords, menus and tags: many units and hardly a full stop or comma among them.
    Rule("spam_unpunctuated", "punctuation_rate", least={"en": 0.5, "zh": 1.0, "ja": 1.0}, since=_all(60)),
    # Wrongly decoded, shuffled or strung together: hardly a character that every Chinese text has.
    Rule("spam_garbled", "common_share", least={"zh": 0.12}, since=_all(40)),
)

SETS: dict[str, tuple[Rule, ...]] = {
    "danlu": DANLU,
    "gopher": GOPHER,
    "c4": C4,
    "fineweb": FINEWEB,
    "fineweb2": FINEWEB2,
    "spam": SPAM,
}
RULES = DANLU


# ---- judging ---------------------------------------------------------------------------------------------------


def rules_of(names: str | Sequence[str] = "danlu", overrides: Mapping[str, Override] | None = None) -> tuple[Rule, ...]:
    """The rules of these sets (or single rules, by name), with some limits changed.

    overrides   rule -> a number for every kind it knows, None to leave the rule out, or {kind: number or None}
    Raises UserError when a set, a rule or a kind has another name.
    """
    every = {rule.name: rule for rules in SETS.values() for rule in rules}
    wanted: dict[str, Rule] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in SETS and name not in every:
            raise UserError(f'there are no rules "{name}"', suggest(name, [*SETS, *every]))
        wanted |= {rule.name: rule for rule in SETS.get(name, ())} or {name: every[name]}
    for name, change in (overrides or {}).items():
        if name not in every:
            raise UserError(f'there is no rule "{name}"', suggest(name, every))
        if name not in wanted:
            raise UserError(f'the rule "{name}" is not among {shown(names)}', "name its set, or the rule itself")
        if change is None:
            del wanted[name]
        else:
            wanted[name] = _changed(wanted[name], change)
    return tuple(wanted.values())


def _changed(rule: Rule, change: float | Mapping[str, float | None]) -> Rule:
    side = "least" if rule.least else "most"
    limits = dict(rule.least or rule.most)
    if not isinstance(change, Mapping):
        change = dict.fromkeys(limits, change)
    for kind, limit in change.items():
        if kind not in KINDS and not kind.startswith("code:"):
            raise UserError(f'{rule.name} has no kind of text "{kind}"', suggest(kind, KINDS))
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise UserError(f"{rule.name} of {kind} is {shown(limit)}", "it must be a number, or null for no limit")
        limits[kind] = limit if limit is not None else (float("-inf") if side == "least" else float("inf"))
    return replace(rule, least=limits) if side == "least" else replace(rule, most=limits)


@dataclass(frozen=True)
class Verdicts:
    """What a batch is judged to be.

    failed   bool [D, R]   every rule that fails
    first    int64 [D]     the first of them, which gives the reason; -1 for texts that are kept
    """

    rules: tuple[Rule, ...]
    failed: NDArray[np.bool_]
    first: NDArray[np.int64]
    details: Mapping[int, str]  # of those that are dropped

    @property
    def keep(self) -> NDArray[np.bool_]:
        return self.first < 0

    def __getitem__(self, row: int) -> tuple[str, str]:
        """("", "") to keep the text, else (reason, detail)."""
        first = int(self.first[row])
        return (f"quality:{self.rules[first].name}", self.details[row]) if first >= 0 else ("", "")


def judge_all(measures: NDArray[np.float32], languages: Sequence[str], rules: Sequence[Rule] = RULES) -> Verdicts:
    """Judge a batch: float32 [D, M] of `scan` or `measure`, one language a row. `rules` come from `rules_of`."""
    rules = tuple(rules)
    names, inverse = np.unique(np.array(languages, dtype=object).astype(str), return_inverse=True)
    table = np.array([[rule.limits(name) for rule in rules] for name in names.tolist()], np.float32)
    table = table.reshape(len(names), len(rules), 3)[inverse]  # [D, R, (least, most, since)]
    values = measures[:, [COLUMN[rule.measure] for rule in rules]]  # [D, R]
    long_enough = measures[:, COLUMN["units"], None] >= table[:, :, 2]
    failed = ((values < table[:, :, 0]) | (values > table[:, :, 1])) & long_enough
    first = np.where(failed.any(axis=1), failed.argmax(axis=1) if len(rules) else 0, -1)
    details = {
        row: _detail(float(values[row, first[row]]), *table[row, first[row], :2].tolist())
        for row in np.flatnonzero(first >= 0).tolist()
    }
    return Verdicts(rules, failed, first, details)


def _detail(value: float, least: float, most: float) -> str:
    return f"{value:.4g} < {least:.6g}" if value < least else f"{value:.4g} > {most:.6g}"


def judge(
    measured: Measured | NDArray[np.float32],
    language: str,
    min_units: float | None = None,
    rules: Sequence[Rule] = RULES,
) -> tuple[str, str]:
    """One text, as its `Measured` or its row of measures: ("", "") to keep it, else (reason, detail).

    `min_units` overrides the minimal length of the rule "too_short".
    """

    def value_of(name: str) -> float:
        return measured[name] if isinstance(measured, Measured) else float(measured[COLUMN[name]])

    for rule in rules:
        least, most, since = rule.limits(language)
        if rule.name == "too_short" and min_units is not None:
            least = min_units
        if (least == -float("inf") and most == float("inf")) or (since and value_of("units") < since):
            continue
        value = np.float32(value_of(rule.measure))
        if value < np.float32(least) or value > np.float32(most):
            return f"quality:{rule.name}", _detail(float(value), least, most)
    return "", ""
