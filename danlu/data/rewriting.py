"""From corpus to corpus, piece by piece: how a stage that reads rows and writes rows walks.

    cut      row groups of the corpora, gathered into tasks of a few megabytes             tasks_of
    work     each task by some worker, who fills a folder                                  work_through, core.workers
    gather   the folders in order, into the files of the new corpus                        gather

Folders that are complete stay in the scratch directory of a killed run, and the next run goes on with the others; a
number of workers changes the time and not a byte. A task is JSON:

    {"parts": [{"corpus": "web", "split": "train", "path": ".../train-00000.parquet", "groups": [0, 4], "rows": 812}],
     "first": 20480,                                       rows of all tasks before this one
     ...}                                                  what the stage adds
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.core.stage import StageRun
from danlu.core.workers import Task, Workers, folder_of, produce
from danlu.data.document import COLUMNS, REJECTED_SCHEMA, SCHEMA, Document, ShardWriter, damaged, split_files

PIECE_BYTES = 8 << 20  # of rows as they lie in memory: seconds of work, so that a killed run loses little
SPLITS = ("train", "validation")
_ROWS = 256  # read at a time
Row = dict[str, Any]


def tasks_of(corpora: Mapping[str, Path], splits: Iterable[str] = SPLITS, **settings: Any) -> list[Task]:
    """The tasks of a walk over these splits, one split after the other; `settings` go into each.

    Raises UserError when a folder holds no corpus or a file of it is damaged.
    """
    tasks: list[Task] = []
    size = rows = 0
    for part, part_bytes in _parts(corpora, splits):
        if not tasks or size + part_bytes > PIECE_BYTES:
            tasks.append({"parts": [], "first": rows, **settings})
            size = 0
        tasks[-1]["parts"].append(part)
        size += part_bytes
        rows += part["rows"]
    return tasks


def _parts(corpora: Mapping[str, Path], splits: Iterable[str]) -> Iterator[tuple[Row, int]]:
    """Runs of row groups of one file that fit into a piece, with their bytes."""
    for split, (name, folder) in itertools.product(splits, corpora.items()):
        for file in split_files(folder, split):
            try:
                about = pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise damaged(file, error) from None
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            begin = size = rows = 0
            for end, group in enumerate(groups, start=1):
                size, rows = size + group.total_byte_size, rows + group.num_rows
                if end == len(groups) or size + groups[end].total_byte_size > PIECE_BYTES:
                    part = {"corpus": name, "split": split, "path": str(file), "groups": [begin, end], "rows": rows}
                    yield part, size
                    begin, size, rows = end, 0, 0


def batches(task: Task, columns: Sequence[str] = COLUMNS) -> Iterator[tuple[Row, list[Row]]]:
    """The rows of a task in their order, a few hundred at a time, with the part they are from."""
    for part in task["parts"]:
        try:
            with pq.ParquetFile(part["path"]) as parquet:
                groups = range(*part["groups"])
                for batch in parquet.iter_batches(batch_size=_ROWS, row_groups=list(groups), columns=list(columns)):
                    yield part, batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise damaged(Path(part["path"]), error) from None


def document_batches(task: Task) -> Iterator[tuple[str, list[Document]]]:
    """The documents of a task, with the split they are from."""
    for part, rows in batches(task):
        yield part["split"], [Document(**{**row, "meta": json.loads(row["meta"] or "{}")}) for row in rows]


class Outlets:
    """Where rows go: train-*, validation-* and rejected-*.parquet of a folder. `counts` by split."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        with ExitStack() as stack:
            self._writers = {name: stack.enter_context(ShardWriter(folder, name, SCHEMA)) for name in SPLITS}
            self._writers["rejected"] = stack.enter_context(ShardWriter(folder, "rejected", REJECTED_SCHEMA))
            self._stack = stack.pop_all()

    def put(self, split: str, row: Row) -> None:
        """A row of `SCHEMA`, or of `REJECTED_SCHEMA` into "rejected"."""
        self._writers[split].write(row)
        self.counts[split] += 1

    def __enter__(self) -> Outlets:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def work_through(
    function: str | Callable[[Task, Path], None],
    tasks: Sequence[Task],
    run: StageRun,
    name: str = "pieces",
    workers: Workers | None = None,
) -> list[Path]:
    """Have every task done, those of an earlier try excepted; returns their folders in order.

    `function` as in `core.workers.produce`; `name` of the folder in `run.work`. Raises Interrupted when the user stops
    it, and what the function raises.
    """
    into = run.work / name
    _claim(tasks, into)
    counted = [sum(part["rows"] for part in task["parts"]) for task in tasks]
    done = 0
    for number in produce(function, tasks, into, workers or run.workers, lambda: run.stop_requested):
        done += counted[number]
        run.progress(done, sum(counted), "documents")
    return [folder_of(into, number) for number in range(len(tasks))]


def _claim(tasks: Sequence[Task], into: Path) -> None:
    """Clear away what belongs to other tasks, and say what the folders here belong to."""
    plan, note = json.dumps(tasks), into.with_suffix(".json")
    if note.is_file() and note.read_text() == plan:
        return
    note.unlink(missing_ok=True)
    shutil.rmtree(into, ignore_errors=True)
    part = note.with_suffix(".part")
    part.write_text(plan)
    os.replace(part, note)


def gather(folders: Iterable[Path], run: StageRun) -> Counter[str]:
    """Put what the workers made into `run.out`, in order; returns rows by split."""
    with Outlets(run.out) as out:
        for folder in folders:
            for split in (*SPLITS, "rejected"):
                for file in sorted(folder.glob(f"{split}-*.parquet")):
                    for row in rows_in(file):
                        run.stop_if_asked()
                        out.put(split, row)
    return out.counts


def rows_in(file: Path) -> Iterator[Row]:
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS):
            yield from batch.to_pylist()


def sums(folders: Iterable[Path], name: str = "counts.json") -> Counter[str]:
    """The counts of all folders, added up."""
    total: Counter[str] = Counter()
    for folder in folders:
        total.update(json.loads((folder / name).read_text("utf-8")))
    return total


def metrics_of(counts: Mapping[str, int]) -> dict[str, Any]:
    """What stages that keep or drop documents report."""
    train, validation = counts.get("train", 0), counts.get("validation", 0)
    return {
        "documents": train + validation,
        "train_documents": train,
        "validation_documents": validation,
        "rejected": counts.get("rejected", 0),
    }
