"""html: crawled pages to text, danlu beside datatrove with trafilatura, on the same WARC, one process each.

Of some pages it is known what the text is and what is not (`files.pages`), so beside the speed stand

    found      share of the sentences of the main text that are in what was extracted
    repeated   share of them that are in it more than once
    noise      share of the menus, banners, advertisements and footers that are in it

Time is from the file to the last text: reading, decompressing, decoding, extracting. Both read the WARC with their own
reader; datatrove's extractor keeps its own defaults (trafilatura with favor_precision and deduplicate, in a process of
its own with a time-out of one second a page). The contestants take turns; the first turn is not counted.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from bench import contest
from bench.data_stages import DATATROVE, files, python_of

ENGLISH_PAGES = 80  # and half as many Chinese ones
WARC = files.STORE / "data" / "pages.warc.gz"


def html(rounds: int) -> dict[str, Any]:
    made = files.pages(ENGLISH_PAGES)
    files.write_warc(WARC, made)
    pythons = {"danlu": sys.executable, "datatrove": python_of("datatrove", DATATROVE)}
    contestants = {
        name: contest.Contestant(name, [python, "-m", f"bench.data_peers.{name}"]) for name, python in pythons.items()
    }
    runs: dict[str, list[float]] = {name: [] for name in contestants}
    quality: dict[str, Any] = {}
    try:
        for number in range(rounds + 1):
            for name, contestant in contestants.items():
                answer = contestant.ask(stage="html", path=str(WARC))
                if number:
                    runs[name].append(answer["seconds"])
                quality[name] = judge(answer["texts"], made)
    finally:
        for contestant in contestants.values():
            contestant.close()
    size = sum(len(page.html) for page in made)
    rows = []
    for name in contestants:
        rates = contest.spread([size / 1e6 / seconds for seconds in runs[name]])
        rows.append({"name": name, "mb_per_second": rates, **quality[name]})
        print(f"html {name:12} {rates['median']:6.2f} MB/s of HTML, {quality[name]}", flush=True)
    return {
        "what": "crawled pages (WARC) to text, one process each",
        "html_bytes": size,
        "html_pages": len(made),
        "packages": {
            "danlu": contest.versions(pythons["danlu"], ["trafilatura", "lxml", "fastwarc"]),
            "datatrove": contest.versions(pythons["datatrove"], ["datatrove", "trafilatura", "lxml", "warcio"]),
        },
        "rows": rows,
    }


def judge(texts: dict[str, str], made: list[files.Page]) -> dict[str, Any]:
    """What was found of what is known; spaces and the marks of Markdown aside."""
    bare = {page.url: _bare(texts.get(page.url) or "") for page in made}
    main = [bare[page.url].count(_bare(text)) for page in made for text in page.main]
    noise = [_bare(text) in bare[page.url] for page in made for text in page.noise]
    return {
        "pages": sum(bool(text) for text in texts.values()),
        "characters": sum(len(text) for text in texts.values()),
        "sentences": len(main),
        "found": sum(count > 0 for count in main) / len(main),
        "repeated": sum(count > 1 for count in main) / len(main),
        "noise": sum(noise) / len(noise),
    }


def _bare(text: str) -> str:
    return re.sub(r"[\s*_`#|\\-]+", "", text)
