"""Tokenizers compared on the same texts: what each costs by language and domain, and how fast it is.

    corpus, tokenizer, other, third?  --->  report.json, report.md

| number          | meaning                                                                                     |
|-----------------|---------------------------------------------------------------------------------------------|
| bytes_per_token | UTF-8 bytes by ids, for each language of the corpus and each of the domains below           |
| fertility       | ids by units (a Han character, a word): what a reader of that language pays                 |
| parity          | ids of the Chinese by ids of the English of sentences that say the same: 1 is fair          |
| digits_alone    | share of digits that are a token by themselves: sums are easier to learn where it is high   |
| speed           | MB/s of `encode_arrays` on the texts of the corpus; of the machine, so a metric, not payload |

A corpus has languages; prose, classical verse, code and numbers are told apart in no corpus. So a few texts of each lie
in this file, written for it: they are the same for whoever compares, and short, so their numbers are a first look and
the corpus's are the measure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.core.text import units
from danlu.data.document import Document, read_documents
from danlu.tokenizer.report import tokenizer_report
from danlu.tokenizer.tokenizer import Tokenizer

# Sentences that say the same, for parity.
PARALLEL: tuple[tuple[str, str], ...] = (
    ("今天早上下了一场小雨，空气很清新。", "It rained a little this morning, and the air is fresh."),
    ("请把窗户关上，外面太吵了。", "Please close the window, it is too noisy outside."),
    ("这本书讲的是一个孩子怎样学会游泳。", "This book is about how a child learned to swim."),
    ("服务器在凌晨三点自动备份所有数据。", "The server backs up all data automatically at three in the morning."),
    ("如果明天不下雨，我们就去爬山。", "If it does not rain tomorrow, we will go hiking."),
    ("模型的训练需要大量的文本和计算。", "Training a model takes a great deal of text and computation."),
    ("他花了两年时间才写完这篇论文。", "It took him two years to finish this paper."),
    ("医生建议她每天走一个小时的路。", "The doctor advised her to walk for an hour every day."),
)
DOMAINS: dict[str, tuple[str, ...]] = {
    "zh prose": tuple(zh for zh, _ in PARALLEL),
    "zh classical": (
        "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
        "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
        "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    ),
    "en prose": tuple(en for _, en in PARALLEL),
    "code": (
        "def mean(values: list[float]) -> float:\n    return sum(values) / len(values) if values else 0.0\n",
        "for (size_t i = 0; i < n; i++) {\n    total += weight[i] * x[i];  // one row\n}\n",
        '{"name": "danlu", "stages": ["corpus", "tokenizer"], "budget": null}\n',
    ),
    "numbers": ("0 7 42 365 1024 65536", "3.14159265 2.71828", "2024-02-29 23:59:58", "1,234,567.89 + 9.5% = ?"),
}


class CompareConfig(StageConfig):
    max_bytes: int = Field(default=5_000_000, gt=0)  # of text from the corpus, in whole documents


@stage(
    "tokenizer.compare",
    makes="report",
    takes={
        "corpus": "corpus",
        "tokenizer": ("tokenizer", "model"),
        "other": ("tokenizer", "model"),
        "third?": ("tokenizer", "model"),
    },
)
def compare(
    config: CompareConfig,
    run: StageRun,
    corpus: Artifact,
    tokenizer: Artifact,
    other: Artifact,
    third: Artifact | None = None,
) -> dict[str, Any]:
    """Compare tokenizers on the same texts: bytes per token by language and domain, parity, numbers, speed."""
    chosen = {role: a for role, a in (("tokenizer", tokenizer), ("other", other), ("third", third)) if a is not None}
    split = "validation" if next(read_documents(corpus, "validation"), None) is not None else "train"
    documents = list(_first(read_documents(corpus, split), config.max_bytes))
    rows: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float] = {}
    for done, (role, artifact) in enumerate(chosen.items()):
        loaded = Tokenizer.load(artifact.path)
        rows[role] = {"id": artifact.id, **compare_row(loaded, documents)}
        speeds[f"{role}_megabytes_per_second"] = encoding_speed(loaded, [document.text for document in documents])
        run.progress(done + 1, len(chosen), "tokenizers")
    write_json(run.out / "report.json", {"measured_on": split, "documents": len(documents), "tokenizers": rows})
    atomic_write(run.out / "report.md", markdown(rows).encode())
    totals = {f"{role}_bytes_per_token": row["total"]["bytes_per_token"] for role, row in rows.items()}
    return {**totals, **{f"{role}_parity": row["parity"] for role, row in rows.items()}, **speeds}


def compare_row(tokenizer: Tokenizer, documents: Sequence[Document]) -> dict[str, Any]:
    """All numbers of one tokenizer but its speed."""
    zh, en = (sum(len(tokenizer.encode(pair[side])) for pair in PARALLEL) for side in (0, 1))
    report = tokenizer_report(tokenizer, documents, max_bytes=2**62)
    return {
        **report,
        "domains": {name: _cost(tokenizer, texts) for name, texts in DOMAINS.items()},
        "parity": round(zh / en, 4),
        "digits_alone": _digits_alone(tokenizer, DOMAINS["numbers"]),
    }


def encoding_speed(tokenizer: Tokenizer, texts: Sequence[str], *, seconds: float = 1.0) -> float:
    """Megabytes of UTF-8 a second on all cores: the best of the runs that fit into `seconds`, at least two."""
    n_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    best, end, runs = 0.0, time.perf_counter() + seconds, 0
    while runs < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        tokenizer.encode_arrays(texts)
        best = max(best, n_bytes / 1e6 / max(time.perf_counter() - start, 1e-9))
        runs += 1
    return round(best, 2)


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The report as one table, a tokenizer a column."""
    languages = sorted({language for row in rows.values() for language in row["languages"]})
    table = [["", *(f"{name} ({row['id']})" for name, row in rows.items())], ["---"] * (len(rows) + 1)]

    def line(label: str, *path: str) -> None:
        table.append([label, *(str(_find(row, path)) for row in rows.values())])

    line("vocabulary", "vocab_size")
    for language in languages:
        line(f"bytes/token, {language}", "languages", language, "bytes_per_token")
    for domain in DOMAINS:
        line(f"bytes/token, {domain}", "domains", domain, "bytes_per_token")
    for language in languages:
        line(f"tokens/unit, {language}", "languages", language, "tokens_per_unit")
    line("parity zh/en", "parity")
    line("digits alone", "digits_alone")
    line("vocabulary used", "vocabulary_used")
    line("round trip errors", "round_trip_errors")
    return "".join("| " + " | ".join(cells) + " |\n" for cells in table)


def _find(row: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        row = row[key]
    return row


def _cost(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    n_tokens = sum(len(tokenizer.encode(text)) for text in texts)
    n_bytes, n_units = sum(len(text.encode()) for text in texts), sum(len(units(text)) for text in texts)
    return {
        "bytes_per_token": round(n_bytes / n_tokens, 4),
        "tokens_per_unit": round(n_tokens / n_units, 4),
        "tokens": n_tokens,
    }


def _digits_alone(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    tokens = [tokenizer.token_bytes(i).strip() for text in texts for i in tokenizer.encode(text)]
    n_digits = sum(sum(character.isdigit() for character in text) for text in texts)
    return round(sum(token.isdigit() and len(token) == 1 for token in tokens) / n_digits, 4)


def _first(documents: Iterable[Document], max_bytes: int) -> Iterable[Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.text.encode("utf-8", "replace"))
        if size >= max_bytes:
            return
