"""The whole chain by danlu: a recipe of data.prepare and tokenizer.pack, two workers, an empty store. Prints JSON.

python -m bench.data_peers.chain_danlu IN OUT TOKENIZER_FOLDER

The rules are danlu's readings of the same papers (gopher, c4, fineweb), and the clusters of topics in the report, which
the peer has no counterpart for, are left out. Everything else is what data.prepare does unless told otherwise:
cleaning, personal data, safety, near-duplicates, a split that keeps what is alike together.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

import danlu

WORKERS = 2
CONFIG = {"rules": ["gopher", "c4", "fineweb"], "topics": 0}


def main() -> None:
    source, out, tokenizer = (Path(argument).resolve() for argument in sys.argv[1:])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ["DANLU_WORKERS"] = str(WORKERS)
    recipe = {
        "name": "chain",
        "stages": {
            "corpus": {"use": "data.prepare", "source": str(source), **CONFIG},
            "tokens": {"use": "tokenizer.pack", "corpus": "$corpus", "tokenizer": str(tokenizer)},
        },
    }
    (out / "chain.yaml").write_text(yaml.safe_dump(recipe))
    begin = time.perf_counter()
    made = danlu.run(out / "chain.yaml", store=out / "store", quiet=True)
    seconds = time.perf_counter() - begin
    parts = {name: artifact.manifest.seconds for name, artifact in made.items()} | {"all": seconds}
    metrics = made["tokens"].manifest.metrics
    tokens = sum(metrics[f"{split}_tokens"] for split in ("train", "validation") if f"{split}_tokens" in metrics)
    print(json.dumps({"parts": parts, "tokens": tokens, **_found(made["corpus"].path)}))


def _found(corpus: Path) -> dict:
    """Names of the documents that are kept, and of those that are not by the kind of reason."""
    import pyarrow.parquet as pq

    kept: set[str] = set()
    removed: dict[str, list[str]] = {}
    for file in sorted(corpus.glob("train-*.parquet")) + sorted(corpus.glob("validation-*.parquet")):
        kept.update(map(_name, pq.read_table(file, columns=["meta"])["meta"].to_pylist()))
    for file in sorted(corpus.glob("rejected-*.parquet")):
        for row in pq.read_table(file, columns=["meta", "reason"]).to_pylist():
            if (name := _name(row["meta"])) not in kept:
                removed.setdefault(row["reason"], []).append(name)
    return {"kept": sorted(kept), "removed": {reason: sorted(set(names)) for reason, names in removed.items()}}


def _name(meta: str) -> str:
    """The address of a page, else the id that the row of the jsonl file had."""
    known = json.loads(meta)
    return known.get("url") or str(known.get("id") or known["path"])


if __name__ == "__main__":
    main()
