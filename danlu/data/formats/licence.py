"""Which licence a text or a folder names, as an SPDX identifier.

    SPDX-License-Identifier: MIT            the line made for this, in the head of a file
    "Permission is hereby granted, ..."     sentences by which well-known licences are told
    LICENSE, COPYING, ... beside the file   the same sentences, in the nearest folder above

Only what is written is reported. A text that names no licence gives "", never a guess; of the GPL family the version
and "or any later version" are read where they stand. Source: the SPDX License List, https://spdx.org/licenses/.
"""

from __future__ import annotations

import re

HEAD = 4_000  # characters of a source file that are looked at
_FULL = 40_000  # ... and of a file that is the licence
FILES = re.compile(r"(?i)(licen[cs]e|copying|unlicense)(\.(txt|md|rst|html?))?(\.\w+)?$")

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-]+(?:\s+(?:AND|OR|WITH)\s+[A-Za-z0-9.+\-]+)*)")
_HINT = re.compile(r"(?i)licen|permission|redistribution|unencumbered|cc0|许可证")
_GNU = (("GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL"), ("GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"))
_LATER = re.compile(r"(?i)either version (\d(?:\.\d)?) of the licen[cs]e,? or \(at your option\) any later")
_VERSION = re.compile(r"(?i)version (\d(?:\.\d)?)")

# (identifier, phrases that must all be there); the first row that fits wins, so the narrower stands first
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("BSL-1.0", ("boost software license",)),
    ("MulanPSL-2.0", ("木兰宽松许可证", "第2版")),
    ("MulanPSL-2.0", ("mulan permissive software license", "v2")),
    ("MIT", ("permission is hereby granted, free of charge", "the above copyright notice and this permission notice")),
    ("MIT", ("released under the mit license",)),
    ("MIT", ("licensed under the mit license",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote products")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose", "notice appear")),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-NC-4.0", ("creative commons", "attribution-noncommercial 4.0")),
    ("CC-BY-SA-4.0", ("creative commons", "attribution-sharealike 4.0")),
    ("CC-BY-4.0", ("creative commons", "attribution 4.0 international")),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("PSF-2.0", ("licensed to psf under a contributor agreement",)),
)


def find_licence(text: str, limit: int = HEAD) -> str:
    """The licence named in the first `limit` characters, or "".

    >>> find_licence("# SPDX-License-Identifier: MIT OR Apache-2.0")
    'MIT OR Apache-2.0'
    """
    head = text[:limit]
    if not _HINT.search(head):
        return ""
    found = _SPDX.search(head)
    if found:
        return found[1]
    flat = " ".join(re.sub(r"^[ \t]*(?:#+|//+|/?\*+|--+|;+|%+|\.\.)", " ", head, flags=re.M).split()).lower()
    gnu = _gnu(flat)
    if gnu:
        return gnu
    return next((name for name, phrases in _PHRASES if all(phrase in flat for phrase in phrases)), "")


def licence_of_file(text: str) -> str:
    """The licence that a file called LICENSE or COPYING is."""
    return find_licence(text, _FULL)


def _gnu(flat: str) -> str:
    family = next((short for long, short in _GNU if long.lower() in flat), "")
    if not family and "gnu general public license" in flat:
        family = "GPL"
    if not family:
        return ""
    later = _LATER.search(flat)
    version = later or _VERSION.search(flat)
    if version is None:
        return ""
    number = version[1] if "." in version[1] else version[1] + ".0"
    full_text = "everyone is permitted to copy and distribute verbatim copies" in flat
    return f"{family}-{number}-{'or-later' if later and not full_text else 'only'}"
