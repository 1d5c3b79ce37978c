"""URLs: when two addresses are one page.

    HTTP://www.Example.com:80/a/?utm_source=x&b=2&a=1#top   ->   example.com/a?a=1&b=2

Written alike are: http and https, the name with and without "www.", upper and lower case of the name, a name in its
own script and in Punycode, the default port, an empty path and a slash at the end, letters and their percent escapes,
the order of parameters; and what only says where a reader came from is left out: fragments and the parameters of
advertisers and share buttons (RFC 3986, section 6, says which of these are safe; the rest are customs of the web). A
fragment that begins with "!" or "/" is the page itself in applications of one page, and is kept.

This is for comparing only: it is no address to fetch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.exact import hash_rows

TRACKING = re.compile(
    r"utm_\w+|hm[a-z]+_?\w*src|gclid|dclid|gbraid|wbraid|fbclid|msclkid|yclid|twclid|igshid|mc_[ce]id|_ga|_gl|_hs\w+"
    r"|mkt_tok|spm|scm|share_(?:token|source|from|medium|plat|tag|session_id|times)|from_source|vd_source|weibo_id"
    r"|isappinstalled|nsukey|bd_vid|sessionid|jsessionid|phpsessid"
)
_PORTS = {"http": 80, "https": 443, "ftp": 21, "": None}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME, _IPV6 = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"), re.compile(r"[0-9a-f:.]+")
_KEPT = "/:@!$&'()*+,;=~-._"  # characters of a path that need no escape


def normalise_url(url: str) -> str:
    """One spelling for all addresses of a page; "" for what has no host. Never raises.

    >>> normalise_url("https://www.例子.com/路径/?spm=1&q=丹炉")
    'xn--fsqu00a.com/%E8%B7%AF%E5%BE%84?q=%E4%B8%B9%E7%82%89'
    """
    url = "".join(url.split())
    if url.startswith("//"):
        url = "http:" + url
    elif not _SCHEME.match(url):
        url = "http://" + url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = _host(parts.hostname or "")
    if not host:
        return ""
    scheme = parts.scheme.lower()
    if port is not None and port != _PORTS.get(scheme):
        host += f":{port}"
    path = _escape(parts.path, _KEPT)
    path = re.sub(r"/{2,}", "/", path).rstrip("/")
    pairs = parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")
    kept = sorted((name, value) for name, value in pairs if not TRACKING.fullmatch(name.lower()))
    query = "?" + urlencode(kept, errors="surrogateescape") if kept else ""
    fragment = "#" + _escape(parts.fragment, _KEPT + "?#") if parts.fragment[:1] in ("!", "/") else ""
    prefix = "" if scheme in ("http", "https") else scheme + "://"
    return prefix + host + path + query + fragment


def url_hashes(urls: Iterable[str]) -> NDArray[np.uint32]:
    """uint32 [D, 4] for `exact.equal_documents`. A document without a URL (or with none that can be read) is like
    no other: its row is zero."""
    return hash_rows(normalise_url(url) or None for url in urls)


def _host(name: str) -> str:
    """The name in one spelling; "" for what can be none."""
    name = name.strip(".").lower()
    if ":" in name:  # an address of IPv6
        return f"[{name}]" if _IPV6.fullmatch(name) else ""
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii").lower().strip(".")
        except UnicodeError:
            return ""
    if name.startswith("www.") and "." in name[4:]:
        name = name[4:]
    return name if _NAME.fullmatch(name) else ""


def _escape(text: str, plain: str) -> str:
    """Percent escapes in one spelling: none where a character needs none, else upper case over UTF-8.

    An escape whose character would mean something else when written plainly (%2F, %3F, %23, %25) stays one.
    """
    out = []
    for escape, character in _ESCAPE.findall(text):
        byte = chr(int(escape, 16)) if escape else ""
        if escape:
            out.append(byte if byte.isascii() and _plain(byte, plain) and byte not in "/?#%" else "%" + escape.upper())
        elif character.isascii() and _plain(character, plain):
            out.append(character)
        else:
            out += [f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass")]
    return "".join(out)


def _plain(character: str, plain: str) -> bool:
    return character.isalnum() or character in plain


_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
