"""Documents that are zip files of XML: DOCX (Word) and EPUB (books).

    DOCX   word/document.xml    w:p paragraphs (style -> heading, w:numPr -> list), w:tbl tables
           word/styles.xml      names of the styles: "heading 1" whatever its id is in this language of Word
           word/numbering.xml   which lists are numbered
           docProps/core.xml    title, author
    EPUB   META-INF/container.xml -> the package (.opf) -> manifest and spine: chapters in the order of reading

One file is one document. Deleted text of tracked changes is left out. Sources: ECMA-376 part 1 (WordprocessingML),
EPUB 3.3 (W3C), sections on the package document.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import unquote

from danlu.core.errors import need
from danlu.data.formats import markdown
from danlu.data.formats.item import Broken, Item
from danlu.data.formats.streams import TooLargeError, read_all

_MAX_PART = 1 << 27  # bytes of one part, unpacked
_MAX_PARTS = 1 << 29  # bytes of all parts of a book
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_OPF = "{http://www.idpf.org/2007/opf}"


def read_docx(stream: BinaryIO) -> Iterator[Item | Broken]:
    with _open(stream) as archive:
        document = _xml(archive, "word/document.xml")
        if document is None:
            yield Broken("unreadable", "no word/document.xml")
            return
        styles, numbered = _styles(_xml(archive, "word/styles.xml")), _numbered(_xml(archive, "word/numbering.xml"))
        core = _xml(archive, "docProps/core.xml")
    body = document.find(f"{_W}body")
    blocks = [] if body is None else _blocks(body, styles, numbered)
    text = markdown.join(blocks)
    meta = {name: value for name, tag in (("title", "title"), ("author", "creator")) if (value := _find(core, tag))}
    yield Item(text, meta=meta) if text else Broken("no_text", "the document has no text")


def _blocks(body: Any, styles: dict[str, int], numbered: set[tuple[str, str]]) -> list[tuple[bool, str]]:
    """(is a list item, Markdown) of the paragraphs and tables of a body."""
    blocks: list[tuple[bool, str]] = []
    for element in body.iter(f"{_W}p", f"{_W}tbl"):
        if element.tag == f"{_W}tbl":
            if next(element.iterancestors(f"{_W}tbl"), None) is None:
                rows = [
                    [" ".join(_text(p) for p in cell.iter(f"{_W}p")) for cell in row.iterchildren(f"{_W}tc")]
                    for row in element.iterchildren(f"{_W}tr")
                ]
                blocks.append((False, markdown.table(rows)))
        elif next(element.iterancestors(f"{_W}tbl", f"{_W}p"), None) is None:
            blocks.append(_paragraph(element, styles, numbered))
    return [block for block in blocks if block[1]]


def _paragraph(element: Any, styles: dict[str, int], numbered: set[tuple[str, str]]) -> tuple[bool, str]:
    text = _text(element).strip()
    properties = element.find(f"{_W}pPr")
    if not text or properties is None:
        return False, text
    level = styles.get(_value(properties.find(f"{_W}pStyle")), 0)
    if level:
        return False, "#" * level + " " + " ".join(text.split())
    numbering = properties.find(f"{_W}numPr")
    if numbering is not None:
        number, depth = _value(numbering.find(f"{_W}numId")), _value(numbering.find(f"{_W}ilvl")) or "0"
        indent = "  " * min(int(depth), 8) if depth.isdigit() else ""
        return True, indent + ("1. " if (number, depth) in numbered else "- ") + text
    return False, text


def _text(paragraph: Any) -> str:
    """The text of a paragraph as it stands now: without deletions and field codes."""
    parts = []
    for element in paragraph.iter(f"{_W}t", f"{_W}tab", f"{_W}br", f"{_W}cr", f"{_W}noBreakHyphen"):
        if element.tag == f"{_W}t":
            parts.append(element.text or "")
        elif element.getparent().tag == f"{_W}r":  # a w:tab in the properties is a tab stop
            parts.append({"tab": "\t", "noBreakHyphen": "-"}.get(element.tag.removeprefix(_W), "\n"))
    return "".join(parts)


def _styles(tree: Any) -> dict[str, int]:
    """Style id -> level of heading."""
    found = {}
    for style in tree.iter(f"{_W}style") if tree is not None else ():
        name = _value(style.find(f"{_W}name")).lower()
        level = name.removeprefix("heading ").strip()
        if name == "title":
            found[style.get(f"{_W}styleId", "")] = 1
        elif name.startswith("heading ") and level in "123456":
            found[style.get(f"{_W}styleId", "")] = int(level)
    return found


def _numbered(tree: Any) -> set[tuple[str, str]]:
    """(list, depth) of the lists that count instead of having bullets."""
    if tree is None:
        return set()
    forms = {
        (abstract.get(f"{_W}abstractNumId"), level.get(f"{_W}ilvl")): _value(level.find(f"{_W}numFmt"))
        for abstract in tree.iter(f"{_W}abstractNum")
        for level in abstract.iter(f"{_W}lvl")
    }
    return {
        (number.get(f"{_W}numId", ""), depth or "")
        for number in tree.iterchildren(f"{_W}num")
        for (abstract, depth), form in forms.items()
        if abstract == _value(number.find(f"{_W}abstractNumId")) and form not in ("bullet", "none", "")
    }


# ---- books -----------------------------------------------------------------------------------------------------


def read_epub(stream: BinaryIO) -> Iterator[Item | Broken]:
    with _open(stream) as archive:
        container = _xml(archive, "META-INF/container.xml")
        roots = [] if container is None else container.xpath("//*[local-name()='rootfile']/@full-path")
        package = _xml(archive, roots[0]) if roots else None
        if package is None:
            yield Broken("unreadable", "no package document")
            return
        manifest = {item.get("id"): item for item in package.iter(f"{_OPF}item")}
        chapters: list[str] = []
        left = _MAX_PARTS
        for reference in package.iter(f"{_OPF}itemref"):
            item = manifest.get(reference.get("idref"))
            if item is None or reference.get("linear") == "no" or "nav" in (item.get("properties") or "").split():
                continue
            name = posixpath.normpath(posixpath.join(posixpath.dirname(roots[0]), unquote(item.get("href") or "")))
            data = _part(archive, name)
            if data is None:
                yield Broken("unreadable", "a chapter is missing", f"!{name}")
                continue
            left -= len(data)
            if left < 0:
                raise TooLargeError(f"more than {_MAX_PARTS} bytes of chapters")
            tree = markdown.parse_html(data)
            chapters.append("" if tree is None else markdown.from_html(tree))
    text = "\n\n".join(filter(None, chapters))
    meta: dict[str, Any] = {
        name: value
        for name, tag in (("title", "title"), ("author", "creator"), ("date", "date"))
        if (value := _find(package, tag))
    }
    yield Item(text, meta=meta | {"chapters": len(chapters)}) if text else Broken("no_text", "no chapter has text")


# ---- zip and XML -----------------------------------------------------------------------------------------------


def _open(stream: BinaryIO) -> zipfile.ZipFile:
    """The zip file in a stream. Raises OSError for what is none: a damaged file is counted, not fatal."""
    need("lxml", "html")
    try:
        return zipfile.ZipFile(stream if stream.seekable() else io.BytesIO(read_all(stream)))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise OSError(f"no zip file: {error}") from None


def _part(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """The bytes of a part, or None. Raises OSError when it is damaged, TooLargeError beyond the limit."""
    try:
        with archive.open(name) as part:
            return read_all(part, _MAX_PART)  # type: ignore[arg-type]
    except KeyError:
        return None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise OSError(f"{name}: {error}") from None


def _xml(archive: zipfile.ZipFile, name: str) -> Any:
    """The tree of a part, None when it is missing or broken. Entities and the network stay untouched."""
    from lxml import etree

    data = _part(archive, name)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
    try:
        return None if data is None else etree.fromstring(data, parser)
    except etree.LxmlError:
        return None


def _find(tree: Any, tag: str) -> str:
    element = None if tree is None else next(tree.iter(f"{_DC}{tag}"), None)
    return " ".join((element.text or "").split())[:300] if element is not None else ""


def _value(element: Any) -> str:
    return "" if element is None else element.get(f"{_W}val") or ""
