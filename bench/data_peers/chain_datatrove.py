"""The whole chain by datatrove, as its example `fineweb.py` builds FineWeb, on two local tasks. Prints JSON.

python -m bench.data_peers.chain_datatrove IN OUT TOKENIZER_FOLDER LANGUAGE_MODEL

    WARC -> trafilatura -+
    jsonl ---------------+-> language -> Gopher repetition, Gopher quality, C4, FineWeb -> jsonl
    MinHash: signatures, buckets (14 x 8), clusters, filter -> personal data -> token shards

Left out of that example is the list of blocked addresses. Language is identified with lid.176.ftz, the smaller form of
the model that datatrove would download, from the same wheel danlu takes it from.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

TASKS = 2
EOS = "<|endoftext|>"


def main() -> None:
    source, out, tokenizer, model = (str(Path(argument).resolve()) for argument in sys.argv[1:])
    shutil.rmtree(out, ignore_errors=True)
    seconds = {}
    for name, step in {
        "pages": lambda: _filter([WarcReader(source, glob_pattern="*.warc.gz"), Trafilatura(favour_precision=True)],
                                 out, "pages", model),
        "jsonl": lambda: _filter([JsonlReader(source, glob_pattern="*.jsonl")], out, "jsonl", model),
        "duplicates": lambda: _duplicates(out),
        "tokens": lambda: _tokens(out, tokenizer),
    }.items():  # fmt: skip
        begin = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - begin
    print(json.dumps({"parts": seconds, **_found(Path(out))}))


def _run(out: str, pipeline: list, tasks: int = TASKS) -> None:
    logs = f"{out}/logs/{len(list(Path(out).glob('logs/*')))}"
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=TASKS, logging_dir=logs).run()


def _filter(head: list, out: str, name: str, model: str) -> None:
    language = LanguageFilter()
    language.model.MODEL_URL = model
    steps = {
        "language": language,
        "repetition": GopherRepetitionFilter(),
        "gopher": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    for reason, one in steps.items():
        one.exclusion_writer = JsonlWriter(f"{out}/removed/{reason}-{name}", compression=None)
    _run(out, [*head, *steps.values(), JsonlWriter(f"{out}/filtered/{name}", compression=None)])


def _duplicates(out: str) -> None:
    config = MinhashConfig(hash_config=HashConfig(precision=64))
    read = JsonlReader(f"{out}/filtered")
    _run(out, [read, MinhashDedupSignature(f"{out}/signatures", config=config)])
    buckets = MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)
    _run(out, [buckets], tasks=config.num_buckets)
    _run(out, [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config)], tasks=1)


def _tokens(out: str, tokenizer: str) -> None:
    removed = JsonlWriter(f"{out}/removed/duplicates", compression=None)
    _run(out, [
        JsonlReader(f"{out}/filtered"),
        MinhashDedupFilter(f"{out}/remove", exclusion_writer=removed),
        JsonlWriter(f"{out}/kept", compression=None),
        PIIFormatter(),
        DocumentTokenizer(f"{out}/tokens", f"{tokenizer}/tokenizer.json", eos_token=EOS, shuffle_documents=False),
    ])  # fmt: skip


def _found(out: Path) -> dict:
    """Ids of what was kept, and of what each step removed; tokens in the shards."""
    removed: dict[str, list[str]] = {}
    for folder in sorted((out / "removed").iterdir()):
        removed.setdefault(folder.name.partition("-")[0], []).extend(_names(folder))
    size = sum(file.stat().st_size for file in (out / "tokens").glob("*.ds"))
    return {"kept": _names(out / "kept"), "removed": removed, "tokens": size // 2}


def _names(folder: Path) -> list[str]:
    """The name of each document: the address of a page, else its id."""
    rows = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.open(encoding="utf-8")]
    return [row.get("metadata", {}).get("url") or row["id"] for row in rows]


if __name__ == "__main__":
    main()
