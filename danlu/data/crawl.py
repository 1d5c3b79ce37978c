"""A polite crawler: stage `data.crawl`, from addresses somebody named to an archive of their pages (WARC).

    frontier (SQLite) --next page of a host that may be asked again--> fetch --> archive (WARC.gz) --> frontier
                                                                        |
                                                              links, redirects, robots.txt

It never leaves the hosts that were named, and keeps the rules of the house it visits:

- robots.txt is read first (RFC 9309): no answer (5xx, unreachable) means stay out, 4xx means come in; Crawl-delay
  holds;
- one request at a time, and between two requests to a host at least `delay` seconds;
- 429 and 503 are waited out (Retry-After), other failures tried again with growing pauses, `retries` times;
- `rel=nofollow` links and pages with "nofollow" are not followed; "noindex" pages are left out by the reader of the
  archive;
- it says who it is and, with `contact`, whom to write to.

Addresses are made canonical, so a page is fetched once; equal bodies are kept once. A killed crawl goes on where it
was: the frontier and the archive lie in the scratch directory, and the archive is cut to what the frontier knows of.

The artifact is of the kind "pages": crawl-00000.warc.gz, and report.json with what became of every address. It is no
corpus yet; `pages: $crawl` of `data.prepare` or `data.measure` reads it (extra `web`), as `source: PATH` does.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from danlu.core.artifact import write_json
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.sources import robots
from danlu.data.sources.archive import ArchiveWriter, digest
from danlu.data.sources.fetch import Answer, FetchError, fetch
from danlu.data.sources.frontier import Frontier, canonical, origin

AGENT = "danlu"  # the name that robots.txt files know us by
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_LINKS = 2_000  # of one page
_MAX_PAUSE = 600.0  # seconds; a host that asks for more is left for another day
_ARCHIVE = "crawl-00000.warc.gz"


class CrawlConfig(StageConfig):
    """Only `start` is needed."""

    start: list[str]
    """Where to begin: addresses of pages."""
    hosts: list[str] = []
    """Hosts that may be visited ("example.org", with a port where it is not the usual one); default: of `start`."""
    max_pages: Annotated[int, Field(ge=1)] = 1_000
    depth: Annotated[int, Field(ge=0)] = 3
    """Links followed from a start page; 0 takes the start pages alone."""
    delay: Annotated[float, Field(ge=0)] = 1.0
    """Seconds between two requests to a host; its Crawl-delay counts when it is longer."""
    contact: str = ""
    """An address (web or mail) that is sent along, for those who want to complain."""
    max_page_bytes: Annotated[int, Field(ge=1_000)] = 8 << 20
    content_types: list[str] = ["text/html", "application/xhtml+xml", "text/plain"]
    timeout: Annotated[float, Field(gt=0)] = 20.0
    retries: Annotated[int, Field(ge=0)] = 2
    allow_private_addresses: bool = False
    """Also visit addresses that are not public: this machine, the local network."""

    @field_validator("start")
    @classmethod
    def _pages(cls, value: list[str]) -> list[str]:
        for url in value:
            if not canonical(url):
                raise ValueError(f'"{url}" is no address of a web page; write https://HOST/PATH')
        if not value:
            raise ValueError("name at least one address")
        return value


@stage("data.crawl", makes="pages", version="1")
def crawl(config: CrawlConfig, run: StageRun) -> dict[str, Any]:
    """Fetch the pages of named hosts into an archive (WARC), politely."""
    frontier = Frontier(run.work / "frontier.sqlite")
    path = run.work / _ARCHIVE
    about = {
        "software": "danlu",
        "format": "WARC File Format 1.1",
        "robots": "obey",
        "http-header-user-agent": _agent(config),
    }
    try:
        for url in config.start:
            frontier.add(canonical(url), 0)
        with run.graceful(), ArchiveWriter(path, frontier.number("archive_bytes"), about) as archive:
            if not frontier.number("archive_bytes"):
                frontier.set_number("archive_bytes", archive.length)
            Crawler(config, run, frontier, archive).go()
        counts, samples = frontier.counts(), frontier.samples()
        requests = frontier.number("requests")
    finally:
        frontier.close()
    if not counts.get("stored"):
        raise UserError(f"no page could be fetched from {config.start[0]}", _first_reason(samples))
    shutil.copyfile(path, run.out / _ARCHIVE)
    write_json(run.out / "report.json", {"pages": counts, "samples": samples, "requests": requests})
    if counts.get("waiting"):
        run.events.emit("warning", message=f"{counts['waiting']} known pages were not visited: max_pages was reached")
    return {
        "pages": counts["stored"],
        "bytes": path.stat().st_size,
        "requests": requests,
        "left_out": _left_out(counts),
    }


class Crawler:
    """The loop: whose turn is it, what did it say, what follows from it."""

    def __init__(self, config: CrawlConfig, run: StageRun, frontier: Frontier, archive: ArchiveWriter) -> None:
        self.config, self.run, self.frontier, self.archive = config, run, frontier, archive
        named = {host.lower() for host in config.hosts} or {urlsplit(canonical(url)).netloc for url in config.start}
        self.hosts = named
        self._ready: dict[str, float] = {}  # origin -> when it may be asked again (monotonic seconds)
        self._rules: dict[str, robots.Robots | None] = {}

    def go(self) -> None:
        stored = self.frontier.counts().get("stored", 0)
        while stored < self.config.max_pages:
            hosts = self.frontier.waiting_hosts()
            if not hosts:
                break
            host = min(hosts, key=lambda host: (self._ready.get(host, 0.0), host))
            self._wait(self._ready.get(host, 0.0))
            rules = self._rules_of(host)
            found = self.frontier.next(host)
            assert found is not None
            url, depth, tries, redirects = found
            if rules is None:
                self.frontier.finish(url, "robots_unreachable")
            elif not rules.allows(url):
                self.frontier.finish(url, "robots")
            else:
                self._wait(self._ready.get(host, 0.0))
                stored += self._visit(url, depth, tries, redirects, max(self.config.delay, rules.delay))
            self.run.progress(stored, self.config.max_pages, "pages")

    def _visit(self, url: str, depth: int, tries: int, redirects: int, pause: float) -> int:
        """Fetch one page and note what became of it; returns 1 when it was stored."""
        at = origin(url)
        try:
            answer = self._fetch(url, tuple(self.config.content_types))
        except FetchError as error:
            self._ready[at] = time.monotonic() + pause
            self._failed(url, tries, error.reason, error.detail, error.again, pause)
            return 0
        self._ready[at] = time.monotonic() + pause
        if answer.status in _REDIRECTS:
            target = canonical(answer.header("Location"), url)
            follow = target and self._named(target) and redirects < _MAX_REDIRECTS
            links = [(target, depth, redirects + 1)] if follow else []
            self.frontier.finish(url, "redirect", note=f"-> {target or answer.header('Location')}", links=links)
        elif answer.status == 429 or answer.status >= 500:
            self._failed(url, tries, f"http_{answer.status}", "", True, max(pause, _retry_after(answer)))
        elif answer.status != 200:
            self.frontier.finish(url, f"http_{answer.status}")
        elif answer.body is None:
            self.frontier.finish(url, answer.refused, note=answer.header("Content-Type"))
        elif self.frontier.has_digest(digest(answer.body)):
            self.frontier.finish(url, "duplicate")
        else:
            links = [(link, depth + 1, 0) for link in self._links(answer)] if depth < self.config.depth else []
            length = self.archive.add(answer)
            self.frontier.finish(url, "stored", digest=digest(answer.body), archive_bytes=length, links=links)
            return 1
        return 0

    def _failed(self, url: str, tries: int, reason: str, detail: str, again: bool, pause: float) -> None:
        """Try again later, after twice the pause each time, or give up."""
        if again and tries < self.config.retries and pause <= _MAX_PAUSE:
            self.frontier.failed(url)
            self._ready[origin(url)] = time.monotonic() + min(_MAX_PAUSE, pause * 2**tries)
        else:
            self.frontier.finish(url, reason, note=detail)

    def _fetch(self, url: str, content_types: tuple[str, ...], max_bytes: int | None = None) -> Answer:
        self.frontier.set_number("requests", self.frontier.number("requests") + 1)
        return fetch(
            url,
            user_agent=_agent(self.config),
            content_types=content_types,
            max_bytes=max_bytes or self.config.max_page_bytes,
            timeout=self.config.timeout,
            allow_private=self.config.allow_private_addresses,
        )

    def _links(self, answer: Answer) -> Iterator[str]:
        """The canonical addresses that a page links to, on hosts that were named, each once."""
        seen = {answer.url}
        for link in page_links(answer):
            target = canonical(link, answer.url)
            if target and target not in seen and self._named(target):
                seen.add(target)
                yield target
                if len(seen) > _MAX_LINKS:
                    return

    def _named(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.netloc in self.hosts or (parts.port is None and parts.hostname in self.hosts)

    # ---- robots.txt and waiting --------------------------------------------------------------------------------

    def _rules_of(self, at: str) -> robots.Robots | None:
        """What robots.txt of an origin says; None when it cannot be had, which means to stay out."""
        if at not in self._rules:
            body = self.frontier.robots(at)
            if body is None:
                body = self._fetch_robots(at)
                self._ready[at] = max(self._ready.get(at, 0.0), time.monotonic() + self.config.delay)
                if body is not None:
                    self.frontier.set_robots(at, body)
            self._rules[at] = None if body is None else robots.parse(body, AGENT)
        return self._rules[at]

    def _fetch_robots(self, at: str) -> str | None:
        url = f"{at}/robots.txt"
        for tries in range(self.config.retries + 1):
            for _ in range(_MAX_REDIRECTS + 1):
                try:
                    answer = self._fetch(url, (), robots.MAX_BYTES)
                except FetchError as error:
                    if not error.again:
                        return None
                    break
                if answer.status in _REDIRECTS:
                    url = canonical(answer.header("Location"), url)
                    if not url or not self._named(url):
                        return ""
                elif answer.status == 200:
                    return (answer.body or b"").decode("utf-8", "replace")
                elif 400 <= answer.status < 500 and answer.status != 429:
                    return ""
                else:
                    break
            self._wait(time.monotonic() + self.config.delay * 2**tries)
        return None

    def _wait(self, until: float) -> None:
        """Sleep until then, in short naps, so that Ctrl-C is heard."""
        while True:
            if self.run.stop_requested:
                raise Interrupted("the crawl was stopped", "run again: it goes on where it was")
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.2))


def page_links(answer: Answer) -> Iterator[str]:
    """The addresses in the <a href> of a page, made whole; none where the page asks not to follow."""
    if answer.header("Content-Type").partition(";")[0].strip().lower() == "text/plain":
        return
    from danlu.data.formats.html import parse_page

    tree = parse_page(answer.body or b"", answer.header("Content-Type"))
    if tree is None:
        return
    said = [answer.header("X-Robots-Tag"), *(
        meta.get("content") or "" for meta in tree.iter("meta") if (meta.get("name") or "").strip().lower() == "robots"
    )]  # fmt: skip
    if {"nofollow", "none"} & {word.strip().lower() for text in said for word in text.split(",")}:
        return
    base = next((element.get("href") for element in tree.iter("base") if element.get("href")), "")
    for element in tree.iter("a", "area"):
        href = element.get("href")
        if href and "nofollow" not in (element.get("rel") or "").lower().split():
            yield canonical(href, canonical(base, answer.url) or answer.url)


def _agent(config: CrawlConfig) -> str:
    from danlu.core.run import danlu_version

    return f"{AGENT}/{danlu_version()}" + (f" (+{config.contact})" if config.contact else "")


def _retry_after(answer: Answer) -> float:
    """Seconds that a busy server asks for, 0 when it does not say."""
    value = answer.header("Retry-After").strip()
    if re.fullmatch(r"\d{1,6}", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _left_out(counts: dict[str, int]) -> int:
    return sum(count for state, count in counts.items() if state not in ("stored", "waiting"))


def _first_reason(samples: dict[str, list[str]]) -> str:
    return next((f"{state}: {found[0]}" for state, found in samples.items() if found), "nothing was tried")
