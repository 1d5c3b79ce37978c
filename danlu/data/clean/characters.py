"""Cleaning: the same text, without what no reader would miss.

| step            | what goes                                        | why                                            |
|-----------------|--------------------------------------------------|------------------------------------------------|
| nfc             | decomposed letters become composed ones          | "é" must not be two different token sequences  |
| surrogates      | half of a UTF-16 pair becomes U+FFFD             | it is no character and no file can hold it     |
| newlines        | CRLF, CR, NEL, U+2028/2029 become LF             | one line end                                   |
| control         | C0/C1 control characters except tab and newline  | no text, and some break terminals              |
| invisible       | zero-width characters, byte-order marks, soft    | they make equal words unequal                  |
|                 | hyphens, bidirectional overrides                 |                                                |
| spaces          | no-break and other exotic spaces become a space  | the ideographic space U+3000 stays: it indents |
| trailing        | white space at line ends                         |                                                |
| blank_lines     | more than two empty lines become two             | Python code uses two                           |

NFC, and not NFKC: compatibility normalisation would turn the full-width comma "，" into "," and "①" into "1",
so Chinese would lose its punctuation, and "x²" would become "x2". Emoji joiners (U+200D between pictographs) and
the joiners of Indic and Persian scripts stay too.

`clean` never changes anything silently: it counts every step that fired, and the report shows the counts.

>>> clean("a\\u200bb \\r\\n\\r\\n\\r\\n\\r\\n，")[0]
'ab\\n\\n\\n，\\n'
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_SURROGATES = re.compile("[\ud800-\udfff]")
_NEWLINES = re.compile("\r\n?|[\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
# The look-behind lets a match begin only where a run of blanks begins; without it a long run costs its square.
_TRAILING = re.compile(r"(?<![ \t\u3000])[ \t\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{4,}")

# Whether a text needs a step at all. Most need none, and these looks are searches for fixed strings or one look at
# every character for all steps together, several times cheaper than the steps.
_ODD_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\u00ad\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u2064\u2066-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb]"
)
_BLANK_ENDS = (" \n", "\t\n", "\u3000\n")
_BLANKS = (" ", "\t", "\u3000")


def _nfc(text: str) -> tuple[str, int]:
    if unicodedata.is_normalized("NFC", text):
        return text, 0
    return unicodedata.normalize("NFC", text), 1


def _substitute(pattern: re.Pattern[str], replacement: str) -> Callable[[str], tuple[str, int]]:
    return lambda text: pattern.subn(replacement, text)


# Order matters: line ends first, so that CR is not taken for a control character; NFC after the
# invisible ones are gone, because that may bring a letter and its accent together; trailing space before blank
# lines, so that a line of spaces counts as blank.
_ODD_STEPS: tuple[tuple[str, Callable[[str], tuple[str, int]]], ...] = (
    ("surrogates", _substitute(_SURROGATES, "\ufffd")),
    ("newlines", _substitute(_NEWLINES, "\n")),
    ("control", _substitute(_CONTROL, "")),
    ("invisible", _substitute(_INVISIBLE, "")),
    ("spaces", _substitute(_SPACES, " ")),
)


def clean(text: str) -> tuple[str, dict[str, int]]:
    """Return the cleaned text and how often each step changed something.

    The result ends with exactly one newline (an empty text stays empty) and cleaning it again changes nothing.
    """
    changes: dict[str, int] = {}

    def count(name: str, result: tuple[str, int]) -> str:
        if result[1]:
            changes[name] = result[1]
        return result[0]

    if (_ODD_ASCII if text.isascii() else _ODD).search(text):
        for name, step in _ODD_STEPS:
            text = count(name, step(text))
    if not text.isascii():
        text = count("nfc", _nfc(text))
    if text.endswith(_BLANKS) or any(end in text for end in _BLANK_ENDS):
        text = count("trailing", _TRAILING.subn("", text))
    if "\n\n\n\n" in text:
        text = count("blank_lines", _BLANK_LINES.subn("\n\n\n", text))
    # Blank lines at either end and the missing last newline are layout, too common to be worth a count.
    text = text.strip("\n")
    return (text + "\n" if text else ""), changes
