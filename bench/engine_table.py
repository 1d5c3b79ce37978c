"""The tables of the engine contest, made from bench/results/engine.json: one for each model, and under it who was left
out of what, and why.

A cell holds the median; in brackets the share of a limit, or how many times as much as without the disturbance. The
best of a column is bold among those that are ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

WORDS = {
    "en": {
        "engine": "engine", "bits": "bits per weight", "perplexity": "perplexity (float32's: {:.2f})",
        "decode": "decode, tok/s (of the bandwidth then)", "prefill": "prefill 512, tok/s (of matrix peak)",
        "concurrent": "32 requests, output tok/s", "shared": "32 that share 1,024, output tok/s",
        "unshared": "32 that share nothing, output tok/s (time, of no cache)",
        "intruder": "p99 gap beside a long prompt, ms (of undisturbed)", "start": "start to first token, s",
        "note": "Machine: {machine}; memory up to {bandwidth:.1f} GB/s, matrix products {products}. Medians of "
        "{rounds} interleaved rounds. * not ranked: its perplexity is unknown, or off by more than its bits allow "
        "({allowed}).",
        "from": "{bits:.0f} bits: {percent:.0%}", "left out": "Left out, in the words of pip or the engine:",
    },
    "zh": {
        "engine": "引擎", "bits": "每权重比特", "perplexity": "困惑度（float32 为 {:.2f}）",
        "decode": "解码，tok/s（占当时带宽）", "prefill": "预填充 512，tok/s（占矩阵上限）",
        "concurrent": "32 个请求，输出 tok/s", "shared": "32 个共享 1,024 前缀，输出 tok/s",
        "unshared": "32 个毫无共享，输出 tok/s（用时与无缓存之比）",
        "intruder": "长提示到来时的 p99 间隔，毫秒（与未受干扰时之比）", "start": "启动到首个 token，秒",
        "note": "机器：{machine}；内存最高 {bandwidth:.1f} GB/s，矩阵乘法 {products}。{rounds} 轮交替运行的中位数。"
        "* 不参与排名：困惑度未知，或偏差超过其比特数所允许的（{allowed}）。",
        "from": "{bits:.0f} 比特起：{percent:.0%}", "left out": "未参加，原因为 pip 或引擎的原话：",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """`cell` gives (number, text), or None where a row has none; `best` picks among numbers."""

    name: str
    cell: Callable[[Row], tuple[float, str] | None]
    best: Callable[[list[float]], float] | None = max


def _decode(row: Row) -> tuple[float, str] | None:
    rate = _median(row, "decode")
    return None if rate is None else (rate, f"{rate:,.1f} ({row['figures']['decode']['share']['median']:.0%})")


def _prefill(row: Row) -> tuple[float, str] | None:
    rate = _median(row, "prefill")
    return None if rate is None else (rate, f"{rate:,.1f} ({rate / row['prefill_limit']:.0%})")


def _rate(workload: str) -> Column:
    def cell(row: Row) -> tuple[float, str] | None:
        rate = _median(row, workload)
        return None if rate is None else (rate, f"{rate:,.0f}")

    return Column(workload, cell)


def _unshared(row: Row) -> tuple[float, str] | None:
    rate, without = _median(row, "unshared"), _median(row, "uncached")
    if rate is None:
        return None
    return rate, f"{rate:,.0f}" + (f" ({without / rate:.2f}×)" if without else "")


def _intruder(row: Row) -> tuple[float, str] | None:
    gap, steady = _median(row, "intruder"), _median(row, "steady")
    if gap is None:
        return None
    return gap, f"{1000 * gap:,.0f}" + (f" ({gap / steady:.1f}×)" if steady else "")


def _start(row: Row) -> tuple[float, str] | None:
    seconds = _median(row, "start")
    return None if seconds is None else (seconds, f"{seconds:.1f}")


def _perplexity(row: Row) -> tuple[float, str] | None:
    if row["perplexity"] is None:
        return None
    change = "" if row["perplexity_change"] is None else f" ({row['perplexity_change']:+.1%})"
    return row["perplexity"], f"{row['perplexity']:.2f}{change}"


COLUMNS = (
    Column("bits", lambda row: (row["bits_per_weight"], f"{row['bits_per_weight']:.1f}"), None),
    Column("perplexity", _perplexity, None),
    Column("decode", _decode),
    Column("prefill", _prefill),
    _rate("concurrent"),
    _rate("shared"),
    Column("unshared", _unshared),
    Column("intruder", _intruder, min),
    Column("start", _start, min),
)


def engine_tables(data: dict[str, Any], language: str) -> str:
    return "\n".join(_model_table(model, data, WORDS[language]) for model in data["models"])


def _model_table(model: dict[str, Any], data: dict[str, Any], words: dict[str, str]) -> str:
    rows = model["rows"]
    lines = [[row["name"] + ("" if row["ranked"] else " *")] for row in rows]
    heads = [words["engine"]]
    base = next((row["perplexity"] for row in rows if row["name"] == model["reference"]), None)
    for column in COLUMNS:
        cells = [column.cell(row) for row in rows]
        if not any(cells):
            continue
        ranked = [cell[0] for cell, row in zip(cells, rows, strict=True) if cell and row["ranked"]]
        best = column.best(ranked) if ranked and column.best else None
        heads.append(words[column.name].format(base or float("nan")))
        for line, cell, row in zip(lines, cells, rows, strict=True):
            text = cell[1] if cell else "–"
            line.append(f"**{text}**" if cell and row["ranked"] and cell[0] == best else text)
    table = [heads, ["---"] * len(heads), *lines]
    text = f"{model['model']}:\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in table)
    return text + "\n" + _note(model, data, words) + _left_out(model, words)


def _note(model: dict[str, Any], data: dict[str, Any], words: dict[str, str]) -> str:
    products = ", ".join(f"{kind} {rate / 1e9:,.0f} GFLOP/s" for kind, rate in model["products"].items() if rate)
    allowed = ", ".join(words["from"].format(bits=bits, percent=percent) for bits, percent in data["tolerance"])
    return (
        words["note"].format(
            machine=data["machine"],
            bandwidth=model["bandwidth"] / 1e9,
            products=products,
            rounds=data["rounds"],
            allowed=allowed,
        )
        + "\n"
    )


def _left_out(model: dict[str, Any], words: dict[str, str]) -> str:
    """One line a contestant and reason, with the workloads it was the reason for."""
    lines = [f"- {name}: `{why}`" for name, why in model["unavailable"].items()]
    for row in model["rows"]:
        for why in dict.fromkeys(row["left_out"].values()):
            workloads = ", ".join(name for name, reason in row["left_out"].items() if reason == why)
            lines.append(f"- {row['name']} ({workloads}): `{why}`")
    return f"\n{words['left out']}\n\n" + "\n".join(lines) + "\n" if lines else ""


def _median(row: Row, workload: str) -> float | None:
    figure = row["figures"].get(workload)
    return None if figure is None else float(figure["median"])
