"""The frontier of a crawl: which addresses are known, which are done, and what became of them. One SQLite file.

    pages    url (canonical)  host  depth  state  tries  redirects  digest  note
    state    "waiting" -> "stored" | "duplicate" | "redirect" | a reason it was left out ("robots", "http_404", ...)

The frontier and the archive are changed in one order: a record is written and flushed to the disk, then the page is
marked and the length of the archive noted, in one transaction. After a kill -9 the archive is cut to the noted length,
so a page is either stored and marked or neither.

`canonical` makes addresses that mean the same equal, so that a page is fetched once.
"""

from __future__ import annotations

import posixpath
import re
import sqlite3
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

_TRACKING = re.compile(r"(?i)^(?:utm_\w+|fbclid|gclid|msclkid|spm|phpsessid|jsessionid|sessionid|sid)$")
_MAX_URL = 2_000


def canonical(url: str, base: str = "") -> str:
    """One spelling for an address, "" for what is no web page.

    >>> canonical("HTTP://Example.ORG:80/a/../%7Eb?utm_source=x&q=1#top")
    'http://example.org/~b?q=1'
    """
    try:
        parts = urlsplit(urljoin(base, url.strip()))
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host.encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except (ValueError, UnicodeError):
        return ""
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") or not host or parts.username is not None:
        return ""
    if ":" in host:
        host = f"[{host}]"
    netloc = host if port in (None, 80 if scheme == "http" else 443) else f"{host}:{port}"
    parts_of_path = [quote(unquote(part), safe="~!$&'()*+,;=:@-._") for part in parts.path.split("/")]  # %2F stays
    path = re.sub(r"/{2,}", "/", "/".join(parts_of_path))
    folder = path.endswith(("/", "/.", "/.."))
    path = posixpath.normpath(path or "/")
    path = path + "/" if folder and path != "/" else path
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query, True) if not _TRACKING.match(key)])
    found = urlunsplit((scheme, netloc, path, query, ""))
    return found if len(found) <= _MAX_URL else ""


def origin(url: str) -> str:
    """Scheme, host and port: what a robots.txt holds for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class Frontier:
    """The file at `path`, made if need be. Only one process may use it at a time."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(
            """
            CREATE TABLE IF NOT EXISTS pages (
                id INTEGER PRIMARY KEY, url TEXT UNIQUE, host TEXT, depth INTEGER, state TEXT, tries INTEGER DEFAULT 0,
                redirects INTEGER DEFAULT 0, digest TEXT, note TEXT DEFAULT '');
            CREATE INDEX IF NOT EXISTS by_state ON pages (state, host, depth, id);
            CREATE INDEX IF NOT EXISTS by_digest ON pages (digest);
            CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, body TEXT);
            CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER);
            """
        )

    def add(self, url: str, depth: int, redirects: int = 0) -> None:
        """Note an address; one that is known already stays as it is."""
        self._db.execute(
            "INSERT OR IGNORE INTO pages (url, host, depth, state, redirects) VALUES (?, ?, ?, 'waiting', ?)",
            (url, origin(url), depth, redirects),
        )

    def waiting_hosts(self) -> list[str]:
        rows = self._db.execute("SELECT DISTINCT host FROM pages WHERE state = 'waiting' ORDER BY host")
        return [str(row[0]) for row in rows]

    def next(self, host: str) -> tuple[str, int, int, int] | None:
        """(url, depth, tries, redirects) of the next page of a host: near the start first, then as they were found."""
        row = self._db.execute(
            "SELECT url, depth, tries, redirects FROM pages WHERE state = 'waiting' AND host = ? "
            "ORDER BY tries, depth, id LIMIT 1",
            (host,),
        ).fetchone()
        return None if row is None else (str(row[0]), int(row[1]), int(row[2]), int(row[3]))

    def failed(self, url: str) -> None:
        self._db.execute("UPDATE pages SET tries = tries + 1 WHERE url = ?", (url,))

    def finish(
        self, url: str, state: str, *, note: str = "", digest: str = "", archive_bytes: int | None = None,
        links: list[tuple[str, int, int]] | None = None,
    ) -> None:  # fmt: skip
        """Mark a page, note its links (url, depth, redirects) and the length of the archive: all or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "UPDATE pages SET state = ?, note = ?, digest = ? WHERE url = ?", (state, note[:500], digest or None, url)
        )
        for link, depth, redirects in links or ():
            self.add(link, depth, redirects)
        if archive_bytes is not None:
            self.set_number("archive_bytes", archive_bytes)
        self._db.execute("COMMIT")

    def has_digest(self, digest: str) -> bool:
        return self._db.execute("SELECT 1 FROM pages WHERE digest = ? LIMIT 1", (digest,)).fetchone() is not None

    def counts(self) -> dict[str, int]:
        rows = self._db.execute("SELECT state, COUNT(*) FROM pages GROUP BY state ORDER BY state")
        return {str(state): int(count) for state, count in rows}

    def samples(self, limit: int = 3) -> dict[str, list[str]]:
        """The first addresses of each state, with their notes."""
        found: dict[str, list[str]] = {}
        for state in self.counts():
            rows = self._db.execute("SELECT url, note FROM pages WHERE state = ? ORDER BY id LIMIT ?", (state, limit))
            found[state] = [f"{url} {note}".strip() for url, note in rows]
        return found

    def robots(self, at: str) -> str | None:
        row = self._db.execute("SELECT body FROM robots WHERE origin = ?", (at,)).fetchone()
        return None if row is None else str(row[0])

    def set_robots(self, at: str, body: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO robots VALUES (?, ?)", (at, body))

    def number(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def set_number(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (name, value))

    def close(self) -> None:
        self._db.close()
