"""shares: what each of the rules that FineWeb added removes, beside the shares that its paper gives.

FineWeb (arXiv:2406.17557) says of English web pages, after trafilatura, Gopher's rules and MinHash: C4's terminal
punctuation alone removes some 30 % of all tokens; few lines that end in a mark (at most 0.12) 10.14 %; characters in
lines that occurred before (0.1 or more) 12.47 %; short lines (0.67 or more under 30 characters) 3.73 %; the last three
together some 22 %.

There is no crawl here. The sample is fixed: the HTML manuals of two Debian packages (all of python3.11-doc, 1,000 pages
of linux-doc drawn by a fixed seed), and Chinese manual pages set as pages of a web site. Each is read in two ways,

    whole   every word of the page with its menus, side bars and footers: what a WET file has
    main    the main text (`formats.extract`), of pages that Gopher's rules keep: what FineWeb's rules were given

and judged by `quality.rules`. A page that a rule rejects is removed with all of its units; terminal punctuation takes
out lines. Shares are of units (words, Han characters), which are what stands nearest to tokens.

Beside it stands what whole sets of rules keep of documents that are clean (`files.CORPORA`).
"""

from __future__ import annotations

import html
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.data_stages import files

LINUX_PAGES = 1_000
RULES = {
    "en": ("fineweb_line_ends", "fineweb_repeated_lines", "fineweb_short_lines"),
    "zh": ("fineweb_line_ends", "fineweb_repeated_lines", "fineweb_brief_lines"),
}
NAMES = ("line punctuation", "duplicate-line characters", "short lines")
PUBLISHED = {
    "terminal punctuation": 0.30,
    "line punctuation": 0.1014,
    "duplicate-line characters": 0.1247,
    "short lines": 0.0373,
    "the three together": 0.22,
}
SETS = {
    "danlu, spam (the default)": ["danlu", "spam"],
    "gopher, c4, fineweb": ["gopher", "c4", "fineweb"],
    "fineweb2": ["fineweb2"],
}
_UNSEEN = re.compile(r"(?is)<(script|style|template|noscript)\b.*?</\1>|<!--.*?-->")
_BLOCKS = re.compile(
    r"(?i)</?(?:p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|h[1-6]|br|hr|pre|title|section|nav|header|footer|article|form)\b[^>]*>"
)
_TAG = re.compile(r"<[^>]*>")


def shares(rounds: int) -> dict[str, Any]:
    """Nothing is timed: `rounds` changes nothing."""
    del rounds
    samples = _pages()
    rows = []
    for name, language, made in samples:
        for way in ("whole", "main"):
            texts = [whole(page.html) for page in made] if way == "whole" else _main_texts(made)
            rows.append({"sample": name, "way": way, "language": language, **removed(texts, language, way == "main")})
            print({key: value if not isinstance(value, float) else round(value, 4) for key, value in rows[-1].items()})
    what = "shares of units that rules remove"
    return {"what": what, "published": PUBLISHED, "rows": rows, "kept": [kept(name) for name in files.CORPORA]}


def kept(corpus: str) -> dict[str, Any]:
    """The share of the documents of a corpus that each set of rules keeps; None where it has none for the language."""
    from danlu.data.quality.rules import judge_all, rules_of
    from danlu.data.scan import scan

    texts = files.texts_of(corpus)
    languages = [_language(corpus)] * len(texts)
    measures = scan(texts, languages, signatures=False).measures
    shares: dict[str, float | None] = {}
    for name, sets in SETS.items():
        rules = rules_of(sets)
        speaks = any(rule.limits(languages[0])[:2] != (-np.inf, np.inf) for rule in rules)
        shares[name] = float(judge_all(measures, languages, rules).keep.mean()) if speaks else None
    print(corpus, shares, flush=True)
    return {"corpus": corpus, "documents": len(texts), "shares": shares}


def _language(corpus: str) -> str:
    """As danlu calls it: code is a language of its own."""
    return "code:python" if corpus == "Python source" else files.CORPORA[corpus].language


def _pages() -> list[tuple[str, str, list[files.Page]]]:
    python = sorted(files.debian(files.PYTHON).glob("usr/share/doc/**/*.html"))
    linux = random.Random(0).sample(sorted(files.debian(files.LINUX).glob("usr/share/doc/**/*.html")), LINUX_PAGES)
    english = [
        files.Page(f"https://manual.test/{number}", path.read_bytes(), "en")
        for number, path in enumerate([*python, *linux])
    ]
    chinese = [
        files.manual_page(f"https://manual.test/{number}", source)
        for number, source in enumerate(files.manual_sources())
    ]
    return [("English manuals", "en", english), ("Chinese manual pages", "zh", chinese)]


def whole(page: bytes) -> str:
    """The text of a page as a crude reader has it: tags out, a line for each block."""
    text = _UNSEEN.sub(" ", page.decode("utf-8", "replace"))
    text = html.unescape(_TAG.sub("", _BLOCKS.sub("\n", text)))
    return "\n".join(line for line in (" ".join(line.split()) for line in text.split("\n")) if line)


def _main_texts(made: list[files.Page]) -> list[str]:
    from danlu.data.formats.extract import Item, extract

    with tempfile.TemporaryDirectory() as folder:
        files.write_warc(Path(folder) / "pages.warc.gz", made)
        return [item.text for item in extract(Path(folder) / "pages.warc.gz") if isinstance(item, Item)]


def removed(texts: list[str], language: str, after_gopher: bool) -> dict[str, Any]:
    """The share of units that each rule removes from these texts, alone, and the three together."""
    from danlu.core.text import units
    from danlu.data.quality.lines import keep_lines
    from danlu.data.quality.rules import judge_all, rules_of
    from danlu.data.scan import scan

    measures, languages = scan(texts, [language] * len(texts), signatures=False), [language] * len(texts)
    gopher = ~judge_all(measures.measures, languages, rules_of("gopher")).keep  # [D]
    sizes = measures.units.astype(np.float64)  # [D]
    base = ~gopher if after_gopher else np.ones(len(texts), dtype=bool)
    total = float(sizes[base].sum())
    verdicts = judge_all(measures.measures, languages, rules_of(list(RULES[language])))
    order = [[rule.name for rule in verdicts.rules].index(name) for name in RULES[language]]
    failed = verdicts.failed[:, order]  # [D, 3]
    left = sum(len(units(keep_lines(text, ("no_end",))[0])) for text, kept in zip(texts, base, strict=True) if kept)
    return {
        "documents": int(base.sum()),
        "units": int(total),
        "gopher": float(sizes[gopher].sum() / sizes.sum()),
        "terminal punctuation": 1 - left / total,
        **{name: float(sizes[failed[:, i] & base].sum()) / total for i, name in enumerate(NAMES)},
        "the three together": float(sizes[failed.any(axis=1) & base].sum()) / total,
        "documents removed": float((failed.any(axis=1) & base).sum() / base.sum()),
    }
