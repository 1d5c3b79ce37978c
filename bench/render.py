"""Put the measured tables into the READMEs and docs/, between `<!-- bench:NAME -->` and `<!-- /bench -->`.

python bench/render.py            rewrite the tables
python bench/render.py --check    exit 1 when a table does not say what its JSON says (CI does this)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import data_tables
from data_tables import table
from engine_table import engine_tables

HERE = Path(__file__).resolve().parent
DOCUMENTS = {"README.md": "en", "README.zh-CN.md": "zh", "docs/data.md": "en", "docs/compress.md": "en"} | {
    f"docs/decisions/{path.name}": "en" for path in sorted((HERE.parent / "docs" / "decisions").glob("*.md"))
}
BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)

WORDS = {
    "en": {
        "language": "en",
        "quickstart": ("stage", "took", "made"),
        "of peak": "of the measured matrix peak",
        "smaller": "smaller than float32",
        "total": "Machine: {machine}; {total} in all, after {install} of installation.",
        "poet": ("", "bits/byte", "regular form", "rhyme", "lines copied"),
        "poet rows": ("byte n-gram", "danlu run poet", "real held-out poems"),
        "poet note": "`xz -9e` needs {xz:.2f} bits a byte; two line ends rhyme by chance in {chance:.0%}. "
        "Machine: {machine}; {total} in all.",
        "train": ("trainer", "tokens/s (low to high)", "of sustained matrix products", "of the best product"),
        "machine": "Machine: {machine}; {detail}. Medians of {rounds} interleaved runs.",
        "peak": "{dtype} matrix products {peak:.0f} GFLOP/s for 5 s, {best:.0f} in the best single one",
    },
    "zh": {
        "language": "zh",
        "quickstart": ("阶段", "用时", "产物"),
        "of peak": "的实测矩阵峰值",
        "smaller": "小于 float32",
        "total": "机器：{machine}；安装 {install}，之后共 {total}。",
        "poet": ("", "每字节比特", "合格律的形式", "押韵", "抄来的诗句"),
        "poet rows": ("字节 n-gram", "danlu run poet", "真实的留出诗"),
        "poet note": "`xz -9e` 每字节需要 {xz:.2f} 比特；两句末字碰巧押韵的概率为 {chance:.0%}。"
        "机器：{machine}；共 {total}。",
        "train": ("训练程序", "tokens/s（最低到最高）", "占持续矩阵乘法", "占单次最快乘法"),
        "machine": "机器：{machine}；{detail}。{rounds} 轮交替运行的中位数。",
        "peak": "{dtype} 矩阵乘法持续 5 秒 {peak:.0f} GFLOP/s，单次最快 {best:.0f}",
    },
}  # fmt: skip


def train_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            "{median:,.0f} ({low:,.0f} – {high:,.0f})".format(**row["tokens_per_second"]),
            f"{row['share_of_peak']['median']:.0%}",
            f"{row['share_of_best_product']:.0%}",
        )
        for row in data["rows"]
    ]
    peak, best = data["peak_flops"]["median"] / 1e9, data["best_product_flops"] / 1e9
    detail = words["peak"].format(dtype=data["dtype"], peak=peak, best=best)
    return table(words["train"], rows) + note(data, words, detail)


def quickstart_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    from danlu.core.progress import human_bytes, human_seconds

    m = data["metrics"]
    rows = {
        "corpus": f"{m['corpus']['documents']:,} documents, {human_bytes(m['corpus']['bytes'])}",
        "tokenizer": f"{m['tokenizer']['vocab_size']:,} tokens, {m['tokenizer']['bytes_per_token']:.2f} bytes/token",
        "tokens": f"{m['tokens']['train_tokens']:,} tokens",
        "base": f"{m['base']['parameters']:,} parameters, {m['base']['tokens']:,} tokens, "
        f"{m['base']['share_of_peak']:.0%} {words['of peak']}",
        "instructions": f"{m['instructions']['rows']:,} rows",
        "chat": f"{m['chat']['tokens']:,} tokens, loss {m['chat']['validation_loss']:.2f}",
        "int8": f"{human_bytes(m['int8']['bytes_in_float32'])} → {human_bytes(m['int8']['bytes_after'])}",
        "report": f"{m['report']['bits_per_byte']:.3f} bits/byte; `xz -9e` {m['report']['xz_bits_per_byte']:.3f}, "
        f"n-gram {m['report']['ngram_bits_per_byte']:.3f}",
        "comparison": f"{m['comparison']['before_bits_per_byte']:.3f} → {m['comparison']['after_bits_per_byte']:.3f} "
        f"bits/byte, {m['comparison']['smaller']:.1%} {words['smaller']}",
    }
    lines = [(f"`{name}`", human_seconds(data["stages"][name]), text) for name, text in rows.items()]
    total = words["total"].format(
        machine=data["machine"], total=human_seconds(data["seconds"]), install=human_seconds(data["install_seconds"])
    )
    return table(words["quickstart"], lines) + f"\n{total}\n"


def poet_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    """The three rows of everything that is judged, and the language model's own measure."""
    from danlu.core.progress import human_seconds

    r = data["metrics"]["report"]

    def row(label: str, prefix: str, bits: str) -> tuple[str, ...]:
        return (label, bits, *(f"{r[f'{prefix}{key}']:.0%}" for key in ("regular", "rhyme", "copied")))

    rows = [
        row(words["poet rows"][0], "ngram_", f"{r['ngram_bits_per_byte']:.2f}"),
        row(words["poet rows"][1], "", f"{r['bits_per_byte']:.2f}"),
        row(words["poet rows"][2], "oracle_", "–"),
    ]
    facts = words["poet note"].format(
        machine=data["machine"],
        total=human_seconds(data["seconds"]),
        xz=r["xz_bits_per_byte"],
        chance=r["chance_rhyme"],
    )
    return table(words["poet"], rows) + f"\n{facts}\n"


def trials_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    rows = [
        (
            row["name"],
            "{median:.3f} ({low:.3f} – {high:.3f})".format(**row["validation_loss"]),
            f"{row['tokens_per_second']['median']:,.0f}",
        )
        for row in data["rows"]
    ]
    what = f"{data['what'].capitalize()}: median and range of {data['seeds']} seeds. Machine: {data['machine']}."
    return table(("setting", "loss", "tokens/s"), rows) + f"\n{what}\n"


def rounding_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    plain = data["rows"][0]["perplexity"]
    rows = [
        (
            row["name"],
            f"{row['bits_per_weight']:.1f}",
            f"{row['perplexity']:.2f}",
            f"{row['perplexity'] / plain - 1:+.1%}",
        )
        for row in data["rows"]
    ]
    return table(("", "bits per weight", "perplexity", "against float32"), rows)


def compress_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    original = data["rows"][0]
    plain, parameters = original["perplexity"], original["parameters"]
    rows = []
    for row in data["rows"]:
        if "why_not" in row:
            rows.append((row["name"], row["why_not"], "", "", "", "", ""))
            continue
        made = row["seconds"] > 0
        rows.append(
            (
                row["name"],
                f"{row['bytes'] / 1e6:.1f}",
                f"{max(1 - row['bytes'] / (4 * parameters), 0):.1%}",
                f"{8 * row['bytes'] / parameters:.2f}",
                f"{row['perplexity']:.2f} ({row['perplexity'] / plain - 1:+.1%})",
                f"{row['seconds']:.0f}" if made else "",
                f"{row['peak_bytes'] / 2**30:.1f}" if row["peak_bytes"] else "",
            )
        )
    columns = ("", "MB", "of float32 saved", "bits per weight", "perplexity", "seconds", "peak GiB")
    about = (
        f"Machine: {data['machine']}; {data['held_out_bytes']:,} bytes of held-out text. Bits a weight of the original."
    )
    return table(columns, rows) + f"\n{about}\n\n{_beside_papers(data['rows'])}\n"


# Perplexity on WikiText after magnitude pruning divided by that after the method: arXiv:2306.11695, table 3 (LLaMA-7B),
# and arXiv:2301.00774, table 1 (OPT-125M).
PAPERS = {
    ("half of the weights 0", "Wanda"): "2.4 for LLaMA-7B (17.29 / 7.26)",
    ("half of the weights 0", "SparseGPT"): "2.4 for LLaMA-7B (17.29 / 7.22), 5.2 for OPT-125M (193 / 36.85)",
    ("2 of 4 weights 0", "Wanda"): "3.7 for LLaMA-7B (42.13 / 11.53)",
    ("2 of 4 weights 0", "SparseGPT"): "3.8 for LLaMA-7B (42.13 / 11.00)",
}


def _beside_papers(rows: list[dict[str, Any]]) -> str:
    found = {row["name"]: row["perplexity"] for row in rows if "perplexity" in row}
    lines = ["How many times its perplexity magnitude pruning has, here and in the papers (on WikiText):\n"]
    for (what, method), theirs in PAPERS.items():
        here = found[f"magnitude, {what}"] / found[f"{method}, {what}"]
        lines.append(f"- {method}, {what}: {here:.1f}; {theirs}")
    return "\n".join(lines)


def lab_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    columns = (
        "", "MB", "bits a weight", "bits per byte", "next token right", "same first choice", "one answer, tokens/s",
        "at once", "memory, MB", "made in, s",
    )  # fmt: skip
    rows = []
    for row in data["rows"]:
        low, high = row["change_low"], row["change_high"]
        rows.append(
            (
                f"**{row['name']}**" if row["front"] else row["name"],
                f"{row['weight_bytes'] / 1e6:.1f}",
                f"{row['bits_per_weight']:.2f}",
                f"{row['bits_per_byte']:.4f} ({row['bits_per_byte_change']:+.2%}; {low:+.2%} to {high:+.2%})",
                _share(row, "accuracy"),
                _share(row, "agreement"),
                f"{row['decode_tokens_per_second']:.0f}",
                f"{row['batched_tokens_per_second']:.0f}",
                f"{row['peak_memory_bytes'] / 1e6:.0f}",
                f"{row['seconds_to_make']:.3g}" if row.get("seconds_to_make") else "",
            )
        )
    advice = "".join(f"- **{use}**: {one['choice']}, {one['because']}\n" for use, one in data["advice"].items())
    about = f"{data['bytes']:,} bytes in {data['documents']} documents; {data['requests']} requests at once"
    return table(columns, rows) + f"\nMachine: {data['machine']}; {about}. Bold: on the front.\n\n{advice}"


def _share(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    low, high = row[name]["interval"]
    return f"{row[name]['value']:.1%} ({low:.1%} to {high:.1%})"


def billions_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    gib = {key: f"{data[key] / 2**30:.1f} GiB" for key in data if key.endswith("_bytes") or key.startswith("bytes_")}
    shape = f"{data['layers']} layers, width {data['hidden']}, MLP {data['inner']}"
    return table(
        ("random weights", "as bfloat16", "in 4 bits", "memory planned", "memory at its peak", "minutes"),
        [
            (
                shape,
                gib["bytes_before"],
                gib["bytes_after"],
                gib["planned_memory_bytes"],
                gib["peak_memory_bytes"],
                f"{data['seconds'] / 60:.0f}",
            )
        ],
    )


def cache_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    plain = data["rows"][0]["perplexity"]
    rows = [
        (
            row["name"],
            f"{row['bytes_per_token'] / 1024:.1f} KiB",
            f"{row['perplexity']:.3f} ({row['perplexity'] / plain - 1:+.2%})",
            f"{row['decode_ms']:.1f} ms",
            f"{row['prefill_ms']:.0f} ms",
        )
        for row in data["rows"]
    ]
    heads = ("keys and values in", "a token", "perplexity (against float32)", "a step of 32 streams", "a prompt")
    return table(heads, rows) + f"\nMachine: {data['machine']}. Medians of {data['rounds']} interleaved steps.\n"


def start_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    names = {row["version"]: "now" if row["version"] == "here" else row["version"] for row in data["rows"]}
    rows = []
    for form in dict.fromkeys(row["form"] for row in data["rows"]):
        for version, name in names.items():
            [row] = [one for one in data["rows"] if (one["form"], one["version"]) == (form, version)]
            times = ["{median:.2f} ({low:.2f} – {high:.2f})".format(**row[k]) for k in ("seconds", "processor_seconds")]
            rows.append((form, name, *times, f"{row['own_bytes']['median'] / 2**20:.0f} MiB"))
    return table(("", "", "to the first token, s", "processor seconds", "memory of its own"), rows)


def speculative_table(data: dict[str, Any], words: dict[str, Any]) -> str:
    rows = [
        (
            f"{row['text']}, {row['streams']}",
            row["name"],
            "{median:.2f} ({low:.2f} – {high:.2f})".format(**row["ratio_to_plain"]),
            f"{row['guesses_per_token']:.2f}",
            f"{row['right']:.0%}" if row["right"] is not None else "–",
        )
        for row in data["rows"]
        if "," in row["name"]
    ]
    columns = ("text, streams", "engine", "times plain decoding", "guesses a token", "right")
    what = (
        f"{data['what'].capitalize()}: {data['rounds']} rounds in turns, median and range. Machine: {data['machine']}."
    )
    return table(columns, rows) + f"\n{what}\n"


def note(data: dict[str, Any], words: dict[str, Any], detail: str) -> str:
    return "\n" + words["machine"].format(machine=data["machine"], rounds=data["rounds"], detail=detail) + "\n"


TABLES = {
    "quickstart": quickstart_table,
    "poet": poet_table,
    "train": train_table,
    "engine": lambda data, words: engine_tables(data, words["language"]),
    "trials": trials_table,
    "rounding": rounding_table,
    "compress": compress_table,
    "compress_billions": billions_table,
    "lab": lab_table,
    "lab_quickstart": lab_table,
    "cache": cache_table,
    "start": start_table,
    "speculative": speculative_table,
}


def render(text: str, language: str) -> str:
    def fill(match: re.Match[str]) -> str:
        result, make = data_tables.TABLES.get(match[2]) or (match[2], TABLES[match[2]])
        data = json.loads((HERE / "results" / f"{result}.json").read_text(encoding="utf-8"))
        return match[1] + make(data, WORDS[language]) + match[3]

    return BLOCK.sub(fill, text)


def main() -> int:
    stale = []
    for name, language in DOCUMENTS.items():
        path = HERE.parent / name
        old = path.read_text(encoding="utf-8")
        new = render(old, language)
        if new != old:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    print("stale: " + ", ".join(stale) if stale else "the tables are what was measured")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
