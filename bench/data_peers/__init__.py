"""The contestants of `bench/data.py`.

danlu.py, datatrove.py and juicer.py stay loaded and answer requests (contest.serve), in environments of their own:

    python -m bench.data_peers.NAME

    {"stage": "quality", "file": "x.jsonl", "start": 0, "bytes": 1500000, "language": "zh"}
        --> {"seconds": 1.2, "bytes": 1500123, "documents": 512, "kept": 498}
    {"stage": "html", "path": "pages.warc.gz"}
        --> {"seconds": 4.8, "texts": {url: text}}

For quality and signatures, texts are in memory before the clock starts and results stay there: what is timed is the
stage and not the reading. A contestant that is done in less than half a second goes on with the next texts of the file
until it is not. One thread.

The others, STAGE_NAME.py, are started anew for each turn and print their JSON last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from bench import contest

LEAST_SECONDS = 0.5

# texts, language -> how many are kept (or signed)
Stage = Callable[[list[str], str], int]


def serve(stages: dict[str, Stage], html: Callable[[str], dict[str, str]] | None = None) -> None:
    """Answer requests; `html` turns the path of a WARC into texts by URL."""
    files: dict[str, list[str]] = {}

    def pages(request: dict[str, Any]) -> dict[str, Any]:
        assert html is not None
        begin = time.perf_counter()
        texts = html(request["path"])
        return {"seconds": time.perf_counter() - begin, "texts": texts}

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["stage"] == "html":
            return pages(request)
        if request["file"] not in files:
            with open(request["file"], encoding="utf-8") as lines:
                files[request["file"]] = [json.loads(line)["text"] for line in lines]
        texts, stage, language = files[request["file"]], stages[request["stage"]], request["language"]
        place = request["start"] % len(texts)
        total = {"seconds": 0.0, "bytes": 0, "documents": 0, "kept": 0}
        while total["seconds"] < LEAST_SECONDS:
            batch: list[str] = []
            size = 0
            while size < request["bytes"]:
                batch.append(texts[place])
                size += len(texts[place].encode())
                place = (place + 1) % len(texts)
            begin = time.perf_counter()
            kept = stage(batch, language)
            total["seconds"] += time.perf_counter() - begin
            total["bytes"] += size
            total["documents"] += len(batch)
            total["kept"] += kept
        return total

    contest.serve(handle)
