"""danlu: one compiled pass, then columns are compared with limits; pages by `formats.extract`."""

from __future__ import annotations

from bench.data_peers import serve
from danlu.data.formats.extract import Item, extract
from danlu.data.quality.rules import judge_all, rules_of
from danlu.data.scan import scan

RULES = rules_of(["gopher", "c4", "fineweb"])


def quality(texts: list[str], language: str) -> int:
    languages = [language] * len(texts)
    return int(judge_all(scan(texts, languages, signatures=False).measures, languages, RULES).keep.sum())


def signatures(texts: list[str], language: str) -> int:
    return int((~scan(texts, [language] * len(texts), measures=False).empty).sum())


def html(path: str) -> dict[str, str]:
    return {item.meta["url"]: item.text for item in extract(path) if isinstance(item, Item)}


if __name__ == "__main__":
    serve({"quality": quality, "signatures": signatures}, html)
