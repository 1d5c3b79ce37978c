"""The crawler against servers on this machine: what it fetches, what it leaves alone, how it survives a kill."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import UserError
from danlu.core.run import run_stage
from danlu.core.stage import StageRun
from danlu.core.store import Store
from danlu.data.crawl import CrawlConfig, crawl
from danlu.data.formats.extract import Broken, Item, extract
from danlu.data.sources.find import find_files

TEXT = "数据比结构更重要，先把网页里的正文取出来，再去掉导航和广告，然后才谈得上训练。" * 3


@dataclass
class Site:
    """Pages of a server: path -> (status, headers, body); and what was asked of it, with times."""

    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, float, str]] = field(default_factory=list)
    once: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # answers given the first time only
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self, path: str, *links: str, text: str = "", head: str = "", **headers: str) -> None:
        anchors = "".join(f'<a href="{link}">link</a> ' for link in links)
        body = f"<html><head><title>{path}</title>{head}</head><body><article><p>{path} {text or TEXT}</p></article>"
        self.pages[path] = (200, {"Content-Type": "text/html; charset=utf-8", **headers}, f"{body}{anchors}".encode())

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


@contextmanager
def served(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, time.monotonic(), self.headers["User-Agent"]))
            if self.path in site.once:
                status, headers = site.once.pop(self.path)
                body = b"later"
            else:
                status, headers, body = site.pages.get(self.path, (404, {}, b"not here"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _crawl(folder: Path, site: Site, **options: Any) -> tuple[dict[str, Any], list[Item | Broken]]:
    config = CrawlConfig(**{"start": [site.url + "/"], "delay": 0.0, "allow_private_addresses": True, **options})
    run = StageRun.for_test(folder)
    metrics = crawl(config, run)
    items = [item for file in find_files(str(run.out)) if "warc" in file.name for item in file.read()]
    return metrics, items


def _urls(items: list[Item | Broken], site: Site) -> set[str]:
    return {str(item.meta["url"]).removeprefix(site.url) for item in items if isinstance(item, Item)}


def test_links_are_followed_within_the_site_and_its_rules(tmp_path: Path) -> None:
    site = Site()
    site.pages["/robots.txt"] = (200, {}, b"User-agent: danlu\nDisallow: /private\nAllow: /private/open$\n")
    site.page("/", "/a?utm_source=x", "a#part", "/b", "/private/x", "/private/open", "/moved", "/gone", "/big",
              "/i.png", "http://elsewhere.invalid/", "mailto:x@y.z", "/quiet", "/copy")  # fmt: skip
    for path in ("/a", "/deep", "/private/x", "/private/open", "/quiet-link", "/target"):
        site.page(path)
    site.page("/b", "/deep")
    site.page("/quiet", "/quiet-link", head='<meta name="robots" content="nofollow">')
    site.pages["/copy"] = site.pages["/a"]
    site.pages["/moved"] = (302, {"Location": "/target"}, b"")
    site.pages["/big"] = (200, {"Content-Type": "text/html"}, b"x" * 50_000)
    site.pages["/i.png"] = (200, {"Content-Type": "image/png"}, b"png")
    with served(site):
        metrics, items = _crawl(tmp_path, site, max_page_bytes=20_000)
    assert _urls(items, site) == {"/", "/a", "/b", "/deep", "/private/open", "/quiet", "/target"}
    assert metrics["pages"] == 7 and metrics["left_out"] == 6
    assert "/private/x" not in site.paths() and "/quiet-link" not in site.paths()
    assert len(site.paths()) == len(set(site.paths())), "a page was asked for twice"
    assert {agent for _, _, agent in site.asked} == {agent for _, _, agent in site.asked if agent.startswith("danlu/")}
    report = (tmp_path / "out" / "report.json").read_text()
    for reason in ("duplicate", "robots", "http_404", "too_large", "content_type", "redirect"):
        assert f'"{reason}": 1' in report, reason


def test_depth_and_number_of_pages_are_bounded(tmp_path: Path) -> None:
    site = Site()
    for i in range(20):
        site.page("/" if i == 0 else f"/{i}", f"/{i + 1}")
    with served(site):
        _, items = _crawl(tmp_path / "depth", site, depth=2)
        assert _urls(items, site) == {"/", "/1", "/2"}
        metrics, _ = _crawl(tmp_path / "pages", site, depth=50, max_pages=4)
        assert metrics["pages"] == 4


def test_the_pause_between_requests_is_kept(tmp_path: Path) -> None:
    site = Site()
    site.pages["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 0.3\n")
    site.page("/", "/a", "/b")
    site.page("/a")
    site.page("/b")
    with served(site):
        _crawl(tmp_path, site, delay=0.1)
    times = [when for path, when, _ in site.asked if path != "/robots.txt"]
    assert len(times) == 3 and all(later - earlier >= 0.29 for earlier, later in itertools.pairwise(times))


def test_a_busy_server_is_asked_again_and_a_broken_one_given_up(tmp_path: Path) -> None:
    site = Site()
    site.page("/", "/busy", "/broken")
    site.page("/busy")
    site.once["/busy"] = (503, {"Retry-After": "1"})
    site.pages["/broken"] = (500, {}, b"")
    with served(site):
        _, items = _crawl(tmp_path, site, retries=1)
    assert _urls(items, site) == {"/", "/busy"}
    assert site.paths().count("/busy") == 2 and site.paths().count("/broken") == 2
    first, second = [when for path, when, _ in site.asked if path == "/busy"]
    assert second - first >= 0.99


def test_without_robots_txt_for_a_reason_of_the_server_nothing_is_fetched(tmp_path: Path) -> None:
    site = Site()
    site.page("/")
    site.pages["/robots.txt"] = (500, {}, b"")
    with served(site), pytest.raises(UserError, match="robots_unreachable"):
        _crawl(tmp_path, site, retries=0)
    assert "/" not in site.paths()


def test_private_addresses_are_refused_unless_asked_for(tmp_path: Path) -> None:
    site = Site()
    site.page("/")
    with served(site), pytest.raises(UserError):
        _crawl(tmp_path, site, allow_private_addresses=False)
    assert site.asked == []


@pytest.mark.parametrize("start", [["ftp://x/y"], ["example"], []])
def test_mistakes_are_told(start: list[str]) -> None:
    with pytest.raises(ValueError, match=r"address"):
        CrawlConfig(start=start)


KILLED = """
import sys
from pathlib import Path
from danlu.core.stage import StageRun
from danlu.core.store import Store
from danlu.data.crawl import CrawlConfig, crawl
config = CrawlConfig(start=[sys.argv[2]], delay=0.0, depth=100, allow_private_addresses=True)
crawl(config, StageRun.for_test(Path(sys.argv[1])))
"""


def test_a_killed_crawl_goes_on_where_it_was(tmp_path: Path) -> None:
    site = Site()
    for i in range(30):
        site.page("/" if i == 0 else f"/{i}", f"/{i + 1}", f"/{i + 2}")
    with served(site):
        for number in range(2):
            seen = len(site.asked)
            process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), site.url + "/"])
            deadline = time.monotonic() + 30
            while len(site.asked) < seen + 6 and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with (tmp_path / "work" / "crawl-00000.warc.gz").open("ab") as torn:
                torn.write(b"\x1f\x8b\x08half a record"[: 5 + number])
        metrics, items = _crawl(tmp_path, site, depth=100)
    assert not [item for item in items if isinstance(item, Broken) and item.reason == "unreadable"]
    urls = [str(item.meta["url"]) for item in items if isinstance(item, Item)]
    assert len(urls) == len(set(urls)) == metrics["pages"] == 30
    assert len([path for path in site.paths() if path != "/robots.txt"]) <= 30 + 3 + 2, "a kill costs one page at most"


def test_the_archive_is_a_warc_that_others_read(tmp_path: Path) -> None:
    from fastwarc.warc import ArchiveIterator

    site = Site()
    site.page("/", **{"X-Robots-Tag": "noindex"})
    with served(site):
        _, items = _crawl(tmp_path, site)
    assert [item.reason for item in items if isinstance(item, Broken)] == ["robots"]
    with (tmp_path / "out" / "crawl-00000.warc.gz").open("rb") as stream:
        records = list(ArchiveIterator(stream, verify_digests=True))
    assert [str(record.record_type) for record in records] == ["warcinfo", "response"]
    assert list(extract(tmp_path / "out" / "crawl-00000.warc.gz")) == items


def test_pages_are_read_by_prepare_and_refused_by_who_needs_a_corpus(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    site = Site()
    for i in range(4):
        site.page("/" if i == 0 else f"/{i}", f"/{i + 1}")
    with served(site):
        start = [site.url + "/"]
        pages = run_stage("data.crawl", {"start": start, "delay": 0.0, "allow_private_addresses": True}, store)
    assert pages.kind == "pages" and pages.path == store.path(pages.id) and [m.id for m in store.manifests("pages")]
    measured = run_stage("data.measure", {"pages": pages.id}, store)
    assert measured.manifest.metrics == measured.manifest.metrics | {"texts": 4, "files": 1}  # no report, no manifest
    with pytest.raises(UserError, match="is a pages, and a corpus is needed"):
        run_stage("data.augment", {"corpus": pages.id}, store)
