"""The table of characters says what Python says, for all of Unicode."""

from __future__ import annotations

import re

import numpy as np

from danlu.core import text
from danlu.data.quality import classes


def _flags() -> np.ndarray:
    table = classes.table()
    return table.flags[table.classes[table.page_of].ravel()]


def test_every_code_point_is_what_python_says() -> None:
    codes = [*range(0x32000), *range(0xE0000, 0xE1000), *range(0x10FF00, 0x110000)]  # between them nothing is assigned
    everything = [chr(code) for code in codes]
    flags = _flags()[codes]
    for name, says in {
        "alpha": str.isalpha,
        "space": str.isspace,
        "word": lambda c: c.isalnum() or c == "_",
        "upper": lambda c: c.lower() != c,
    }.items():
        assert (np.fromiter(map(says, everything), bool) == (flags & classes.flag(name) > 0)).all(), name
    for name, characters in {"han": text.HAN, "unspaced": text.HAN + text.KANA + text.HANGUL}.items():
        found = {match.start() for match in re.finditer(f"[{characters}]", "".join(everything))}
        assert found == set(np.flatnonzero(flags & classes.flag(name)).tolist()), name


def test_lower_case_keeps_what_a_character_is() -> None:
    """A unit is cut by the class of the character as written, and it is lower-cased: both must agree."""
    table, flags = classes.table(), _flags()
    shift = table.lower[table.page_of].ravel()
    for code in np.flatnonzero(shift).tolist():
        low = (code + int(shift[code])) & 0xFFFFFFFF
        assert chr(code).lower()[0] == chr(low)
        assert len(chr(code).lower()) == (2 if chr(code) == "İ" else 1)
        bits = classes.flag("word") | classes.flag("unspaced") | classes.flag("alpha")
        assert flags[low] & bits == flags[code] & bits
    assert not flags[0x307] & classes.flag("word"), "the dot that İ leaves behind cuts a unit"


def test_few_classes_on_few_pages() -> None:
    table = classes.table()
    assert np.count_nonzero(table.flags) < 64 and len(table.classes) < 200
