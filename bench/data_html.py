"""Crawled pages to text: danlu beside datatrove with trafilatura, on the same WARC, one process each.

    python bench/data_html.py             some 130 pages: manuals in English and Chinese, and planted ones
    python bench/data_html.py --pages 300 --rounds 3

The WARC is made here: pages of Debian's python3-doc and linux-doc as they are; Chinese manual pages (manpages-zh) set
as pages of a web site with menu, cookie banner, advertisement and footer; and the planted pages of the tests. Of the
last two kinds it is known what the text is and what is not, so beside the speed stand

    found      share of the sentences of the main text that are in what was extracted
    repeated   share of them that are in it more than once
    noise      share of the menus, banners, advertisements and footers that are in it

Time is from the file to the last text: reading, decompressing, decoding, extracting. Both read the WARC with their own
reader; datatrove's extractor keeps its own defaults (trafilatura with favor_precision and deduplicate, in a process of
its own with a time-out of one second a page). The contestants take turns; the first turn is not counted.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import html
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the root of the repository, for `bench`

from bench import contest

DATA = contest.HERE / ".envs" / "data"
PACKAGES = ("python3.11-doc", "linux-doc-6.1", "manpages-zh")
REQUIREMENTS = ["datatrove[processing,io]==0.10.1", "lxml_html_clean", "warcio", "faust-cchardet", "python-magic"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=80, help="pages of English manuals; half as many Chinese ones")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        contest.serve(WORKERS[args.worker])
        return
    known, size = make_warc(DATA / "pages.warc.gz", args.pages)
    peer = contest.environment("datatrove", REQUIREMENTS)
    commands = {"danlu": sys.executable, "datatrove": peer}
    contestants = {
        name: contest.Contestant(name, [python, __file__, "--worker", name]) for name, python in commands.items()
    }
    runs: dict[str, list[float]] = {name: [] for name in contestants}
    quality: dict[str, Any] = {}
    try:
        for number in range(args.rounds + 1):
            for name, contestant in contestants.items():
                answer = contestant.ask(path=str(DATA / "pages.warc.gz"))
                if number:
                    runs[name].append(answer["seconds"])
                quality[name] = judge(answer["texts"], known)
    finally:
        for contestant in contestants.values():
            contestant.close()
    rows = [
        {
            "name": name,
            "seconds": contest.spread(runs[name]),
            "mb_per_second": size / 1e6 / contest.spread(runs[name])["median"],
        }
        | quality[name]
        for name in contestants
    ]
    for row in rows:
        print(
            f"{row['name']:<10} {row['seconds']['median']:6.2f} s  {row['mb_per_second']:5.2f} MB/s of HTML  "
            f"{row['pages']} pages with text, {row['characters']:,} characters; found {row['found']:.1%}, "
            f"repeated {row['repeated']:.1%}, noise {row['noise']:.1%}"
        )
    result = {
        "what": "crawled pages (WARC) to text, one process each",
        "rounds": args.rounds,
        "html_bytes": size,
        "packages": contest.versions(peer, ["datatrove", "trafilatura", "lxml"]),
        "own_packages": contest.versions(sys.executable, ["trafilatura", "lxml", "fastwarc"]),
        "faster": rows[1]["seconds"]["median"] / rows[0]["seconds"]["median"],
        "rows": rows,
    }
    print("wrote", contest.write_result("data_html", result))


# ---- the contestants -------------------------------------------------------------------------------------------


def danlu_worker(request: dict[str, Any]) -> dict[str, Any]:
    from danlu.data.formats.extract import Item, extract

    begin = time.perf_counter()
    texts = {item.meta["url"]: item.text for item in extract(request["path"]) if isinstance(item, Item)}
    return {"seconds": time.perf_counter() - begin, "texts": texts}


def datatrove_worker(request: dict[str, Any]) -> dict[str, Any]:
    from datatrove.pipeline.extractors import Trafilatura  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import WarcReader  # type: ignore[import-not-found]

    path = Path(request["path"])
    begin = time.perf_counter()
    pages = WarcReader(str(path.parent), glob_pattern=path.name)(None)
    texts = {document.metadata["url"]: document.text for document in Trafilatura()(pages)}
    return {"seconds": time.perf_counter() - begin, "texts": texts}


WORKERS = {"danlu": danlu_worker, "datatrove": datatrove_worker}


# ---- the pages -------------------------------------------------------------------------------------------------


def make_warc(path: Path, count: int) -> tuple[dict[str, tuple[list[str], list[str]]], int]:
    """Write the WARC; returns {url: (main sentences, noise)} of the pages that are known, and the bytes of HTML."""
    from tests.data.formats.pages import planted
    from tests.data.formats.warcs import record

    path.parent.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (DATA / package).is_dir():
            subprocess.run(["apt-get", "download", "-qq", package], cwd=DATA, check=True)
            (archive,) = DATA.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, DATA / package], check=True)
    draw = random.Random(0)
    pages: list[tuple[str, bytes]] = []
    for package in PACKAGES[:2]:
        found = sorted(glob.glob(f"{DATA}/{package}/usr/share/doc/**/*.html", recursive=True))
        for name in draw.sample(found, count // 2):
            pages.append((f"https://{package}.test/{len(pages)}", Path(name).read_bytes()))
    known: dict[str, tuple[list[str], list[str]]] = {}
    manuals = sorted(glob.glob(f"{DATA}/manpages-zh/usr/share/man/zh_CN/man*/*.gz"))
    for name in draw.sample(manuals, min(len(manuals), count // 2)):
        url = f"https://manual.test/{len(pages)}"
        page, known[url] = manual_page(gzip.decompress(Path(name).read_bytes()).decode("utf-8", "replace"))
        pages.append((url, page))
    for number, planted_page in enumerate(planted()):
        url = f"https://planted.test/{number}"
        known[url] = planted_page.main, planted_page.noise
        pages.append((url, planted_page.html.encode()))
    draw.shuffle(pages)
    path.write_bytes(b"".join(gzip.compress(record(url, page)) for url, page in pages))
    return known, sum(len(page) for _, page in pages)


def manual_page(source: str) -> tuple[bytes, tuple[list[str], list[str]]]:
    """A Chinese manual page as a page of a web site: headings and paragraphs between a menu and a footer."""
    from tests.data.formats.pages import NOISE_ZH

    source = re.sub(r"\\f[A-Z]|\\f\(..|\\[,/&|^]|\\s[-+]?\d", "", source.replace("\\-", "-").replace("\\(bu", "-"))
    body, main, paragraph = [], [], []
    for line in [*source.splitlines(), ".PP"]:
        if line.startswith((".", "'")):
            name, _, rest = line.partition(" ")
            if name in (".B", ".I", ".BR", ".IR"):
                paragraph.append(rest.replace('"', ""))
                continue
            if paragraph:
                text = (
                    "".join(paragraph) if any("\u4e00" <= c <= "\u9fff" for c in paragraph[0]) else " ".join(paragraph)
                )
                body.append(f"<p>{html.escape(text)}</p>")
                main += [text] if len(text) >= 20 else []
                paragraph = []
            if name in (".SH", ".SS") and rest:
                body.append(f"<h2>{html.escape(rest.strip(chr(34)))}</h2>")
        elif line.strip():
            paragraph.append(line.strip())
    menu = "".join(f'<li><a href="/{i}">{word}</a></li>' for i, word in enumerate(NOISE_ZH["menu"].split()))
    page = (
        f'<html lang="zh"><head><meta charset="utf-8"><title>手册</title></head><body>'
        f'<div class="nav"><ul>{menu}</ul></div>'
        f'<div class="cookie-notice"><p>{NOISE_ZH["cookie"]}</p></div><div class="content">{"".join(body)}'
        f'<div class="ads">{NOISE_ZH["advertisement"]}</div></div>'
        f'<div class="footer">{NOISE_ZH["footer"]}</div></body></html>'
    )
    return page.encode(), (main, [NOISE_ZH[name] for name in ("menu", "cookie", "advertisement", "footer")])


def judge(texts: dict[str, str], known: dict[str, tuple[list[str], list[str]]]) -> dict[str, Any]:
    """What was found of what is known; spaces and the marks of Markdown aside."""
    bare = {url: _bare(texts.get(url) or "") for url in known}
    main = [bare[url].count(_bare(text)) for url, (found, _) in known.items() for text in found]
    noise = [_bare(text) in bare[url] for url, (_, found) in known.items() for text in found]
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


if __name__ == "__main__":
    main()
