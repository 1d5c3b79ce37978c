"""The report as Markdown and as one HTML file without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

COLUMNS = (
    "", "MB", "bits per weight", "bits per byte", "change (95 % interval)", "perplexity", "next token right",
    "same as original", "one answer, tokens/s", "{requests} at once", "prefill", "memory, MB", "seconds to make",
)  # fmt: skip
STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #777; --line: #e2e2e2; --paper: #fff; --mark: #c2542d; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #999; --line: #3a3a3a; --paper: #1b1b1b;
  --mark: #e08a66; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 88rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; } th { font-weight: normal; color: var(--faint); vertical-align: bottom; }
td, th { padding: .2rem .7rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { white-space: normal; min-width: 4rem; } td:first-child, th:first-child { text-align: left; }
tr { border-top: 1px solid var(--line); } .front td:first-child { color: var(--mark); font-weight: 600; }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; } .faint { color: var(--faint); }
""".strip()


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    agreement, made = row.get("agreement"), row.get("seconds_to_make")
    return (
        row["name"],
        f"{row['weight_bytes'] / 1e6:.1f}",
        f"{row['bits_per_weight']:.2f}",
        f"{row['bits_per_byte']:.4f}",
        f"{row['bits_per_byte_change']:+.2%} ({row['change_low']:+.2%} to {row['change_high']:+.2%})",
        f"{row['perplexity']:.2f}",
        _share(row.get("accuracy")),
        _share(agreement),
        f"{row['decode_tokens_per_second']:.0f}",
        f"{row['batched_tokens_per_second']:.0f}",
        f"{row['prefill_tokens_per_second']:.0f}",
        f"{row['peak_memory_bytes'] / 1e6:.0f}",
        "" if made is None else f"{made:.0f}",
    )


def _share(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    low, high = found["interval"]
    return f"{found['value']:.1%} ± {(high - low) / 2:.1%}"


def _columns(report: dict[str, Any]) -> list[str]:
    return [column.format(requests=report["requests"]) for column in COLUMNS]


def _about(report: dict[str, Any]) -> str:
    return (
        f"{report['documents']} held-out documents, {report['bytes']:,} bytes, windows of {report['context']} tokens. "
        f"Speeds and memory are of the machine that made this report: the best of {report['rounds']} rounds through "
        f"all rows; the rounds of one row lay up to {max(row['speed_spread'] for row in report['rows']):.0%} apart. "
        f"{report['requests']} at once: tokens of the answers, reading the prompts included in the time."
    )


def _title(report: dict[str, Any]) -> str:
    name = report["model_name"]
    return f"Versions of {name} ({report['model']})" if name else f"Versions of {report['model']}"


def markdown(report: dict[str, Any]) -> str:
    lines = [f"# {_title(report)}", "", _about(report), ""]
    lines += ["| " + " | ".join(_columns(report)) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in report["rows"]]
    lines += ["", *(f"- **{use}**: {one['choice']}, {one['because']}" for use, one in report["advice"].items())]
    return "\n".join(lines) + "\n"


def page(report: dict[str, Any], drawn: str) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in _columns(report))
    body = "".join(
        f"<tr{' class=front' if row['front'] else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(row))
        + "</tr>"
        for row in report["rows"]
    )
    words = "".join(
        f"<li><b>{escape(use)}</b>: {escape(one['choice'])}, {escape(one['because'])}</li>"
        for use, one in report["advice"].items()
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Compression lab · 压缩实验</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(_title(report))}</h1>\n<p class=faint>{escape(_about(report))}</p>\n{drawn}"
        f"<h2>Which one · 选哪个</h2>\n<ul>{words}</ul>\n"
        f"<h2>All of them · 全部</h2>\n<p class=faint>In colour: no other is both smaller and better.</p>\n"
        f"<div class=wide><table><tr>{head}</tr>{body}</table></div>\n</body>\n</html>\n"
    )
