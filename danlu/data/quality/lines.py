"""The line filter of C4: a page without its menus, banners and half sentences, and a list of what was taken out.

Raffel et al. 2020 (arXiv:1910.10683), section 2.2, keeps a line that ends in a terminal punctuation mark, has at least
three words, and does not speak of JavaScript; the code it was published with also drops lines of cookie banners and
lines with words of over a thousand characters. The counterparts for scripts without spaces: their own terminal marks,
and three words are five characters.

| reason      | the line                                                                                      |
|-------------|-----------------------------------------------------------------------------------------------|
| long_word   | has a word of more than 1,000 characters                                                      |
| no_end      | does not end in a mark of `classes.TERMINAL`, or breaks off with "..."                        |
| short       | has fewer than three words (five characters of a script without spaces)                       |
| script      | mentions JavaScript                                                                           |
| policy      | speaks of cookies, privacy, terms of use, copyright                                           |

Titles end without a mark, so this filter takes the title from every poem: `lines` is applied where somebody asks for
C4, never by default. Its rules for whole pages are the set "c4" of `rules`, to be judged on what this leaves.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from danlu.core.text import HAN, HANGUL, KANA
from danlu.data.quality.classes import TERMINAL
from danlu.data.quality.phrases import PHRASES

REASONS = ("long_word", "no_end", "short", "script", "policy")
MOST_WORD = 1_000
LEAST_WORDS, LEAST_CHARACTERS = 3, 5

_UNSPACED = re.compile(f"[{HAN}{KANA}{HANGUL}]")
_SCRIPT, _POLICY = (
    re.compile("|".join(map(re.escape, PHRASES[kind])), re.IGNORECASE | re.ASCII) for kind in ("script", "policy")
)
_TERMINAL = tuple(TERMINAL)
_LONG = re.compile(rf"\S{{{MOST_WORD + 1}}}")


def keep_lines(text: str, reasons: Collection[str] = REASONS) -> tuple[str, list[tuple[str, str]]]:
    """(the text of the lines that are kept, [(reason, line) of each that is not]).

    `reasons` chooses among REASONS. Lines keep their order; empty ones stay where a kept one stands before them. The
    kept text ends with one line end, or is empty.
    """
    kept: list[str] = []
    removed: list[tuple[str, str]] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            if kept and kept[-1]:
                kept.append("")
            continue
        reason = _reason(stripped, reasons)
        if reason:
            removed.append((reason, line))
        else:
            kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    return ("\n".join([*kept, ""]) if kept else ""), removed


def _reason(line: str, reasons: Collection[str]) -> str:
    if "long_word" in reasons and len(line) > MOST_WORD and _LONG.search(line) and not _UNSPACED.search(line):
        return "long_word"
    if "no_end" in reasons and (not line.endswith(_TERMINAL) or _breaks_off(line)):
        return "no_end"
    if "short" in reasons and _is_short(line):
        return "short"
    if "script" in reasons and _SCRIPT.search(line):
        return "script"
    if "policy" in reasons and _POLICY.search(line):
        return "policy"
    return ""


def _breaks_off(line: str) -> bool:
    """Ends in "..." or "…": cut off by the page. The Chinese ellipsis "……" is a mark like others."""
    return line.endswith(("...", "…")) and not line.endswith("……")


def _is_short(line: str) -> bool:
    return len(line.split(None, LEAST_WORDS)) < LEAST_WORDS and len(_UNSPACED.findall(line)) < LEAST_CHARACTERS
