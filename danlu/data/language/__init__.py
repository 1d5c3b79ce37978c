"""Which language is it: by script first, by a model only where scripts are shared.

For a corpus of Chinese, English and code the script decides nearly every document, and a rule that one can read beats a
classifier. In order, on a sample of the text (its beginning, its middle and its end; shares are of letters):

    kana >= 5 %                         "ja"    Japanese is mostly Han by count; kana gives it away
    Hangul >= 30 %                      "ko"
    Han >= 20 %                         "zh"    a Han character says as much as three or four letters; script hans or hant
    Greek, Hebrew, Thai, ... >= 50 %    "el", "he", "th", ...
    looks like a program                "code:python", ...      for texts without a file name (`kinds`)
    looks like formulas                 "math"
    else the model, if installed        "en", "de", "fr", "ru", "ar", "hi", ...  (extra `lang`, `model`)
    else ASCII and common words         "en", or "other"

Short Latin texts (under 20 words) are too little for the model to overrule: unless it is sure, they pass as English.

| call                  | answer                                                                        |
|-----------------------|-------------------------------------------------------------------------------|
| `detect(text)`        | "zh"                                                                          |
| `identify(text)`      | Language("zh", confidence=0.97, script="hans")                                |
| `languages(text)`     | {"zh": 0.81, "en": 0.19}: shares of letters, line by line                     |
| `threshold(scores)`   | the least confidence to keep a document of a language, from a sample of them  |
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from danlu.core.text import units
from danlu.data.language import kinds, model
from danlu.data.language.scripts import (
    ASCII,
    CYRILLIC,
    HANGUL,
    KANA,
    LATIN,
    ONE_LANGUAGE,
    Scripts,
    count_scripts,
    take_sample,
)

_SHORT = 20  # words
_SURE = 0.8  # probability at which the model may say of a short text that it is not English
_COMMON_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        """
        the of and to in a is that for it as was with be by on not he i this are or his from at which but have an had
        they you were there one all we can her has their if will when who would more no out so up into than them only
        some could its then do my our your what use used using
        """,
    )
)


class Language(NamedTuple):
    """`confidence` is 0 to 1: the share of letters in the script, the model's probability, or how clear the look is.
    `script` is "hans" or "hant" for Chinese where its characters tell, else ""."""

    name: str
    confidence: float
    script: str = ""


def detect(text: str) -> str:
    """The language of a text: "zh", "en", "ja", "code:python", "math", ... or "other"."""
    return identify(text).name


def identify(text: str) -> Language:
    """The language, how sure that is, and which Chinese script. Deterministic for one set of installed packages."""
    sample = take_sample(text)
    scripts = count_scripts(sample)
    letters = scripts.n_letters
    if not letters:
        return Language("other", 0.0)
    decided = _by_script(scripts, letters)
    if decided is not None and not _may_be_code(scripts, letters):
        return decided
    looks = kinds.guess_code(sample) or kinds.guess_math(sample)
    if looks is not None:
        return Language(*looks)
    return decided or _by_model(text, sample, scripts, letters)


def _by_script(scripts: Scripts, letters: int) -> Language | None:
    counts = scripts.counts
    n_kana, n_hangul, n_han = int(counts[KANA]), int(counts[HANGUL]), scripts.n_han
    if n_kana >= 0.05 * letters:
        return Language("ja", round((n_kana + n_han) / letters, 4))
    if n_hangul >= 0.3 * letters:
        return Language("ko", round((n_hangul + n_han) / letters, 4))
    if n_han >= 0.2 * letters:
        return Language("zh", round(n_han / letters, 4), scripts.han_script())
    for script, name in ONE_LANGUAGE.items():
        if counts[script] >= 0.5 * letters:
            return Language(name, round(int(counts[script]) / letters, 4))
    return None


def _may_be_code(scripts: Scripts, letters: int) -> bool:
    """Programs with Chinese comments and formulas with Greek letters are mostly ASCII by count of characters."""
    return int(scripts.counts[ASCII]) >= 0.3 * letters


def _by_model(text: str, sample: str, scripts: Scripts, letters: int) -> Language:
    is_ascii = int(scripts.counts[ASCII]) >= 0.7 * letters
    words = units(sample[:2_000].lower()) if is_ascii else []
    n_common = sum(word in _COMMON_ENGLISH for word in words)
    short = is_ascii and len(words) < _SHORT
    if is_ascii and not short and n_common >= 0.25 * len(words):
        return Language("en", 0.95)  # plainly English; the model costs a hundred times this count
    answer = model.ask(text if len(text) <= 2_000 else sample)
    if answer is None or _contradicts(answer[0], scripts, letters):
        english = is_ascii and (short or n_common >= 0.05 * len(words))
        return Language("en", 0.5) if english else Language("other", 0.0)
    name, probability = answer
    if short and probability < _SURE:
        return Language("en", 0.5)
    return Language(name, probability)


_CYRILLIC_LANGUAGES = frozenset("ru uk bg be sr mk kk ky tg mn tt ba cv os ce sah av myv kv mhr mrj udm xal ab tyv lez krc bxr rue".split())
_NOT_LATIN = frozenset("zh ja ko ar fa ur he el th hi bn ta te ml kn gu pa mr ne si my km lo ka hy am bo ps sd ug yi dv".split())


def _contradicts(name: str, scripts: Scripts, letters: int) -> bool:
    """The model named a language that is not written in this script."""
    n_latin = int(scripts.counts[ASCII]) + int(scripts.counts[LATIN])
    if n_latin >= 0.7 * letters:
        return name in _NOT_LATIN or (name in _CYRILLIC_LANGUAGES and name != "sr")
    if int(scripts.counts[CYRILLIC]) >= 0.7 * letters:
        return name not in _CYRILLIC_LANGUAGES
    return False


# ---- line by line ----------------------------------------------------------------------------------------------

_LONGEST_LINES = 100  # lines that are looked at; spread evenly over a long text


def languages(text: str) -> dict[str, float]:
    """Shares of the letters by language, line by line, largest first; short lines count with the one before.

    {"zh": 0.81, "en": 0.19} is a bilingual page. A text in one language gives one entry of 1.0.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    step = max(len(lines) // _LONGEST_LINES, 1)
    amounts: dict[str, int] = {}
    whole = detect(text)
    if whole.startswith("code:") or whole == "math":  # their lines are only together what they are
        return {whole: 1.0}
    last = whole
    for line in lines[::step]:
        scripts = count_scripts(line)
        letters = scripts.n_letters
        found = _by_script(scripts, letters) if letters else None
        if found is not None:
            last = found.name
        elif letters >= 20 or (letters and _mixes(last, scripts, letters)):
            last = _by_model(line, line, scripts, letters).name
        amounts[last] = amounts.get(last, 0) + letters
    total = sum(amounts.values())
    if not total:
        return {whole: 1.0}
    shares = {name: amount / total for name, amount in amounts.items() if amount}
    return {name: round(share, 4) for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))}


def _mixes(last: str, scripts: Scripts, letters: int) -> bool:
    """A Latin line after one in another script is not more of the same."""
    return last in _NOT_LATIN and int(scripts.counts[ASCII]) >= 0.7 * letters


def threshold(scores: Iterable[float]) -> float:
    """FineWeb2's rule for the least confidence of a language: max(0.3, min(0.9, median - standard deviation)).

    Where the model is sure of nearly all documents of a language the bar is high; where it never is, it is low.
    An empty sample gives 0.3.

    >>> threshold([0.95, 0.97, 0.99]), threshold([0.2, 0.5, 0.6])
    (0.9, 0.3)
    """
    sample = sorted(scores)
    if not sample:
        return 0.3
    return max(0.3, min(0.9, statistics.median(sample) - statistics.pstdev(sample)))
