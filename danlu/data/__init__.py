"""The data room: from the wild web and a folder of documents to texts one can train on.

A document is a row the whole way, and every step answers "keep" or a reason. What is dropped is written beside what is
kept, with that reason; what is changed is counted and shown.

    sources -> formats -> clean -> language -> safety -> quality -> dedup -> contamination -> split -> mixing

| stage                                                  | makes of what                                              |
|--------------------------------------------------------|------------------------------------------------------------|
| `crawl`                                                | WARC files of pages that somebody named                    |
| `measure`, `select`, `prepare`                         | numbers about every text, the corpus, or both in a row     |
| `decontaminate`                                        | a corpus without the items of benchmarks                   |
| `rate`, `train_classifier`, `train_perplexity`, `score` | quality by a model, learnt, and put beside the rows        |
| `mix`                                                  | several corpora into one, by an exact plan                 |
| `augment`, `label`                                     | more documents out of some; labels out of rules and people |
| `instruct`                                             | chat rows out of a corpus                                  |

| folder or file                                         | what it answers                                            |
|--------------------------------------------------------|------------------------------------------------------------|
| `document`, `dataset`, `measured`                      | the three kinds of rows: texts, chats, texts with numbers  |
| `sources/`, `formats/`                                 | which files does a name mean; what text is in a file       |
| `clean/`, `literals/`                                  | what is noise; hundreds of fixed strings in one pass       |
| `language/`                                            | which language is it, and how sure is that                 |
| `safety/`                                              | personal data, toxic text, orders to a model, licences     |
| `quality/`                                             | is it worth learning from: rules, classifiers, perplexity  |
| `scan/`                                                | one compiled pass: all measures, signature, hashes         |
| `dedup/`                                               | what says the same                                         |
| `contamination/`                                       | which exams there are; which documents hold their items    |
| `measuring/`                                           | how `measure` works                                        |
| `rewriting`                                            | from corpus to corpus, piece by piece                      |
| `split`                                                | what is held out, so that nothing held out was seen        |
| `selecting/`                                           | how `select` decides and delivers                          |
| `report/`                                              | what happened; why was this document dropped               |
| `mixing/`, `labelling/`                                | shares and order; label models and what people say         |
| `noise`, `remote`, `docstrings`                        | typing errors; models elsewhere; questions out of code     |
| `export`                                               | jsonl, TFRecord, WebDataset, nanochat                      |

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
