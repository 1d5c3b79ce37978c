from __future__ import annotations

from pathlib import Path

import pytest

from danlu.data.formats.extract import Item, extract
from danlu.data.formats.licence import find_licence, licence_of_file

MIT = "Permission is hereby granted, free of charge, ... The above copyright notice and this permission notice ..."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note\nint x;", "GPL-2.0 WITH Linux-syscall-note"),
        ("# SPDX-License-Identifier: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        (MIT, "MIT"),
        ("# Licensed under the Apache License, Version 2.0 (the \"License\")", "Apache-2.0"),
        (" * Redistribution and use in source and binary forms\n * endorse\n * or promote products", "BSD-3-Clause"),
        ("/* Redistribution and use in source and binary forms, ... */", "BSD-2-Clause"),
        ("# GNU General Public License as published ...; either version 2 of the License, or (at your option)\n"
         "# any later version.", "GPL-2.0-or-later"),
        ("木兰宽松许可证， 第2版\n", "MulanPSL-2.0"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        ("import os  # a licence to kill", ""),
        ("print('hello')", ""),
    ],
)  # fmt: skip
def test_licences_are_told_by_what_is_written(text: str, found: str) -> None:
    assert find_licence(text) == found


def test_whole_licences() -> None:
    gpl = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"
    gpl += "Everyone is permitted to copy and distribute verbatim copies"
    assert licence_of_file(gpl) == "GPL-3.0-only"
    assert licence_of_file((Path(__file__).parents[3] / "LICENSE").read_text()) == "Apache-2.0"


def test_a_source_file_carries_the_licence_of_its_head(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("/* SPDX-License-Identifier: MIT */\nint x;\n")
    (item,) = extract(tmp_path / "a.c")
    assert isinstance(item, Item) and item.licence == "MIT" and item.language == "code:c"
