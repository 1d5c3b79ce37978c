"""A measured corpus: every text of the sources with everything that was counted about it, before anything is decided.

    measured-00000.parquet  measured-00001.parquet  ...  report.json

Stage `data.measure` writes it, stage `data.select` reads it; between the two, thresholds can change as often as one
likes and no text is looked at again. Columns besides those of a document (see `document`):

| column     | type           | what                                                                             |
|------------|----------------|----------------------------------------------------------------------------------|
| reason     | string         | why there is no usable text here ("encoding", "empty", ...); "" for a document   |
| detail     | string         | more about the reason                                                            |
| origin     | string         | id of the whole document; the row's own id unless it is a part of a long one     |
| part       | int32          | number of the part, from 1; 0 where nothing was cut                              |
| draw       | float64        | in [0, 1), from the id: decides samples                                          |
| size       | int64          | bytes of the text in UTF-8                                                       |
| text_hash  | 16 bytes       | equal for equal texts                                                            |
| signature  | 512 bytes      | MinHash, uint32 [128] (see dedup); null where a text has no units                |
| score.NAME | float32        | one column a number: what the rules look at (`scores`)                           |

Scores are those of `quality.measure`, and:

| score       | what                                                                                            |
|-------------|-------------------------------------------------------------------------------------------------|
| confidence  | how sure the language is, 0 to 1                                                                |
| traditional | 1 for Chinese in traditional characters                                                         |
| opt_out     | 1 where the page or its site opted out of training                                              |
| adult, abuse, hate | toxic words per 1,000 units (safety.toxic)                                               |
| injection   | how much the text tries to give a model orders, 0 to 1 (safety.injection)                       |
| personal    | pieces of personal data that were found                                                         |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.core.errors import UserError
from danlu.data.dedup.minhash import PERMUTATIONS
from danlu.data.document import SCHEMA, damaged
from danlu.data.quality.measure import COLUMNS

SPLIT = "measured"
OWN_SCORES = ("confidence", "traditional", "opt_out", "adult", "abuse", "hate", "injection", "personal")
SCORE = "score."
SIGNATURE_BYTES = 4 * PERMUTATIONS
ROWS_PER_GROUP = 4_096

_FIXED = [
    *SCHEMA,
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("origin", pa.string()),
    pa.field("part", pa.int32()),
    pa.field("draw", pa.float64()),
    pa.field("size", pa.int64()),
    pa.field("text_hash", pa.binary(16)),
    pa.field("signature", pa.binary(SIGNATURE_BYTES)),
]


def scores() -> list[str]:
    """The names of all scores, in the order of their columns."""
    return [*OWN_SCORES, *COLUMNS]


def schema(scores: Sequence[str]) -> pa.Schema:
    """The columns of a measured corpus with these scores."""
    return pa.schema([*_FIXED, *(pa.field(SCORE + name, pa.float32()) for name in scores)])


def measured_files(folder: Path) -> list[Path]:
    """The files of a measured corpus in order. Raises UserError when there are none."""
    files = sorted(folder.glob(f"{SPLIT}-*.parquet"))
    if not files:
        raise UserError(f"{folder.name} is not a measured corpus", "make one with the stage data.measure")
    return files


def count_rows(folder: Path) -> int:
    """Rows of a measured corpus, from the ends of its files. Raises UserError when one is damaged."""
    total = 0
    for file in measured_files(folder):
        try:
            total += int(pq.read_metadata(file).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, error) from None
    return total


def score_names(folder: Path) -> list[str]:
    names = pq.read_schema(measured_files(folder)[0]).names
    return [name.removeprefix(SCORE) for name in names if name.startswith(SCORE)]


def read_measured(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of at most a few thousand rows, in stored order, one at a time in memory.

    Raises UserError when a file is damaged.
    """
    for file in measured_files(folder):
        try:
            with pq.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(batch_size=ROWS_PER_GROUP, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, error) from None
