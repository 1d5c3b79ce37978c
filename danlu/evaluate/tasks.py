"""The table of tasks: what a model can be judged on.

A task is a function from a `Bench` (the model and the cases) to a flat result,

    {"task": "perplexity", "n": 31, "unit": "documents",
     "metrics":   {"bits_per_byte": ..., "perplexity": ..., "interval_low": ..., ...},
     "baselines": {"xz": {"bits_per_byte": ...}, "ngram": {"bits_per_byte": ...}}}

and adding one is adding a row to `TASKS`. The same table serves `danlu eval` and the stage `evaluate.report`.

What is measured on, when the caller does not say: the held-out documents of the corpus that the model descends from.
Baselines that must be trained (the n-gram) are trained on training documents of that corpus; for a model from
elsewhere there are none, and the row is left out rather than made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError, suggest
from danlu.core.store import Store, default_store
from danlu.evaluate import samples

if TYPE_CHECKING:
    from danlu.data.document import Document
    from danlu.evaluate.baselines import ByteNgram
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

Progress = Callable[[int, int], None]

NGRAM_BYTES = 4_000_000  # of training text; more makes the n-gram little better and counting it slower
_ALL_BYTES = 64_000_000  # "all held-out text" means at most this much


@dataclass(frozen=True)
class Bench:
    """A model on the bench: what is judged, on which documents, how thoroughly."""

    model: Transformer
    tokenizer: Tokenizer
    documents: list[Document]  # held out
    corpus: Artifact | None = None  # where training text for baselines is
    context: int | None = None  # positions per window; None: as many as the model has
    cases: int = 64  # of tasks that generate
    seed: int = 0
    progress: Progress | None = None

    @cached_property
    def ngram(self) -> ByteNgram | None:
        """The byte n-gram of the training text, None where there is none."""
        from danlu.evaluate.baselines import ByteNgram

        if self.corpus is None:
            return None
        texts = [document.text for document in samples.training(self.corpus, NGRAM_BYTES, self.seed)]
        return ByteNgram(texts) if texts else None

    def training(self) -> Iterable[Document]:
        from danlu.data.document import read_documents

        return read_documents(self.corpus, "train") if self.corpus is not None else ()


@dataclass(frozen=True)
class Task:
    """A row of the table. `columns` are the metrics that make the table of a report, best known first."""

    run: Callable[[Bench], dict[str, Any]]
    summary: str
    columns: tuple[str, ...]


def run_task(
    name: str,
    model: Artifact,
    *,
    data: Path | str | None = None,
    store: Store | None = None,
    max_bytes: int = 500_000,
    cases: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge a model on one task; what `danlu eval` prints.

    `data`: a corpus (by path, id or name), or a file, folder or source whose whole text is held out.
    Raises UserError for an unknown task, and when there is nothing to measure on.
    """
    task = get_task(name)
    store = store or default_store()
    own = _corpus_of(model, store)
    if data is None:
        if own is None:
            raise UserError(
                f"{model.id} does not descend from a corpus in the store", "say what to measure on: --data FILE"
            )
        documents = samples.held_out(own, max_bytes, seed)
    elif (corpus := _as_corpus(data, store)) is not None:
        own, documents = corpus, samples.held_out(corpus, max_bytes, seed)
    else:
        documents = samples.take(samples.documents_of_source(str(data)), max_bytes, seed)
    loaded, tokenizer = load_judged(model)
    bench = Bench(loaded, tokenizer, documents, own, trained_context(model), cases, seed, progress)
    return {"task": name} | task.run(bench)


def get_task(name: str) -> Task:
    if name not in TASKS:
        raise UserError(f'there is no task "{name}"', suggest(name, TASKS))
    return TASKS[name]


def load_judged(model: Artifact) -> tuple[Transformer, Tokenizer]:
    """A model with its tokenizer on the device of this machine. Raises UserError when there is no tokenizer."""
    from danlu.core.device import torch_device
    from danlu.model.hub import load

    loaded, tokenizer = load(model.path)
    if tokenizer is None:
        raise UserError(f"{model.id} has no tokenizer", "tasks are made of text: put tokenizer.json beside the weights")
    return loaded.to(torch_device()).eval(), tokenizer


def trained_context(model: Artifact) -> int | None:
    """How long the windows of its training were, if that is known: beyond it a model is not itself."""
    import json

    for folder in (model.path,) if model.path.is_dir() else ():
        file = folder / "report.json"
        if file.is_file():
            try:
                value = json.loads(file.read_text(encoding="utf-8")).get("context")
            except (ValueError, AttributeError):
                return None
            return value if isinstance(value, int) and value > 1 else None
    return None


# ---- the tasks -------------------------------------------------------------------------------------------------


def _perplexity(bench: Bench) -> dict[str, Any]:
    from danlu.evaluate.baselines import xz_bits_per_byte
    from danlu.evaluate.perplexity import score_texts

    texts = [document.text for document in bench.documents]
    score = score_texts(bench.model, bench.tokenizer, texts, context=bench.context, progress=bench.progress)
    metrics = score.summary(bench.seed)
    low, high = metrics.pop("interval")
    metrics |= {"interval_low": low, "interval_high": high}
    baselines = {"xz": {"bits_per_byte": xz_bits_per_byte(texts)}}
    everything = _all_held_out(bench)
    if len(everything) > len(texts):  # a compressor gains from more text: give it all there is as well
        baselines["xz, all held-out text"] = {"bits_per_byte": xz_bits_per_byte(everything)}
    if bench.ngram is not None:
        bits = float(bench.ngram.bits(texts).sum())
        baselines["ngram"] = {"bits_per_byte": bits / metrics["bytes"]}
    return {"n": metrics.pop("documents"), "unit": "documents", "metrics": metrics, "baselines": baselines}


def _python(bench: Bench) -> dict[str, Any]:
    from danlu.evaluate.generation import python_parse_rate

    result = python_parse_rate(
        bench.model,
        bench.tokenizer,
        bench.documents,
        bench.ngram,
        cases=bench.cases,
        seed=bench.seed,
        progress=bench.progress,
    )
    rows = {name: _flat({"parses": row}) for name, row in result["rows"].items()}
    n = result["rows"]["model"]["n"]
    metrics = rows.pop("model")
    return {"n": n, "unit": "functions", "metrics": metrics, "baselines": rows, "samples": result["samples"]}


def _poems(bench: Bench) -> dict[str, Any]:
    from danlu.evaluate.poems import judge_poems

    result = judge_poems(
        bench.model,
        bench.tokenizer,
        bench.documents,
        bench.training,
        bench.ngram,
        cases=bench.cases,
        seed=bench.seed,
        progress=bench.progress,
    )
    n = result["rows"]["model"]["regular"]["n"]
    rows = {name: _flat(row) for name, row in result["rows"].items()}
    metrics = rows.pop("model")
    rows["chance"] = {"rhyme": result["rhyme_by_chance"]}
    return {"n": n, "unit": "poems", "metrics": metrics, "baselines": rows, "samples": result["samples"]}


TASKS: Mapping[str, Task] = {
    "perplexity": Task(_perplexity, "bits per byte and perplexity on held-out text", ("bits_per_byte", "perplexity")),
    "python": Task(_python, "share of completed Python functions that parse", ("parses",)),
    "poems": Task(_poems, "form, rhyme and originality of Chinese poems", ("regular", "rhyme", "copied")),
}


# ---- helpers ---------------------------------------------------------------------------------------------------


def _flat(row: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{"parses": {value, interval, n}} -> {"parses", "parses_low", "parses_high", "parses_n"}."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        low, high = value["interval"]
        flat |= {name: value["value"], f"{name}_low": low, f"{name}_high": high, f"{name}_n": value["n"]}
    return flat


def _all_held_out(bench: Bench) -> list[str]:
    from danlu.data.document import read_documents

    if bench.corpus is None:
        return []
    known = {document.id for document in bench.documents}
    everything = samples.take(read_documents(bench.corpus, "validation"), _ALL_BYTES, bench.seed)
    return [d.text for d in everything] if known <= {d.id for d in everything} else []


def _as_corpus(data: Path | str, store: Store) -> Artifact | None:
    """The corpus that `data` names, None when it is a file, a folder of files or a named source."""
    path = Path(data)
    if path.is_dir():
        return Artifact.from_path(path, "corpus") if any(path.glob("validation-*.parquet")) else None
    if path.exists() or ":" in str(data):
        return None
    return store.resolve(str(data), "corpus")


def _corpus_of(model: Artifact, store: Store) -> Artifact | None:
    """The corpus a model descends from, nearest first, if it is still in the store."""
    from danlu.core.lineage import lineage

    for ancestor in reversed(lineage(store, model).flatten().values()):
        if ancestor.manifest is not None and ancestor.manifest.kind == "corpus":
            return store.get(ancestor.id)
    return None
