"""Wikitext to plain text with Markdown headings and lists: small and careful, not a whole parser.

What carries the meaning of a sentence stays, what is furniture goes:

| markup                                   | becomes                                        |
|------------------------------------------|------------------------------------------------|
| '''bold''', ''italic''                   | bold, italic                                   |
| [[target|label]], [http://x label]       | label                                          |
| == Heading ==                            | ## Heading; dropped when nothing stands below  |
| * item, # item, ; term, : reply          | - item, 1. item, term, reply                   |
| {| table |}                              | a Markdown table, unless tables lie inside it  |
| -{zh-hans:软件;zh-hant:軟體}-            | the variant that fits the rest, simplified     |
| <math>x</math>, <code>, <nowiki>         | $x$, `x`, x                                    |
| {{templates}}, <ref>, files, categories  | nothing; {{lang|fr|mot}} and its like: mot     |

Templates are programs kept on other pages: without running them their result is unknown, so they go, from the
innermost outward. All passes are linear and their number is bounded, so no page takes long; what is unbalanced loses
its braces and stays. A converter with a full grammar (mwparserfromhell) leaves captions, tables and Chinese variants in
the text.
"""

from __future__ import annotations

import html
import re

from danlu.data.formats import markdown

_DEPTH = 40  # templates, tables or files inside each other
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_GONE = re.compile(
    r"<(ref|gallery|timeline|imagemap|score|graph|mapframe|templatestyles|section|indicator|chem|hiero|inputbox|categorytree)"
    r"\b(?:[^<>]*/>|[^<>]*>.*?(?:</\1\s*>|(?=<\1\b)|\Z))",
    re.S | re.I,
)
_MATH = re.compile(r"<math\b[^<>]*>(.{0,5000}?)</math\s*>", re.S | re.I)
_CODE = re.compile(
    r"<(?:source|syntaxhighlight|pre)\b[^<>]*>(.{0,100000}?)</(?:source|syntaxhighlight|pre)\s*>", re.S | re.I
)
_NOWIKI = re.compile(r"<nowiki\s*>(.{0,100000}?)</nowiki\s*>", re.S | re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>")
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_TABLE = re.compile(r"^[ :*]*\{\|((?:(?!^[ :*]*\{\|).)*?)^[ ]*\|\}", re.S | re.M)
_LINK = re.compile(r"\[\[([^\[\]|]*)(?:\|([^\[\]]*))?\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\[\]]*(?:\s+([^\[\]]*))?\]")
_QUOTES = re.compile("'{2,5}")
_SWITCH = re.compile(r"__[A-Z]{3,20}__")
_HEADING = re.compile(r"^(={1,6})\s*(.+?)\s*\1\s*$")
_ITEM = re.compile(r"^([*#:;]+)\s*(.*)$")
_FILES = ("file", "image", "media", "文件", "档案", "檔案", "图像", "圖像", "图片", "圖片")
_CATEGORIES = ("category", "分类", "分類")
_PREFIX = re.compile(r"^:?\s*([^:]{1,20}?)\s*:")
_INTERWIKI = re.compile(r"^(?:[a-z]{2,3}|zh-[a-z-]+|simple|commons|wikt|wikisource|s|q|b|d|n|v|voy):", re.I)
# Templates whose last argument is text that the sentence needs.
_KEPT = re.compile(r"(?i)^(?:lang|le|link-\w+|nowrap|nobr|small|big|ruby|tlit|transl|abbr|langwithname|lang-[a-z-]+)$")
_SIMPLIFIED = ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh")
_TRADITIONAL_SIGNS = re.compile("[這來國會個們時對說學過後還與為學體開關點應當實發無]")
_END_SECTIONS = frozenset(
    [
        "references",
        "external links",
        "see also",
        "notes",
        "further reading",
        "bibliography",
        "sources",
        "footnotes",
        "参考文献",
        "參考文獻",
        "参考资料",
        "參考資料",
        "外部链接",
        "外部連結",
        "参见",
        "參見",
        "相关条目",
        "相關條目",
        "注释",
        "註釋",
        "注解",
        "延伸阅读",
        "延伸閱讀",
        "脚注",
        "腳註",
    ]
)


def plain(source: str) -> tuple[str, list[str]]:
    """Plain text of a page and its categories.

    >>> plain("'''丹炉'''是[[炼丹术|炼丹]]的炉子。<ref>书</ref>\\n[[Category:炉]]")
    ('丹炉是炼丹的炉子。', ['炉'])
    """
    kept: list[str] = []

    def keep(text: str) -> str:
        kept.append(text)
        return f"\x00{len(kept) - 1}\x00"

    text = _COMMENT.sub("", source.replace("\x00", ""))
    text = _NOWIKI.sub(lambda found: keep(found[1]), text)
    text = _CODE.sub(lambda found: keep("\n```\n" + found[1].strip("\n") + "\n```\n"), text)
    text = _MATH.sub(lambda found: keep("$" + " ".join(found[1].split()) + "$"), text)
    text = _GONE.sub("", text)
    traditional = bool(_TRADITIONAL_SIGNS.search(_VARIANT.sub("", text)))
    text = _repeat(_VARIANT, lambda found: _variant(found[1], traditional), text)
    text = _repeat(_TEMPLATE, _template, text)
    text = _repeat(_TABLE, lambda found: keep(_table(found[1])), text)
    categories: list[str] = []
    text = _repeat(_LINK, lambda found: _link(found, categories), text)
    text = _EXTERNAL.sub(lambda found: found[1] or "", text)
    text = _SWITCH.sub("", _QUOTES.sub("", _TAG.sub(_tag, text)))
    text = _lines(text)
    for _ in range(3):  # what was kept aside may stand inside something kept aside
        text = re.sub(r"\x00(\d+)\x00", lambda found: kept[int(found[1])] if int(found[1]) < len(kept) else "", text)
    text = html.unescape(text).replace("\u00a0", " ").replace("\u200e", "")
    text = re.sub(r"[\s,，、;；]+(?=[)）])", "", text)  # what a dropped template leaves behind
    text = re.sub(r"[(（][\s,，、;；]*[)）]", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip(), categories


def _repeat(pattern: re.Pattern[str], turn: object, text: str) -> str:
    """Replace innermost matches until nothing changes, `_DEPTH` times at most."""
    for _ in range(_DEPTH):
        text, count = pattern.subn(turn, text)  # type: ignore[call-overload]
        if not count:
            break
    return text


def _template(found: re.Match[str]) -> str:
    name, *arguments = found[1].split("|")
    positional = [argument.strip() for argument in arguments if "=" not in argument]
    if _KEPT.match(name.strip()) and positional:
        return positional[-1]
    return "!" if name.strip() == "!" else ""


def _variant(body: str, traditional: bool) -> str:
    """The text of a Chinese conversion mark: flags aside, the variant that fits, else what is there."""
    flags, bar, rest = body.partition("|")
    if bar and len(flags) <= 12 and ":" not in flags:
        if "H" in flags.upper() or "T" in flags.upper() or flags.strip() == "-":
            return ""  # a rule for the rest of the page, not shown
        body = rest
    variants = {
        key.strip().lower(): value.strip()
        for key, colon, value in (part.partition(":") for part in body.split(";"))
        if colon
    }
    named = {key: value for key, value in variants.items() if re.fullmatch(r"zh(-\w+)?", key)}
    if not named:
        return body
    order = ("zh-hant", "zh-tw", "zh-hk", *_SIMPLIFIED) if traditional else (*_SIMPLIFIED, "zh-hant", "zh-tw", "zh-hk")
    return next((named[key] for key in order if key in named), next(iter(named.values())))


def _table(body: str) -> str:
    """A table that has only text in its cells as Markdown."""
    rows: list[list[str]] = [[]]
    caption = ""
    for line in body.split("\n")[1:]:  # the first is attributes
        stripped = line.strip()
        if stripped.startswith("|+"):
            caption = _cell(stripped[2:])
        elif stripped.startswith("|-"):
            rows.append([])
        elif stripped[:1] in ("|", "!"):
            marks = re.split(r"\|\||!!" if stripped[0] == "!" else r"\|\|", stripped[1:])
            rows[-1] += [_cell(cell) for cell in marks]
        elif rows[-1] and stripped:
            rows[-1][-1] += " " + stripped
    text = markdown.table(rows)
    return f"\n{caption}\n\n{text}\n" if caption and text else f"\n{text}\n"


def _cell(text: str) -> str:
    """The content of a cell without its attributes; a bar inside a link is no border of them."""
    before, bar, rest = text.partition("|")
    content = rest if bar and "[[" not in before else text
    content = _LINK.sub(lambda found: _link(found, []), content)
    return _QUOTES.sub("", _TAG.sub(_tag, _EXTERNAL.sub(lambda found: found[1] or "", content))).strip()


def _link(found: re.Match[str], categories: list[str]) -> str:
    target, label = found[1].strip(), found[2]
    prefix = _PREFIX.match(target)
    space = prefix[1].strip().lower() if prefix else ""
    if space in _CATEGORIES and not target.startswith(":"):
        categories.append(target.partition(":")[2].strip())
        return ""
    if space in _FILES and not target.startswith(":"):
        return ""
    if _INTERWIKI.match(target) and not label:
        return ""
    if label is None:
        return target.lstrip(":").partition("#")[0] or target.lstrip("#:")
    return label.strip() or re.sub(r"^[^:]*:|\s*[(（][^()（）]*[)）]$", "", target)  # the pipe trick


def _tag(found: re.Match[str]) -> str:
    tag = found[0].lower()
    return "\n" if tag.startswith(("<br", "<p", "</p", "</div", "<div", "</li", "</tr")) else ""


def _lines(text: str) -> str:
    """Headings and lists as Markdown; headings with nothing below them, and sections of references, dropped."""
    out: list[str] = []
    pending: list[tuple[int, str]] = []  # headings that nothing stands under yet
    skip = 0  # level of a section that is left out
    for line in text.split("\n"):
        heading = _HEADING.match(line)
        if heading:
            level, title = len(heading[1]), heading[2].strip()
            if skip and level > skip:
                continue
            skip = level if title.lower() in _END_SECTIONS else 0
            pending = [(other, name) for other, name in pending if other < level]
            if not skip:
                pending.append((level, title))
            continue
        if skip:
            continue
        line = _leftovers(line)
        item = _ITEM.match(line)
        if item:
            marks, content = item[1], item[2].strip()
            sign = {"*": "- ", "#": "1. "}.get(marks[-1], "")
            line = "  " * (len(marks) - 1) * bool(sign) + sign + content if content else ""
        if line.strip():
            for level, title in pending:
                out += ["", "#" * max(2, level) + " " + title, ""]
            pending = []
        out.append(line.rstrip())
    return "\n".join(out)


def _leftovers(line: str) -> str:
    """Braces and brackets that nothing closes."""
    if "{{" in line or "}}" in line or "[[" in line or "]]" in line or "{|" in line or "|}" in line:
        line = re.sub(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}", "", line)
    return line
