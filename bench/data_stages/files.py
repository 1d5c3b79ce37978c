"""The documents of the stages: made once under bench/.store, the same for every contestant.

CORPORA are jsonl files of one text a line: Python source of this environment, classical Chinese poems from npm,
Chinese manual pages and English kernel documentation from Debian packages. `pages` are web pages: the HTML manuals of
Debian packages as they are, Chinese manual pages set as pages of a web site, and the planted pages of the tests; of the
last two it is known what is the text and what is not.
"""

from __future__ import annotations

import gzip
import html
import json
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench import contest

STORE = contest.HERE / ".store"
LINUX, PYTHON, MANUALS = "linux-doc-6.1", "python3.11-doc", "manpages-zh"  # Debian packages
LEAST_CHARACTERS = 20


@dataclass(frozen=True)
class Corpus:
    """`sources` as in a recipe, or a Debian package of reStructuredText; `language` as danlu and its peers call it."""

    sources: tuple[str, ...]
    language: str
    peers_language: str
    most_bytes: int
    documentation: bool = False


CORPORA = {
    "Python source": Corpus(("python:site-packages",), "en", "eng", 40_000_000),
    "English documentation": Corpus((LINUX,), "en", "eng", 15_000_000, documentation=True),
    "classical poems": Corpus(("npm:chinese-poetry",), "zh", "zh", 15_000_000),
    "manual pages": Corpus((f"debian:{MANUALS}",), "zh", "zh", 15_000_000),
}


def corpus_file(name: str) -> Path:
    """The corpus as jsonl."""
    path = STORE / "data" / f"{name.replace(' ', '-')}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".part"), "w", encoding="utf-8") as out:
            for text in _limited(CORPORA[name]):
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        path.with_suffix(".part").rename(path)
    return path


def texts_of(name: str) -> list[str]:
    with open(corpus_file(name), encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _limited(corpus: Corpus) -> Iterator[str]:
    size = 0
    for source in corpus.sources:
        for text in _documentation(source) if corpus.documentation else _source_texts(source):
            if len(text) >= LEAST_CHARACTERS:
                yield text
                size += len(text.encode())
                if size > corpus.most_bytes:
                    return


def _source_texts(source: str) -> Iterator[str]:
    from danlu.data.clean.characters import clean
    from danlu.data.sources.find import find_files

    for file in find_files(source):
        for item in file.read(None):
            if hasattr(item, "text"):
                yield clean(item.text)[0]


def _documentation(package: str) -> Iterator[str]:
    for file in sorted(debian(package).glob("usr/share/doc/**/*.rst.gz")):
        yield gzip.decompress(file.read_bytes()).decode("utf-8", "replace")


def debian(package: str) -> Path:
    """The unpacked files of a Debian package, fetched once."""
    folder = STORE / "debian" / package
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=folder.parent, check=True, stdout=subprocess.DEVNULL)
        archive = next(folder.parent.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder.parent, check=True)
        archive.unlink()
    return folder


# ---- web pages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """`main` sentences and `noise` are empty where it is not known what the text of the page is."""

    url: str
    html: bytes
    language: str
    main: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)


def pages(count: int) -> list[Page]:
    """`count` pages of English manuals, half as many Chinese ones and the planted ones, in a random order."""
    from tests.data.formats.pages import planted

    draw = random.Random(0)
    made: list[Page] = []
    for package in (PYTHON, LINUX):
        found = sorted(debian(package).glob("usr/share/doc/**/*.html"))
        for name in draw.sample(found, count // 2):
            made.append(Page(f"https://{package}.test/{len(made)}", name.read_bytes(), "en"))
    for source in draw.sample(manual_sources(), count // 2):
        made.append(manual_page(f"https://manual.test/{len(made)}", source))
    for number, one in enumerate(planted()):
        language = one.name.partition("-")[0]
        made.append(Page(f"https://planted.test/{number}", one.html.encode(), language, one.main, one.noise))
    draw.shuffle(made)
    return made


def manual_sources() -> list[str]:
    """The Chinese manual pages as they are written, in roff."""
    found = sorted(debian(MANUALS).glob("usr/share/man/zh_CN/man*/*.gz"))
    return [gzip.decompress(path.read_bytes()).decode("utf-8", "replace") for path in found]


def write_warc(path: Path, made: list[Page]) -> None:
    """A gzip member for each record, as crawlers write them."""
    from tests.data.formats.warcs import record

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(gzip.compress(record(page.url, page.html)) for page in made))


def manual_page(url: str, source: str) -> Page:
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
                text = ("" if any("\u4e00" <= c <= "\u9fff" for c in paragraph[0]) else " ").join(paragraph)
                body.append(f"<p>{html.escape(text)}</p>")
                main += [text] if len(text) >= LEAST_CHARACTERS else []
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
    noise = [NOISE_ZH[name] for name in ("menu", "cookie", "advertisement", "footer")]
    return Page(url, page.encode(), "zh", main, noise)
