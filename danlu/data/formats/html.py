"""Web pages: the main text as Markdown, without menus, banners and advertisements.

    bytes --charset--> text --lxml, once--> tree --robots? any text at all?--> trafilatura on the tree --> Markdown

The extraction itself is trafilatura's, which is the measure of the field. What makes it fast here: the page is parsed
once and the tree handed over; scripts and styles are cut out of it in C before anything walks over it; trafilatura runs
without its two rival extractors (readability and justext), which cost more than half of its time and seldom change
the outcome, and they are asked only about pages where it found little of what is there (`_POOR`); title and date are
read from the head instead of by its metadata search; and there is no second process to copy pages to and from. A page
is bounded by its size and depth, so whether it is read does not depend on the speed of the machine; a stop watch
(`_SECONDS`, main thread only) stands behind that for what the bounds do not foresee.

Charsets: byte order mark, then valid UTF-8, then the HTTP header, then <meta charset>, then guessed from the content.

Robots: a page may say in <meta name="robots"> or in the header X-Robots-Tag that it is not to be collected. `noai`,
`noimageai`-like opt-outs and `tdm-reservation: 1` (W3C TDMRep) hold for every page; `noindex` and `none` hold for
pages a crawler brought (WARC), not for somebody's own files.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from danlu.core.errors import need
from danlu.data.formats.encodings import UnreadableError, decode_labelled
from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.streams import read_all

MAX_PAGE = 8 << 20  # bytes; larger pages are data dumps and take minutes
_MAX_ELEMENTS = 200_000
_SECONDS = 60
_MIN_TEXT = 25  # characters of text below which no page has a main text
_POOR = 0.15  # share of the page's text; an extraction below it is tried again with everything there is
_POOR_PAGE = 600  # ... if the page has so many characters at all

_META_CHARSET = re.compile(rb"""(?i)<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{2,40})""")
_XML_CHARSET = re.compile(rb"""^\s*<\?xml[^>]{0,100}encoding\s*=\s*["']([\w.:-]{2,40})""")
_OPT_OUT = frozenset({"noai", "noimageai", "noml"})
_NO_INDEX = frozenset({"noindex", "none"})
_INVISIBLE = re.compile(r"display:none|visibility:hidden|font-size:0(?:px|em|pt|%|;|$)|opacity:0(?:\.0+)?(?:;|$)")
# What trafilatura escapes, with the backslashes before it. Code is left out of it: there they are the text.
_CODE = re.compile(r"(```.*?```|(?<![\\`])`[^`\n]+`)", re.DOTALL)
_ESCAPED = re.compile(r"(\\+)([*_`~\[\]])")
_NO_TEXT_TAGS = ("style", "noscript", "template", "svg", "iframe", "canvas")
_NAME_PARTS = re.compile("[a-z]+")
_MENU_NAMES = frozenset({"nav", "navbar", "navigation", "menu", "breadcrumb", "breadcrumbs", "sitemap", "topbar"})
_NOISE_NAMES = frozenset(
    [
        "ad",
        "ads",
        "advert",
        "adverts",
        "advertisement",
        "advertising",
        "adsense",
        "adsbygoogle",
        "banner",
        "cookie",
        "cookies",
        "consent",
        "gdpr",
        "popup",
        "newsletter",
        "subscribe",
        "promo",
        "sponsored",
        "paywall",
    ]
)
_INLINE_TAGS = ("span", "font", "wbr", "bdi", "bdo", "small", "big")  # half of all elements; the text stays
_DATES = ("article:published_time", "date", "dc.date", "pubdate", "publishdate", "datepublished")


def read_html(stream: BinaryIO) -> Iterator[Item | Broken]:
    yield read_page(read_all(stream))


def read_page(
    data: bytes,
    *,
    charset: str = "",
    robots_header: str = "",
    crawled: bool = False,
    place: str = "",
    meta: Mapping[str, Any] | None = None,
) -> Item | Broken:
    """The main text of one page, or why there is none.

    charset         what the HTTP header says, if anything
    robots_header   the value of X-Robots-Tag
    crawled         whether a crawler brought it, so that noindex counts
    """
    need("trafilatura", "html")
    if len(data) > MAX_PAGE:
        return Broken("too_large", f"a page of {len(data)} bytes", place)
    try:
        page, encoding = decode_labelled(data, charset or _declared(data))
    except UnreadableError as error:
        return Broken("encoding", str(error), place)
    tree = _parse(page)
    if tree is None:
        return Broken("no_main_text", "the page has no elements", place, page[:EXCERPT])
    head = _head(tree)
    said = _robots(robots_header, head, crawled)
    if said:
        return Broken("robots", said, place)
    elements = int(tree.xpath("count(//*)"))
    if elements > _MAX_ELEMENTS:
        return Broken("too_large", f"a page of {elements} elements", place)
    try:
        with _stop_watch():
            text = _main_text(tree, page)
    except TimeoutError:
        return Broken("timeout", f"no main text after {_SECONDS} s", place)
    except Exception as error:  # whatever a broken page does to the extractor costs that page alone
        return Broken("unreadable", f"{type(error).__name__}: {error}"[:EXCERPT], place, page[:EXCERPT])
    if not text:
        return Broken("no_main_text", "the page has no main text", place, page[:EXCERPT])
    found = {
        **(meta or {}),
        **({"title": head["title"]} if head.get("title") else {}),
        **({"encoding": encoding} if encoding not in ("utf-8", "utf-8-sig") else {}),
    }
    date = next((head[name] for name in _DATES if head.get(name)), "")
    if date and "date" not in found:
        found["date"] = date[:40]
    return Item(text, place, meta=found)


def parse_page(data: bytes, content_type: str = "") -> Any:
    """The tree of a page as `read_page` sees it, for those who want its links; None when there is nothing in it."""
    need("lxml", "html")
    declared = re.search(r"charset=[\"']?([\w.:-]+)", content_type, re.I)
    try:
        page, _ = decode_labelled(data, declared[1] if declared else _declared(data))
    except UnreadableError:
        return None
    return _parse(page, invisible=True)


def _declared(data: bytes) -> str:
    """The encoding that the page itself names in its first bytes, or ""."""
    head = data[:4096]
    found = _META_CHARSET.search(head) or _XML_CHARSET.search(head)
    name = found[1].decode("ascii") if found else ""
    return "" if name.lower().startswith(("utf-16", "utf-32")) else name  # it could be read as ASCII: it is not


def _parse(page: str, invisible: bool = False) -> Any:
    """The tree of a page, without comments and what never holds text; None when there is no element.

    `invisible` keeps what a style hides: links of menus that open when they are pointed at.
    """
    from lxml import etree, html

    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False)
    data = page.replace("\0", "").encode("utf-8", "replace")
    try:
        tree = html.document_fromstring(data, parser=parser)
    except (etree.LxmlError, ValueError, AssertionError):  # empty or nothing but comments
        return None
    for script in list(tree.iter("script")):
        if "json" not in (script.get("type") or ""):  # linked data says what kind of page it is
            script.text = None
    etree.strip_elements(tree, *_NO_TEXT_TAGS, with_tail=False)
    if not invisible:
        _drop_invisible(tree)
    etree.strip_tags(tree, *_INLINE_TAGS)
    return tree


def _head(tree: Any) -> dict[str, str]:
    """Title and <meta> of a page by lower-cased name; several of a name are joined by commas."""
    found: dict[str, str] = {}
    for element in tree.iter("meta"):
        name = (element.get("name") or element.get("property") or element.get("http-equiv") or "").strip().lower()
        content = (element.get("content") or "").strip()
        if name and content:
            found[name] = f"{found[name]},{content}" if name in found and name != "title" else content
    title = found.get("og:title") or tree.findtext(".//title") or ""
    found["title"] = " ".join(title.split())[:300]
    return found


def _robots(header: str, head: Mapping[str, str], crawled: bool) -> str:
    """What forbids to collect the page, or ""."""
    refused = _OPT_OUT | _NO_INDEX if crawled else _OPT_OUT
    for origin, value in (("X-Robots-Tag", header), ("meta robots", head.get("robots", ""))):
        words = {word.strip().lower() for word in re.split(r"[,;\n]", value)}  # "googlebot: noindex" is for that one
        if words & refused:
            return f"{origin}: {', '.join(sorted(words & refused))}"
    return "tdm-reservation" if head.get("tdm-reservation") == "1" else ""


def _drop_invisible(tree: Any) -> None:
    """Drop what no reader of the page sees: orders to machines are hidden there, and keywords for search engines.

    Scripts show and hide parts of honest pages too; what holds most of the text stays.
    """
    styled = tree.xpath("//body//*[@hidden or @style]")
    hidden = [
        element
        for element in styled
        if element.get("hidden") is not None or _INVISIBLE.search("".join((element.get("style") or "").lower().split()))
    ]
    most = 0.5 * len(tree.text_content()) if hidden else 0
    for element in hidden:
        if element.getparent() is not None and len(element.text_content()) < most:
            element.drop_tree()


def _unescaped(text: str) -> str:
    """Markdown without the escapes that a reader of plain text would stumble over: "API\\_KEY", "a\\[0\\]".

    They also hide addresses and keys from every search for them.
    """
    if "\\" not in text:
        return text
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = _ESCAPED.sub(lambda match: "\\" * ((len(match[1]) - 1) // 2) + match[2], parts[i])
    return "".join(parts)


def _prune(tree: Any, visible: int) -> None:
    """Drop what is noise by its own name, and turn tables that only lay out the page into plain blocks.

    trafilatura does the first by patterns too, but forgives much in short pages, and a page of Chinese is short: it
    says in 200 characters what takes 600 in English. An element that holds most of the page is never dropped.
    """
    for element in list(tree.iter("nav", "div", "section", "aside", "ul", "ins", "footer", "header", "table", "p")):
        tag = element.tag
        names = set(_NAME_PARTS.findall(f"{element.get('id') or ''} {element.get('class') or ''}".lower()))
        if tag == "nav" or element.get("role") == "navigation" or names & _MENU_NAMES:
            text = element.text_content()
            linked = sum(len(link.text_content()) for link in element.iter("a"))
            noise = linked >= 0.6 * len("".join(text.split())) and len(text) < 0.5 * visible
        elif names & _NOISE_NAMES:
            noise = len(element.text_content()) < 0.25 * visible
        else:
            noise = False
        if noise and element.getparent() is not None:
            element.drop_tree()
        elif tag == "table" and next(element.iter("th", "caption"), None) is None and _lays_out(element):
            for part in list(element.iter("table", "tbody", "tr", "td")):
                part.tag = "div"


def _lays_out(table: Any) -> bool:
    return any(next(cell.iter("p", "div", "h1", "h2", "ul", "table"), None) is not None for cell in table.iter("td"))


def _main_text(tree: Any, page: str) -> str:
    import trafilatura

    visible = len(" ".join(" ".join(tree.itertext()).split()))
    if visible < _MIN_TEXT:
        return ""
    _prune(tree, visible)
    options: dict[str, Any] = {"output_format": "markdown", "include_comments": False, "deduplicate": False}
    text = trafilatura.extract(tree, fast=True, **options) or ""
    if visible >= _POOR_PAGE and len(text) < _POOR * visible:
        text = max(text, trafilatura.extract(_parse(page), **options) or "", key=len)
    return _unescaped(str(text))


@contextmanager
def _stop_watch() -> Iterator[None]:
    """TimeoutError after `_SECONDS`, in the main thread of a process; elsewhere nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
