"""Cleaning, language and safety of data: what is found, what is found wrongly, and at what speed.

    python bench/safety.py --fetch    first get Debian's manual pages (apt-get) into bench/.store
    python bench/safety.py            bench/results/safety.json, under a minute

| part      | what is measured                                                                             |
|-----------|----------------------------------------------------------------------------------------------|
| planted   | recall and precision by kind on 6,000 sentences of bench/planted.py                          |
| finds     | finds in texts that hold little or none: Python's library, poems, manual pages               |
| languages | share of manual pages, and of 300 characters of each, whose language is the folder's         |
| kept      | share of these documents that safety keeps, and what cleaning changed in them                |
| speed     | MB of UTF-8 a second on one core, processor time, best of three, by step and kind of text    |
"""

from __future__ import annotations

import argparse
import gzip
import re
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the root of the repository, for `bench`

from bench import contest, planted

STORE = contest.HERE / ".store"
MANUALS = STORE / "manuals"
PACKAGES = {
    "en": ("manpages", ""), "de": ("manpages-de", "de"), "es": ("manpages-es", "es"), "fr": ("manpages-fr", "fr"),
    "it": ("manpages-it", "it"), "ja": ("manpages-ja", "ja"), "pl": ("manpages-pl", "pl"), "ru": ("manpages-ru", "ru"),
    "pt": ("manpages-pt-br", "pt_BR"), "zh": ("manpages-zh", "zh_CN"), "zh_hant": ("manpages-zh", "zh_TW"),
}  # fmt: skip
_LONGEST = 2_500_000  # bytes of each kind of text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", action="store_true", help="get the manual pages, once")
    args = parser.parse_args()
    if args.fetch:
        fetch()
    from danlu.data.language import identify
    from danlu.data.safety.personal import find_personal

    texts = corpora()
    table = planted.score(list(planted.plant(seed=2_026, n=6_000)), find_personal)  # type: ignore[arg-type]
    print_row("planted", table["all"])
    finds: dict[str, Any] = {}
    for name, documents in texts.items():
        counts = Counter(found.kind for text in documents for found in find_personal(text))
        finds[name] = {"mb": size(documents), **dict(sorted(counts.items()))}
        print_row(f"finds {name}", finds[name])
    result = {
        "what": "cleaning, language and safety of data on one core",
        "planted": table,
        "finds": finds,
        "languages": language_accuracy(identify),
        "kept": kept(texts),
        "speed": speeds(texts),
    }
    print("wrote", contest.write_result("safety", result))


def fetch() -> None:
    """Unpack the packages' pages below bench/.store/manuals."""
    MANUALS.mkdir(parents=True, exist_ok=True)
    for package in sorted({package for package, _ in PACKAGES.values()}):
        if not any(MANUALS.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=MANUALS, check=True)
        subprocess.run(["dpkg", "-x", str(next(MANUALS.glob(f"{package}_*.deb"))), str(MANUALS)], check=True)


_ROFF = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^[.']\\\".*$", ""),
        (r"\\f[A-Z]|\\f\(..|\\[&/|]", ""),
        (r"\\-", "-"),
        (r"\\\(..|\\\[[^\]\n]{1,9}\]", " "),
        (r"^\.(?:SH|SS|B|I|BR|RB|IR|BI|TP|IP|TH)\s*", ""),
        (r"^\..*$", ""),
        (r"\n{3,}", "\n\n"),
    )
)


def manuals(language: str) -> list[str]:
    """The pages of a language as plain text; what is not UTF-8, or a link to another page, is passed over."""
    pages = []
    for path in sorted((MANUALS / "usr/share/man" / PACKAGES[language][1]).glob("man*/*.gz")):
        try:
            text = gzip.decompress(path.read_bytes()).decode()
        except (OSError, UnicodeDecodeError):
            continue
        for pattern, replacement in _ROFF:
            text = pattern.sub(replacement, text)
        if len(text) > 400:
            pages.append(text)
    return pages


def corpora() -> dict[str, list[str]]:
    from danlu.data.sources.find import find_files

    python = [
        p.read_text("utf-8", "replace")
        for p in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
        if "-packages" not in str(p)
    ]
    poems: list[str] = []
    for file in find_files("npm:chinese-poetry"):
        poems += [item.text for item in file.read() if hasattr(item, "place") and not hasattr(item, "reason")]
        if size(poems) > 2 * _LONGEST / 1e6:
            break
    return {
        "python": cut(python),
        "manuals_en": cut(manuals("en")),
        "manuals_zh": cut(manuals("zh")),
        "manuals_fr": cut(manuals("fr")),
        "poems": cut(poems),
    }


def cut(documents: list[str]) -> list[str]:
    total, kept = 0, []
    for text in documents:
        total += len(text.encode("utf-8", "surrogatepass"))
        if total > _LONGEST:
            break
        kept.append(text)
    return kept


def size(documents: list[str]) -> float:
    return round(sum(len(text.encode("utf-8", "surrogatepass")) for text in documents) / 1e6, 3)


def language_accuracy(identify: Callable[[str], Any]) -> dict[str, Any]:
    rows = {}
    for language in PACKAGES:
        pages = manuals(language)[:200]
        wanted = language.partition("_")[0]
        whole = [identify(text) for text in pages]
        short = [identify(text[len(text) // 2 : len(text) // 2 + 300]) for text in pages]
        rows[language] = {
            "pages": len(pages),
            "whole": round(sum(found.name == wanted for found in whole) / max(len(pages), 1), 4),
            "short": round(sum(found.name == wanted for found in short) / max(len(pages), 1), 4),
            "instead": dict(Counter(found.name for found in whole + short if found.name != wanted).most_common(4)),
        }
        if wanted == "zh":
            rows[language]["script"] = round(
                sum(found.script == ("hant" if "hant" in language else "hans") for found in whole) / max(len(pages), 1),
                4,
            )
        print_row(f"language {language}", rows[language])
    return rows


def kept(texts: dict[str, list[str]]) -> dict[str, Any]:
    from danlu.data.clean.document import clean_document
    from danlu.data.safety.safe import exceeded, make_safe

    rows = {}
    for name, documents in texts.items():
        language = "code:python" if name == "python" else ""
        changes: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for text in documents:
            cleaned = clean_document(text, language=language)
            changes.update(dict.fromkeys(cleaned.changes, 1))
            reasons[exceeded(make_safe(cleaned.text, language=language).scores)[0]] += 1
        rows[name] = {
            "documents": len(documents),
            "kept": round(reasons[""] / max(len(documents), 1), 5),
            "documents_changed": dict(changes.most_common()),
        }
        print_row(f"kept {name}", rows[name])
    return rows


def speeds(texts: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    from danlu.data.clean.characters import clean
    from danlu.data.clean.document import clean_document
    from danlu.data.language import identify, languages
    from danlu.data.safety.injection import find_injections
    from danlu.data.safety.personal import find_personal
    from danlu.data.safety.safe import make_safe
    from danlu.data.safety.toxic import find_toxic

    steps: dict[str, tuple[Callable[[str], Any], float]] = {
        "clean": (clean, 1.0),
        "clean_document": (clean_document, 1.0),
        "identify": (identify, 1.0),
        "languages": (languages, 0.1),
        "find_personal": (find_personal, 1.0),
        "find_toxic": (find_toxic, 1.0),
        "find_injections": (find_injections, 1.0),
        "make_safe": (make_safe, 1.0),
    }
    rows: dict[str, dict[str, float]] = {}
    for step, (function, share) in steps.items():
        rows[step] = {}
        for name, documents in texts.items():
            sample = documents[:: max(int(1 / share), 1)]
            best = min(processor_seconds(function, sample) for _ in range(3))
            rows[step][name] = round(size(sample) / best, 1)
        print_row(f"MB/s {step}", rows[step])
    return rows


def processor_seconds(function: Callable[[str], Any], documents: list[str]) -> float:
    start = time.process_time()
    for text in documents:
        function(text)
    return time.process_time() - start


def print_row(name: str, row: dict[str, Any]) -> None:
    print(f"{name:<22}", "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
