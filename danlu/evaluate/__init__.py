"""The evaluation room: what a model can do, beside what a trivial method can do on the same cases.

A number alone says nothing: 1.9 bits per byte may be good or shameful. So every capability is judged in three rows
on the same cases, each with n and an interval:

    trivial baseline    a compressor, a byte n-gram
    danlu               the model
    oracle              the held-out text itself

| file          | what it answers                                                                     |
|---------------|-------------------------------------------------------------------------------------|
| `perplexity`  | how many bits does the model need for a byte of text it has not seen                |
| `baselines`   | how many does `xz -9e` need, how many a byte n-gram; the n-gram can also write      |
| `generation`  | how often is a completed Python function Python                                     |
| `poems`       | how often is a poem in regular form, do its lines rhyme, are they copied            |
| `statistics`  | how far can chance move such a number                                               |
| `samples`     | which held-out documents are the cases                                              |
| `tasks`       | the table of tasks, and `run_task`, what `danlu eval` runs                          |
| `report`      | a model's report card (stage `evaluate.report`)                                     |
| `compare`     | a model before and after a change (stage `evaluate.compare`)                        |
| `lab/`        | many versions of a model on one table and picture (stage `evaluate.lab`)            |
| `speed`       | tokens per second on this machine, and the memory that takes                        |

Perplexity is always given with bits per byte: perplexity per token falls or rises with the vocabulary, and a word
is not a unit that Chinese has.
"""

from __future__ import annotations

import importlib
from typing import Any

STAGES: tuple[str, ...] = ("report", "compare", "lab")

_EXPORTS = {
    "TASKS": "tasks",
    "run_task": "tasks",
    "TextScore": "perplexity",
    "score_texts": "perplexity",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"danlu.evaluate.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
