"""danlu: one compiled pass, then columns are compared with limits."""

from __future__ import annotations

from bench.data_peers import serve
from danlu.data.quality.rules import judge_all, rules_of
from danlu.data.scan import scan

RULES = rules_of(["gopher", "c4", "fineweb"])


def quality(texts: list[str], language: str) -> int:
    languages = [language] * len(texts)
    return int(judge_all(scan(texts, languages, signatures=False).measures, languages, RULES).keep.sum())


def signatures(texts: list[str], language: str) -> int:
    return int((~scan(texts, [language] * len(texts), measures=False).empty).sum())


def both(texts: list[str], language: str) -> int:
    languages = [language] * len(texts)
    return int(judge_all(scan(texts, languages).measures, languages, RULES).keep.sum())


if __name__ == "__main__":
    serve({"quality": quality, "signatures": signatures, "quality and signatures": both})
