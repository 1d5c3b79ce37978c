"""Traditional to simplified Chinese and back, by OpenCC.

Characters do not map one to one (發 and 髮 are both 发), so the way back needs words: 头发 -> 頭髮, 发展 -> 發展. OpenCC's
dictionaries know them. Off by default: a corpus should hold both scripts as they were written.

| target         | from -> to                                            |
|----------------|-------------------------------------------------------|
| simplified     | any traditional -> simplified (t2s)                   |
| traditional    | simplified -> traditional (s2t)                       |
| taiwan         | simplified -> Taiwan's characters and words (s2twp)   |
| hong_kong      | simplified -> Hong Kong's characters (s2hk)           |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Literal

from danlu.core.errors import need
from danlu.core.text import HAN

Target = Literal["simplified", "traditional", "taiwan", "hong_kong"]
_CONVERSIONS = {"simplified": "t2s", "traditional": "s2t", "taiwan": "s2twp", "hong_kong": "s2hk"}
_HAN = re.compile(f"[{HAN}]")


@functools.cache
def _converter(target: Target) -> Callable[[str], str]:
    convert: Callable[[str], str] = need("opencc", "zh").OpenCC(_CONVERSIONS[target]).convert
    return convert


def convert(text: str, target: Target) -> tuple[str, int]:
    """The text in the other script and how many characters changed (or by how many it grew where words differ).

    Raises UserError when OpenCC is not installed.
    """
    if text.isascii() or not _HAN.search(text):
        return text, 0
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is nothing that OpenCC takes
    converted = _converter(target)(text)
    if converted == text:
        return text, 0
    changed = sum(a != b for a, b in zip(text, converted, strict=False)) if len(text) == len(converted) else 0
    return converted, changed or abs(len(text) - len(converted)) or 1
