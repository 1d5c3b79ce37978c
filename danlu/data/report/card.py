"""The data card: README.md of a corpus, with the head that the Hugging Face hub reads.

What it is made of, what was taken out and why, how it is split; and how to ask about one document.
"""

from __future__ import annotations

from typing import Any

import yaml

from danlu.core.progress import human_bytes

Report = dict[str, Any]
_ISO = {"zh": "zh", "en": "en", "ja": "ja", "ko": "ko", "de": "de", "fr": "fr", "es": "es", "ru": "ru"}


def render(report: Report) -> str:
    """The card of a report, as Markdown."""
    kept = report["kept"]
    lines = [
        "---",
        yaml.safe_dump(_head(report), allow_unicode=True, sort_keys=True).strip(),
        "---",
        "",
        "# Corpus",
        "",
        f"{kept['documents']:,} documents, {human_bytes(kept['bytes'])} of text, from {report['in']['texts']:,} texts "
        f"({human_bytes(report['in']['bytes'])}) in {report['in']['files']:,} files.",
        "",
    ]
    for title, key in (("Language", "by_language"), ("Source", "by_source"), ("Licence", "by_licence")):
        lines += _table((title, "documents", "bytes"), report.get(key, {}))
    lines += [
        "## Left out",
        "",
        "Everything that was dropped is in rejected-*.parquet with its reason, every measured number in",
        "scores-*.parquet. `danlu show CORPUS --why QUERY` asks about one document.",
        "",
        "| reason | documents |",
        "|---|---:|",
        *(f"| {name} | {count:,} |" for name, count in sorted(report["dropped"].items())),
        "",
        "## Split",
        "",
        "Similar documents, and the parts of one long document, are always on the same side.",
        "",
        "| split | documents | bytes |",
        "|---|---:|---:|",
        *(f"| {name} | {s['documents']:,} | {s['bytes']:,} |" for name, s in report["splits"].items()),
    ]
    return "\n".join(lines) + "\n"


def _head(report: Report) -> dict[str, Any]:
    languages = sorted({_ISO[name] for name in report["by_language"] if name in _ISO})
    head: dict[str, Any] = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": name, "path": f"{name}-*.parquet"}
                    for name, counts in report["splits"].items()
                    if counts["documents"]
                ],
            }
        ],
        "task_categories": ["text-generation"],
    }
    if languages:
        head["language"] = languages
    licences = [name for name in report.get("by_licence", {}) if name]
    if len(licences) == 1:
        head["license"] = licences[0].lower()
    return head


def _table(head: tuple[str, str, str], counts: dict[str, dict[str, int]]) -> list[str]:
    if not counts:
        return []
    rows = sorted(counts.items(), key=lambda pair: (-pair[1]["bytes"], pair[0]))
    return [
        f"| {' | '.join(head)} |",
        "|---|---:|---:|",
        *(f"| {name or 'not said'} | {value['documents']:,} | {value['bytes']:,} |" for name, value in rows),
        "",
    ]
