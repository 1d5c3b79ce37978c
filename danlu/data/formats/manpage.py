r"""Manual pages: roff with the macros of man(7), and what is common of mdoc(7), as plain text with Markdown headings.

    .TH LS 1                          # ls(1)
    .SH 描述                          ## 描述
    .TP                               -a, --all
    \fB\-a\fP, \fB\-\-all\fP          不要忽略以点号起始的条目
    不要忽略以点号起始的条目

Manual pages are the largest body of careful technical prose that a system carries in many languages (Debian's
manpages-zh among them). Typesetting is left out: fonts, indents, conditions for printers, tables as lines of cells.
Lines that are filled are joined with a blank, but not between two Han characters.

Macros are rows of `MACROS`; one that is not there is passed over, as man(7) does. A page that only names another
(`.so man1/ls.1`) is a `Broken` with the reason "redirect".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from danlu.core.text import is_han
from danlu.data.formats.encodings import decode
from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.streams import read_all

SUFFIX = re.compile(r"\.[1-9](?:pm|tcl|tk|x|p|posix|ssl|perl|const|type|head)?")
_HEAD = re.compile(r"^[.'][ \t]*(?:TH|Dd|Dt)\b", re.MULTILINE)
_REDIRECT = re.compile(r"\A(?:[.'][ \t]*\\\".*\n|\s*\n)*\.so[ \t]+(\S+)")
_REQUEST = re.compile(r"[.'][ \t]*([A-Za-z0-9]+|\\[\"}{]?)?[ \t]*(.*)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|((?:\\ |\\.|\S)+)')

_ESCAPE = re.compile(
    r"\\(?:(?P<comment>[\"#].*)|(?P<font>[fFmM](?:\(..|\[[^\]]*\]|.))|(?P<size>s(?:[+-]?\d|\([+-]?\d\d|\[[^\]]*\]))"
    r"|(?P<glyph>\((..)|\[([^\]]*)\])|(?P<string>\*(?:\((..)|\[([^\]]*)\]|(.)))|(?P<number>n[+-]?(?:\(..|\[[^\]]*\]|.))"
    r"|(?P<quoted>[hvwNoZDLlXbk]'[^']*')|(?P<other>.)|$)"
)
_OTHER = {
    "-": "-",
    "e": "\\",
    "\\": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "'": "'",
    "`": "`",
    "t": "\t",
    ".": ".",
    "_": "_",
}
_GLYPHS = {
    "bu": "•", "em": "—", "en": "–", "hy": "-", "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "aq": "'", "dq": '"',
    "co": "©", "rg": "®", "tm": "™", "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "mu": "×", "pl": "+", "eq": "=",
    ">=": "≥", "<=": "≤", "!=": "≠", "->": "→", "<-": "←", "+-": "±", "de": "°", "ss": "ß", ":a": "ä", ":o": "ö",
    ":u": "ü", "'e": "é", "`e": "è", "'a": "á", "la": "⟨", "ra": "⟩", "lB": "[", "rB": "]", "lC": "{", "rC": "}",
    "at": "@", "sh": "#", "Do": "$", "ba": "|", "br": "|", "or": "|", "sc": "§", "mc": "µ", "*m": "μ", "no": "¬",
    "fm": "′", "sl": "/", "R": "®", "Tm": "™", "T<": "“", "T>": "”", "Lq": "“", "Rq": "”",
}  # fmt: skip


def read_manpage(stream: BinaryIO) -> Iterator[Item | Broken]:
    """One page. `meta.title` is its name and section."""
    text, encoding = decode(read_all(stream))
    redirect = _REDIRECT.match(text)
    if redirect is not None:
        yield Broken("redirect", f"the page is {redirect[1]}", text=text[:EXCERPT])
        return
    if _HEAD.search(text) is None:
        yield Broken("unknown_format", "neither .TH nor .Dd: this is no manual page", text=text[:EXCERPT])
        return
    page = Page()
    page.read(text)
    body = "\n".join(page.finish())
    meta = {"title": page.title} if page.title else {}
    yield Item(body, meta=meta if encoding.startswith("utf-8") else {**meta, "encoding": encoding})


class Page:
    """A page being read: finished lines, the paragraph that is being filled, and how lines are taken at the moment."""

    def __init__(self) -> None:
        self.title = ""
        self.filling = True
        self.skip_until = ""  # a request that ends a stretch that is passed over
        self._lines: list[str] = []
        self._paragraph: list[str] = []
        self._tag_next = False  # the next line is the tag of a list entry
        self._printer_only = 0  # depth of \{ \} blocks that are for paper

    def read(self, text: str) -> None:
        for line in text.replace("\\\n", "").split("\n"):
            if self._printer_only:
                self._printer_only += line.count(r"\{") - line.count(r"\}")
            elif self.skip_until:
                if line.replace(" ", "").startswith(self.skip_until):
                    self.skip_until = ""
            elif line[:1] in (".", "'") and line[1:2] not in ("", "."):
                self._request(line)
            else:
                self.add(unescape(line))

    def finish(self) -> list[str]:
        self.paragraph()
        return self._lines[:-1]

    def add(self, text: str) -> None:
        """A line of text: part of the paragraph, or a line of its own."""
        if self._tag_next and text.strip():
            self._tag_next = False
            self.flush()
            self._lines.append(text.strip())
        elif not self.filling:
            self._lines.append(text.rstrip())
        elif text.strip():
            self._paragraph.append(text.strip())
        else:
            self.paragraph()

    def flush(self) -> None:
        """End the paragraph; the next text begins a new line."""
        if self._paragraph:
            self._lines.append(fill(self._paragraph))
            self._paragraph = []

    def paragraph(self) -> None:
        """An empty line, unless there is one."""
        self.flush()
        self._tag_next = False
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def heading(self, level: int, text: str) -> None:
        self.filling = True
        self.paragraph()
        self._lines += ["#" * level + " " + text, ""]

    def tag(self) -> None:
        self.paragraph()
        self._tag_next = True

    def _request(self, line: str) -> None:
        match = _REQUEST.match(line)
        name, rest = (match[1] or "", match[2]) if match else ("", "")
        if name in ("if", "ie"):
            condition, _, then = rest.lstrip("!").strip().partition(" ")
            if condition == "n" and not then.startswith(r"\{"):
                self.read(then)
            elif line.rstrip().endswith(r"\{") and condition != "n":
                self._printer_only = 1
        elif name in MACROS:
            MACROS[name](self, [unescape(argument) for argument in arguments(rest)])


def arguments(text: str) -> list[str]:
    """The arguments of a request: words, or what stands in double quotes. A comment ends them."""
    text = re.split(r"(?<!\\)\\\"", text, maxsplit=1)[0]
    return [
        match[1].replace('""', '"') if match[1] is not None else match[2] for match in _ARGUMENT.finditer(text.strip())
    ]


def unescape(text: str) -> str:
    r"""Without roff's escapes.

    >>> unescape(r"\fB\-a\fP \(co 2024\" comment")
    '-a © 2024'
    """
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    if match["glyph"]:
        name = match["glyph"][1:].rstrip("]")
        if re.fullmatch("u[0-9A-F]{4,6}", name):
            return chr(int(name[1:], 16)) if int(name[1:], 16) < 0x110000 else ""
        return _GLYPHS.get(name, "")
    if match["string"]:
        return _GLYPHS.get(match["string"][1:].strip("([]"), "")
    return _OTHER.get(match["other"] or "", "")


def fill(parts: list[str]) -> str:
    """Join lines: a blank between them, none between Han characters or full-width punctuation."""
    text = parts[0]
    for part in parts[1:]:
        text += part if _is_wide(text[-1]) and _is_wide(part[0]) else " " + part
    return text


def _is_wide(character: str) -> bool:
    return is_han(character) or "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uffef"


# ---- macros: name -> what it does with its arguments -----------------------------------------------------------------

Macro = Callable[[Page, list[str]], None]


def _title(page: Page, words: list[str]) -> None:
    page.title = f"{words[0].lower()}({words[1]})" if len(words) > 1 else "".join(words).lower()
    page.heading(1, page.title)


def _heading(level: int) -> Macro:
    return lambda page, words: page.heading(level, " ".join(words))


def _text(joint: str) -> Macro:
    """Fonts: words side by side, or glued where two fonts alternate."""
    return lambda page, words: page.add(joint.join(words)) if words else None


def _verbatim(on: bool) -> Macro:
    def change(page: Page, words: list[str]) -> None:
        page.flush()
        page.filling = not on

    return change


def _indented(page: Page, words: list[str]) -> None:
    """.IP: a tag that stands in the request itself."""
    page.paragraph()
    if words and words[0].strip():
        page.tag()
        page.add(words[0])


def _passed_over(until: str) -> Macro:
    def change(page: Page, words: list[str]) -> None:
        page.skip_until = until

    return change


def _entry(page: Page, words: list[str]) -> None:
    """mdoc's .It"""
    page.tag()
    if words:
        page.add(_inline(words))


def _inline(words: list[str]) -> str:
    """Words of an mdoc line: names of macros among them only say how a word looks."""
    shown, dash = [], False
    for word in words:
        if word == "Fl":
            dash = True
        elif word not in _MDOC_WORDS:
            shown.append("-" + word if dash else word)
            dash = False
    return " ".join(shown)


_MDOC_WORDS = frozenset(
    "Ar Cm Ic Nm Pa Op Oo Oc Ns Xr Em Sy Li Va Ev Er Ad Fa Ft Fn Dq Sq Ql Pq Pf No Tn Ux Bx".split()  # noqa: SIM905
)


def _mdoc(before: str = "", after: str = "") -> Macro:
    return lambda page, words: page.add(before + _inline(words) + after)


def _break(page: Page, words: list[str]) -> None:
    page.flush()


def _paragraph(page: Page, words: list[str]) -> None:
    page.paragraph()


def _argument(page: Page, words: list[str]) -> None:
    page.tag()
    page.add(" ".join(words[:2]) + (f" ({words[2]})" if words[2:] else ""))


def _option(page: Page, words: list[str]) -> None:
    page.paragraph()
    page.add(" / ".join(words))


MACROS: dict[str, Macro] = {
    "TH": _title, "SH": _heading(2), "SS": _heading(3),
    **dict.fromkeys(("PP", "P", "LP", "HP", "sp", "RS", "RE", "Pp", "bp"), _paragraph),
    **dict.fromkeys(("TP", "TQ"), lambda page, words: page.tag()),
    "IP": _indented, "br": _break,
    **dict.fromkeys(("B", "I", "SM", "SB", "R"), _text(" ")),
    **dict.fromkeys(("BR", "RB", "BI", "IB", "IR", "RI"), _text("")),
    **dict.fromkeys(("nf", "EX", "CS", "TS", "Bd"), _verbatim(True)),
    **dict.fromkeys(("fi", "EE", "CE", "TE", "Ed"), _verbatim(False)),
    **dict.fromkeys(("ig", "de", "de1", "am"), _passed_over("..")),
    "EQ": _passed_over(".EN"),
    "UR": lambda page, words: page.add("<" + "".join(words[:1]) + ">"),
    "MT": lambda page, words: page.add("<" + "".join(words[:1]) + ">"),
    # mdoc(7)
    "Dt": _title, "Sh": _heading(2), "Ss": _heading(3), "It": _entry, "El": _paragraph, "Nd": _mdoc("- "),
    "Fl": lambda page, words: page.add(_inline(["Fl", *words])),
    "Xr": lambda page, words: page.add(words[0] + (f"({words[1]})" if len(words) > 1 else "") if words else ""),
    "Op": _mdoc("[", "]"), "Dq": _mdoc("“", "”"), "Sq": _mdoc("‘", "’"), "Ql": _mdoc("‘", "’"), "Pq": _mdoc("(", ")"),
    **dict.fromkeys(("Nm", "Ar", "Cm", "Ic", "Pa", "Em", "Sy", "Li"), _mdoc()),
    **dict.fromkeys(("Va", "Ev", "Er", "Fa", "Ft", "Fn", "No"), _mdoc()),
    # Tcl's own
    "AP": _argument,
    "OP": _option,
}  # fmt: skip
