"""The data room: from files somebody has to documents one can train on.

One door: `data.prepare` turns sources into a corpus, `data.instruct` turns a corpus (or a file of conversations)
into a dataset of chat rows. A document is a row the whole way,

    sources -> extract -> clean -> language -> quality -> dedup -> split

and every filter answers "keep" or a reason. What is dropped is written beside what is kept, with that reason. More
stages take a corpus and make another: `decontaminate`, `score`, `mix`, `augment`, `label`.

| folder or file                  | what it answers                                                         |
|---------------------------------|-------------------------------------------------------------------------|
| `document`                      | what is a document, and how is it stored                                |
| `sources/`                      | which files does "python:stdlib" or "npm:chinese-poetry" mean           |
| `formats/`                      | what text is in this file (txt, md, html, jsonl, parquet, csv, gz, zst) |
| `clean/`                        | what is noise: characters, markup, boilerplate, broken lines            |
| `language/`                     | which language is it, in which script; code and mathematics too         |
| `safety/`                       | personal data, toxic text, hidden instructions, licences                |
| `literals/`                     | which of many fixed strings occur in a text                             |
| `quality/`                      | is it worth learning from, and if not, why not                          |
| `dedup/`                        | which documents say the same                                            |
| `split`                         | which documents are held out, so that nothing held out was seen         |
| `prepare`, `pipeline`, `ledger` | the walk through all of these (stage `data.prepare`)                    |
| `benchmarks`                    | what is in HumanEval, MMLU, C-Eval: items, for measuring and for this:  |
| `contamination/`                | which documents hold such items (stage `data.decontaminate`)            |
| `remote`, `rate`                | what a model behind the OpenAI protocol thinks (stage `data.rate`)      |
| `train_classifier`, `score`     | a classifier that learned it, and its score for every document          |
| `train_perplexity`              | an n-gram model of clean text, for `score` as well                      |
| `mix`, `mixing/`                | how much of which corpus, in which order (stage `data.mix`)             |
| `augment`, `noise`              | documents said again, or mistyped (stage `data.augment`)                |
| `label`, `labelling/`           | labels from rules and people (stage `data.label`)                       |
| `dataset`                       | what is a chat row, and which formats of the wild are read into it      |
| `instruct`, `docstrings`        | functions and their docstrings as chat rows (stage `data.instruct`)     |

Nothing here splits text on spaces: all counting is in the units of `danlu.core.text`.
"""

from __future__ import annotations

import importlib
from typing import Any

STAGES = (
    "crawl",
    "measure",
    "select",
    "prepare",
    "decontaminate",
    "rate",
    "train_classifier",
    "train_perplexity",
    "score",
    "mix",
    "augment",
    "label",
    "instruct",
)

_EXPORTS = {
    "Document": "document",
    "read_documents": "document",
    "write_documents": "document",
    "Row": "dataset",
    "read_rows": "dataset",
    "write_rows": "dataset",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"danlu.data.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
