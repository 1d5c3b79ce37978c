"""The report of a corpus as a page: report.html, one file, no script, no address outside it.

Everything on it stands in report.json too. A section is a row of `SECTIONS`: a title in English and Chinese, and a
function that makes its HTML from the report, "" when there is nothing to show. The bytes depend on the report alone, as
every payload's do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from danlu.core.progress import human_bytes

Report = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #777; --line: #e2e2e2; --paper: #fff; --bar: #3b6ea8;
  --drop: #c2542d; --keep: #4d9f5b; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #999; --line: #3a3a3a; --paper: #1b1b1b;
  --bar: #6f9fd8; --drop: #e08a66; --keep: #79c487; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h2 small { color: var(--faint); font-weight: normal; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--faint); font-weight: normal; }
td, th { padding: .2rem .6rem .2rem 0; vertical-align: top; } td.number, th.number { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } .figures b { display: block; font-size: 1.4rem; }
.figures span { color: var(--faint); } .bar { background: var(--bar); height: .7rem; display: block; min-width: 1px; }
.bar.dropped { background: var(--drop); } .bar.kept { background: var(--keep); } td.wide { width: 40%; }
details { margin: .2rem 0 .6rem; } summary { cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; padding: .4rem .6rem;
  border-left: 3px solid var(--line); font-size: 13px; }
.path { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
""".strip()


def render(report: Report) -> str:
    """The page of a report."""
    parts = [
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Corpus report · 语料报告</title>\n<style>{STYLE}</style></head>\n<body>\n"
        "<h1>Corpus report · 语料报告</h1>"
    ]
    for english, chinese, section in SECTIONS:
        body = section(report)
        if body:
            parts.append(f"<section>\n<h2>{english} <small>{chinese}</small></h2>\n{body}\n</section>")
    return "\n".join([*parts, "</body>\n</html>\n"])


def _figures(report: Report) -> str:
    before, kept = report["in"], report["kept"]
    share = kept["bytes"] / max(before["bytes"], 1)
    figures = [
        (f"{before['files']:,}", "files · 文件"),
        (f"{before['texts']:,}", f"texts · 文本, {human_bytes(before['bytes'])}"),
        (f"{kept['documents']:,}", f"kept · 保留, {human_bytes(kept['bytes'])}"),
        (f"{share:.1%}", "of the bytes · 字节占比"),
        (f"{report['splits']['validation']['documents']:,}", "held out · 验证集"),
    ]
    return '<div class="figures">' + "".join(f"<div><b>{b}</b><span>{s}</span></div>" for b, s in figures) + "</div>"


def _dropped(report: Report) -> str:
    """What each reason dropped, with a bar and the samples."""
    dropped, sizes = report["dropped"], report.get("dropped_bytes", {})
    most = max([report["kept"]["documents"], *dropped.values()])
    rows = [_bar_row("kept · 保留", report["kept"]["documents"], report["kept"]["bytes"], most, "kept")]
    rows += [
        _bar_row(name, count, sizes.get(name, 0), most, "dropped")
        for name, count in sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    number = '<th class="number">'
    head = f"<tr><th>reason · 原因</th>{number}documents · 文档</th>{number}bytes · 字节</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" + "".join(
        _samples(name, samples) for name, samples in sorted(report["dropped_samples"].items())
    )


def _samples(reason: str, samples: Sequence[dict[str, str]]) -> str:
    shown = "".join(
        f'<div class="path">{escape(str(json.loads(s["meta"]).get("path", s["id"])))} · {escape(s["detail"])}</div>'
        f"<pre>{escape(s['text'])}</pre>"
        for s in samples
    )
    return f"<details><summary>{escape(reason)}</summary>{shown}</details>"


def _bar_row(name: str, documents: int, size: int, most: int, kind: str = "") -> str:
    width = 100 * documents / max(most, 1)
    return (
        f'<tr><td>{escape(name)}</td><td class="number">{documents:,}</td><td class="number">{human_bytes(size)}</td>'
        f'<td class="wide"><span class="bar {kind}" style="width:{width:.1f}%"></span></td></tr>'
    )


def _counted(key: str) -> Callable[[Report], str]:
    """A table of documents and bytes by language, source or licence."""

    def section(report: Report) -> str:
        counts = {name or "?": value for name, value in report.get(key, {}).items()}
        most = max((value["documents"] for value in counts.values()), default=0)
        rows = sorted(counts.items(), key=lambda pair: (-pair[1]["bytes"], pair[0]))
        return _table(_bar_row(name, value["documents"], value["bytes"], most) for name, value in rows)

    return section


def _lengths(report: Report) -> str:
    total: dict[int, int] = {}
    for classes in report.get("lengths", {}).values():
        for size, count in classes:
            total[size] = total.get(size, 0) + count
    most = max(total.values(), default=0)
    return _table(
        f'<tr><td>from {human_bytes(size)}</td><td class="number">{count:,}</td>'
        f'<td class="wide"><span class="bar" style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for size, count in sorted(total.items())
    )


def _duplicates(report: Report) -> str:
    found, groups = report["duplicates"], report["split_groups"]
    facts = [
        ("equal texts · 完全相同", found["exact"]),
        ("nearly equal texts · 近似重复", found["near"]),
        ("pages with the same address · 同一网址", found.get("url", 0)),
        ("the same meaning · 语义重复", found.get("semantic", 0)),
        ("clusters of nearly equal texts · 近似重复簇", found["near_clusters"]),
        ("largest group kept on one side of the split · 同侧最大组", groups["largest"]),
    ]
    return _table(f'<tr><td>{name}</td><td class="number">{value:,}</td></tr>' for name, value in facts)


def _cleaned(report: Report) -> str:
    rows = sorted(report.get("cleaned_texts_by_step", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return _table(f'<tr><td>{escape(name)}</td><td class="number">{count:,}</td></tr>' for name, count in rows)


def _cleaning_samples(report: Report) -> str:
    return "".join(
        f'<details><summary>{escape(step)}</summary><div class="path">{escape(sample["path"])}</div>'
        f"<pre>{escape(chr(10).join(sample['diff']))}</pre></details>"
        for step, sample in sorted(report.get("cleaning_samples", {}).items())
    )


def _removed_lines(report: Report) -> str:
    samples = report.get("removed_line_samples", {})
    return "".join(
        f"<details><summary>{escape(reason)}: {count:,}</summary><pre>{escape(chr(10).join(samples.get(reason, [])))}"
        "</pre></details>"
        for reason, count in sorted(report.get("removed_lines", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    )


def _contamination(report: Report) -> str:
    found = report.get("contamination", {"hits": {}, "listed": []})
    rows = "".join(
        f"<tr><td>{escape(hit['benchmark'])}</td><td>{escape(str(hit['item']))}</td><td>{escape(hit['part'])}, "
        f'{escape(hit["kind"])}</td><td class="path">{escape(hit["document"])}</td></tr>'
        for hit in found["listed"][:100]
    )
    counts = " · ".join(f"{escape(name)}: {count:,}" for name, count in found["hits"].items())
    return f"<p>{counts}</p><details><summary>items · 题目</summary><table>{rows}</table></details>" if rows else ""


def _trimmed(report: Report) -> str:
    names = {"lines": "repeated lines · 重复行", "passages": "repeated passages · 重复段落"}
    return "".join(
        f"<details><summary>{names[kind]}: {part['count']:,}, {human_bytes(part['bytes'])}</summary>"
        f"<pre>{escape(chr(10).join(part['samples']))}</pre></details>"
        for kind, part in report.get("trimmed", {}).items()
    )


def _topics(report: Report) -> str:
    return _table(
        f'<tr><td class="number">{topic["documents"]:,}</td><td>{escape(" · ".join(topic["words"]))}</td></tr>'
        for topic in report.get("topics", [])
    )


def _personal(report: Report) -> str:
    rows = sorted(report.get("personal", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return _table(f'<tr><td>{escape(kind)}</td><td class="number">{count:,}</td></tr>' for kind, count in rows)


def _table(rows: Iterable[str]) -> str:
    text = "".join(rows)
    return f"<table>{text}</table>" if text else ""


SECTIONS: tuple[tuple[str, str, Callable[[Report], str]], ...] = (
    ("In and out", "进与出", _figures),
    ("What was dropped, and why", "丢弃及原因", _dropped),
    ("Languages", "语言", _counted("by_language")),
    ("Sources", "来源", _counted("by_source")),
    ("Licences", "许可", _counted("by_licence")),
    ("Lengths", "长度", _lengths),
    ("Topics of a sample", "抽样主题", _topics),
    ("Duplicates", "重复", _duplicates),
    ("Taken out of documents", "从文档中删去", _trimmed),
    ("Items of benchmarks", "评测题目", _contamination),
    ("Personal data and chat markers that were replaced", "替换的个人信息与对话标记", _personal),
    ("Texts changed by cleaning", "清洗改动的文本数", _cleaned),
    ("Before and after", "清洗前后", _cleaning_samples),
    ("Lines that were taken out", "删除的行", _removed_lines),
)
