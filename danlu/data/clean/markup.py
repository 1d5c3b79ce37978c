"""Remains of markup: what an extractor or an author left behind.

| step       | before                                       | after           |
|------------|----------------------------------------------|-----------------|
| html       | `Hello<br/>world</p> <span class="x">!`      | `Hello⏎world !` |
| entities   | `5 &gt; 3&nbsp;&#8212; Tom &amp;amp; Jerry`  | `5 > 3 — Tom & Jerry` |
| bbcode     | `[b]bold[/b] [url=http://a.b]link[/url]`     | `bold link`     |
| wiki       | `'''bold''' [[Beijing|the capital]] {{cite}}`| `bold the capital ` |
| markdown   | `![logo](a.png) see [here](http://a.b)`      | `logo see here` |

Only names of HTML and BBCode count, so `List<String>`, `<stdio.h>` and `a <b and c> d` stay. A page that teaches HTML is
full of tags that are its subject: what stands in a fenced block, in backticks or is indented by four blanks stays as
well, and tags are only taken for remains when one of them is closed, empty or has attributes.

>>> strip_html("Hello<br/>world, <b>bold</b> and `<p>`")
('Hello\\nworld, bold and `<p>`', 3)
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_BLOCK = "address|article|aside|blockquote|body|br|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|hr|html|li|main|nav|ol|option|p|section|select|table|tbody|td|tfoot|th|thead|title|tr|ul"  # noqa: E501
_INLINE = "a|abbr|b|big|button|cite|code|del|em|embed|font|i|iframe|img|input|ins|kbd|label|link|mark|meta|nobr|noscript|object|param|picture|q|s|samp|small|source|span|strike|strong|style|script|sub|sup|svg|tt|u|var|video|wbr"  # noqa: E501
_ATTRIBUTES = r"(?:\s+[A-Za-z_:@][\w:.-]*(?:\s*=\s*(?:\"[^\"<]{0,2000}\"|'[^'<]{0,2000}'|[^\s\"'<>]{1,2000}))?){0,40}\s*"
_TAG = re.compile(rf"<(?P<close>/?)(?P<name>{_BLOCK}|{_INLINE})(?P<attributes>{_ATTRIBUTES})(?P<empty>/?)>", re.IGNORECASE)
_BLOCK_NAME = re.compile(rf"(?:{_BLOCK})$", re.IGNORECASE)
_WHOLE = re.compile(r"<(script|style|noscript)\b[^<>]{0,500}>.{0,100000}?</\1\s*>", re.IGNORECASE | re.DOTALL)
_COMMENT = re.compile(r"<!--.{0,20000}?-->|<!DOCTYPE[^<>]{0,300}>|<!\[CDATA\[|\]\]>", re.IGNORECASE | re.DOTALL)

_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")

_BB = r"b|i|u|s|url|img|quote|code|color|size|font|align|center|left|right|list|table|tr|td|email|video|flash|attach|hide|media|backcolor|indent|sup|sub|float|spoiler|noparse"  # noqa: E501
_BB_TAG = re.compile(rf"\[(?P<close>/?)(?P<name>{_BB}|\*)(?:[= ][^\[\]\n]{{0,300}})?\]", re.IGNORECASE)
_BB_CLOSE = re.compile(rf"\[/(?:{_BB})\]", re.IGNORECASE)
_BB_IMAGE = re.compile(r"\[(img|attach|flash|media)(?:[= ][^\[\]\n]{0,300})?\][^\[\]\n]{0,500}\[/\1\]", re.IGNORECASE)

_WIKI: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<ref\b[^<>]{0,300}/>|<ref\b[^<>]{0,300}>.{0,3000}?</ref>", re.DOTALL), ""),
    (re.compile(r"\[\[(?:File|Image|Category|文件|檔案|图像|分类|分類):[^\[\]]{0,1000}(?:\[\[[^\[\]]{0,300}\]\][^\[\]]{0,1000}){0,5}\]\]"), ""),
    (re.compile(r"\[\[[^\[\]|\n]{1,300}\|([^\[\]|\n]{1,300})\]\]"), r"\1"),
    (re.compile(r"\[\[([^\[\]|\n]{1,300})\]\]"), r"\1"),
    (re.compile(r"\[https?://[^\s\[\]]{1,1000} ([^\[\]\n]{1,300})\]"), r"\1"),
    (re.compile(r"'{2,5}([^'\n]{1,500}?)'{2,5}"), r"\1"),
    (re.compile(r"^(={2,6}) {0,3}([^=\n]{1,200}?) {0,3}\1 {0,3}$", re.MULTILINE), r"\2"),
    (re.compile(r"^__[A-Z]{3,20}__ {0,3}$", re.MULTILINE), ""),
)  # fmt: skip
_TEMPLATE = re.compile(r"\{\{[^{}]{0,3000}\}\}|\{\|[^{}]{0,20000}\|\}")

_IMAGE = re.compile(r"!\[([^\[\]\n]{0,300})\]\([^()\s]{0,2000}(?:\s+\"[^\"\n]{0,300}\")?\)")
_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,500})\]\((?:[^()\s]|\([^()\s]{0,200}\)){0,2000}(?:\s+\"[^\"\n]{0,300}\")?\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\[\]\n]{1,100}\]: {1,4}\S{1,2000}(?: +\"[^\"\n]{0,300}\")? *$\n?", re.MULTILINE)

# What is shown as code: fenced blocks, backticks, lines that are indented by four.
_SHOWN = re.compile(
    r"^ {0,3}(?P<fence>```|~~~)[^\n]*\n(?:.*?\n)??(?:(?<=\n) {0,3}(?P=fence)[`~]*[ ]*$|\Z)|`+[^`\n]{1,500}`+|^(?: {4}|\t)[^\n]*$",
    re.MULTILINE | re.DOTALL,
)


def _outside_code(text: str, change: Callable[[str], tuple[str, int]]) -> tuple[str, int]:
    """Apply `change` to what is not shown as code."""
    if "`" not in text and "    " not in text and "\t" not in text and "~~~" not in text:
        return change(text)
    parts: list[str] = []
    total = end = 0
    for shown in _SHOWN.finditer(text):
        changed, count = change(text[end : shown.start()])
        parts += (changed, shown.group())
        total, end = total + count, shown.end()
    changed, count = change(text[end:])
    return "".join((*parts, changed)), total + count


def strip_html(text: str) -> tuple[str, int]:
    """Take tags, comments, scripts and styles away; block tags leave a line end. Returns the text and how many."""
    if "<" not in text or not (_COMMENT.search(text) or _has_remains(text)):
        return text, 0
    return _outside_code(text, _strip_html)


def _has_remains(text: str) -> bool:
    return any(match["close"] or match["empty"] or "=" in match["attributes"] for match in _TAG.finditer(text))


def _strip_html(text: str) -> tuple[str, int]:
    if "<" not in text:
        return text, 0
    text, n_whole = _WHOLE.subn("", text)
    text, n_comments = _COMMENT.subn("", text)
    text, n_tags = _TAG.subn(_replacement, text)
    return text, n_whole + n_comments + n_tags


def _replacement(match: re.Match[str]) -> str:
    if not _BLOCK_NAME.match(match["name"]):
        return ""
    at_line_end = match.string[match.end() : match.end() + 1] in ("\n", "")
    at_line_start = match.start() == 0 or match.string[match.start() - 1] == "\n"
    return "" if at_line_end or at_line_start else "\n"


def unescape(text: str) -> tuple[str, int]:
    """Named and numbered characters become themselves, twice escaped ones too.

    >>> unescape("AT&amp;amp;T &lt;3&nbsp;&unknown;")
    ('AT&T <3\\xa0&unknown;', 4)
    """
    if "&" not in text or not _ENTITY.search(text):
        return text, 0
    return _outside_code(text, _unescape)


def _unescape(text: str) -> tuple[str, int]:
    total = 0
    for _ in range(4):
        found = 0

        def one(match: re.Match[str]) -> str:
            nonlocal found
            plain = html.unescape(match.group())
            found += plain != match.group()
            return plain

        text = _ENTITY.sub(one, text)
        total += found
        if not found:
            break
    return text, total


def strip_bbcode(text: str) -> tuple[str, int]:
    """Tags of forums. Nothing happens to a text in which no tag is closed: [i] may be an index or a reference."""
    if "[/" not in text or not _BB_CLOSE.search(text):
        return text, 0
    text, n_images = _BB_IMAGE.subn("", text)
    text, n_tags = _BB_TAG.subn("", text)
    return text, n_images + n_tags


def strip_wiki(text: str) -> tuple[str, int]:
    """Links, bold, headings, templates and references of MediaWiki."""
    total = 0
    if "{{" in text or "{|" in text:
        for _ in range(6):  # templates hold templates; from the inside out
            text, count = _TEMPLATE.subn("", text)
            total += count
            if not count:
                break
    if "[[" in text or "''" in text or "==" in text or "<ref" in text or "[http" in text or "__" in text:
        for pattern, replacement in _WIKI:
            text, count = pattern.subn(replacement, text)
            total += count
    return text, total


def strip_markdown(text: str) -> tuple[str, int]:
    """Addresses of images and links go, their words stay."""
    if "](" not in text and "]: " not in text:
        return text, 0
    return _outside_code(text, _strip_markdown)


def _strip_markdown(text: str) -> tuple[str, int]:
    total = 0
    for pattern, replacement in ((_IMAGE, r"\1"), (_LINK, r"\1"), (_REFERENCE, "")):
        text, count = pattern.subn(replacement, text)
        total += count
    return text, total
