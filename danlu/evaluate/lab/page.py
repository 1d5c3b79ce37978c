"""The report as Markdown and as one HTML file without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

COLUMNS = (
    "", "MB", "bits per weight", "bits per byte", "change (95 % interval)", "perplexity", "next token right",
    "same as original", "one answer, tokens/s", "{requests} at once, tokens/s", "prefill, tokens/s", "memory, MB",
    "seconds to make", "how it was made",
)  # fmt: skip
WORDS = (  # of the columns: in English, in Chinese
    ("MB", "the files of the weights. Methods that set weights to 0 leave the file as large as it was",
     "权重文件的大小；把权重置零的方法不会让文件变小"),
    ("bits per weight", "those files over the weights of the original; what was taken away counts as 0 bits",
     "文件大小除以原模型的权重个数，删去的权重按 0 比特计"),
    ("bits per byte", "what the model needs to guess held-out text, for each byte of it: lower is better. The change "
     "is against the original; in brackets, where it lies in 95 of 100 samples of the documents",
     "模型预测留出文本时每个字节所需的比特数，越低越好；变化相对于原模型，括号内为 95 % 区间"),
    ("perplexity", "the same by token: as if it had to choose among so many that are equally likely",
     "同一损失按词元计：相当于在这么多个等可能的词元中选择"),
    ("next token right", "how often the model's first choice is the next token of the text",
     "模型的首选恰是文本下一个词元的比例"),
    ("same as original", "how often its first choice is the original's; empty where the tokens are others",
     "首选与原模型相同的比例；词表不同时为空"),
    ("one answer, at once", "tokens written in a second: in one answer, and in several together, where reading the "
     "prompts is in the time", "每秒写出的词元数：单个回答，以及同时写多个回答（含读提示的时间）"),
    ("prefill", "tokens of a prompt read in a second", "每秒读入的提示词元数"),
    ("memory", "the most that a process holds which loads the model and answers, Python and its libraries included",
     "加载模型并作答的进程占用的最大内存，含 Python 及其库"),
    ("int8 KV", "the original's weights, with the keys and values of attention kept in 8 bits (serve --kv-dtype int8)",
     "原模型权重，注意力的键和值以 8 比特存放"),
)  # fmt: skip
STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #777; --line: #e2e2e2; --paper: #fff; --mark: #c2542d; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #999; --line: #3a3a3a; --paper: #1b1b1b;
  --mark: #e08a66; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 88rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; } th { font-weight: normal; color: var(--faint); vertical-align: bottom; }
table { font-size: 13px; } td div { font: 11px system-ui, sans-serif; white-space: normal; max-width: 12rem; }
dl { columns: 30rem 2; } dl div { break-inside: avoid; } dt { font-weight: 600; } dd { margin: 0 0 .5rem 0; }
td, th { padding: .2rem .6rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
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
        f"{change(row['bits_per_byte_change'])} ({change(row['change_low'])} to {change(row['change_high'])})",
        f"{row['perplexity']:.2f}",
        _share(row.get("accuracy")),
        _share(agreement),
        f"{row['decode_tokens_per_second']:,.0f}",
        f"{row['batched_tokens_per_second']:,.0f}",
        f"{row['prefill_tokens_per_second']:,.0f}",
        f"{row['peak_memory_bytes'] / 1e6:,.0f}",
        "" if made is None else f"{made:.1f}" if made < 10 else f"{made:,.0f}",
        row.get("how", ""),
    )


def change(share: float) -> str:
    """With its sign, but none before a zero.

    >>> change(0.0123), change(-0.00001)
    ('+1.23%', '0.00%')
    """
    text = f"{share:+.2%}"
    return text[1:] if float(text[:-1]) == 0 else text


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
    head = "".join(f"<th>{escape(column)}</th>" for column in _columns(report)[:-1])
    body = "".join(
        f"<tr{' class=front' if row['front'] else ''}>"
        + f"<td>{escape(name)}<div class=faint>{escape(how)}</div></td>"
        + "".join(f"<td>{escape(number)}</td>" for number in numbers)
        + "</tr>"
        for row in report["rows"]
        for name, *numbers, how in (cells(row),)
    )
    advice = "".join(
        f"<li><b>{escape(use)}</b>: {escape(one['choice'])}, {escape(one['because'])}</li>"
        for use, one in report["advice"].items()
    )
    words = "".join(f"<div><dt>{name}</dt><dd>{english}.<br>{chinese}。</dd></div>" for name, english, chinese in WORDS)
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Compression lab · 压缩实验</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(_title(report))}</h1>\n<p class=faint>{escape(_about(report))}</p>\n{drawn}"
        f"<h2>Which one · 选哪个</h2>\n<ul>{advice}</ul>\n"
        "<h2>All of them · 全部</h2>\n<p class=faint>In colour: no other is both smaller and better. "
        "彩色：没有别的版本既更小又更好。</p>\n"
        f"<div class=wide><table><tr>{head}</tr>{body}</table></div>\n"
        f"<h2>What the words mean · 名词解释</h2>\n<dl>{words}</dl>\n</body>\n</html>\n"
    )
