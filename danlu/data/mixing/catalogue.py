"""The catalogue of a mixture: a few numbers for every document (some 50 bytes, no text), read piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.document import read_parquet
from danlu.data.rewriting import batches, tasks_of, work_through

if TYPE_CHECKING:
    from danlu.data.mix import MixConfig

TRAIN, HELD_OUT, DUPLICATE = range(3)
_DESCRIBED = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "corpus", "source", "language")),
        ("size", pa.int64()),
        *((name, pa.float64()) for name in ("copies", "score", "quality")),
    ]
)


@dataclass
class Catalogue:
    """Training documents of all corpora in the order of reading, [D] each; and the ids that are held out."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    bytes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    copies: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fate: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    edges: list[float] = field(default_factory=list)  # between the quality buckets

    @classmethod
    def read(cls, corpora: Mapping[str, Artifact], config: MixConfig, run: StageRun) -> Catalogue:
        """The first walk."""
        paths = {name: artifact.path for name, artifact in corpora.items()}
        fields = {"order_by": config.order_by, "bucket_by": config.bucket_by}
        folders = work_through(
            "danlu.data.mixing.catalogue:describe_piece", tasks_of(paths, ["train"], **fields), run, "described"
        )
        held_out = {row["id"] for a in corpora.values() for row in read_parquet(a, "validation", ["id"])}
        found = cls()
        columns: dict[str, list[Any]] = {name: [] for name in ("size", "copies", "score", "quality", "fate")}
        seen: set[str] = set()
        named: list[dict[str, str]] = []
        numbers = {"corpus", "source", "language"} & set(config.by)
        for folder in folders:
            run.stop_if_asked()
            for row in pq.read_table(folder / "described.parquet").to_pylist():
                fate = DUPLICATE if row["id"] in seen else HELD_OUT if row["id"] in held_out else TRAIN
                seen.add(row["id"])
                found.ids.append(row["id"])
                named.append({k: row[k] for k in numbers})
                for name, values in columns.items():
                    values.append(fate if name == "fate" else row[name])
        found.bytes = np.array(columns["size"], dtype=np.int64)
        found.copies = np.maximum(np.array(columns["copies"], dtype=np.float64), 1).astype(np.int64)
        found.scores = _complete(np.array(columns["score"], dtype=np.float64), config.order_by, _orders(config))
        found.fate = np.array(columns["fate"], dtype=np.int8)
        quality = np.array(columns["quality"], dtype=np.float64)
        buckets = found._buckets(quality, config) if "bucket" in config.by else None
        for i, own in enumerate(named):
            parts = [str(buckets[i]) if buckets is not None and k == "bucket" else own.get(k, "") for k in config.by]
            found.groups.append("/".join(parts))
        return found

    def _buckets(self, quality: NDArray[np.float64], config: MixConfig) -> NDArray[np.int64]:
        """int64 [D]: which quantile of the score a document is in, 0 the lowest."""
        quality = _complete(quality, config.bucket_by, True)
        cuts = np.quantile(quality, np.arange(1, config.buckets) / config.buckets)
        self.edges = [round(float(cut), 6) for cut in cuts]
        return np.searchsorted(cuts, quality, side="right")


def describe_piece(task: dict[str, Any], folder: Path) -> None:
    """described.parquet: what the catalogue holds of each row of a piece."""
    rows = []
    for part, batch in batches(task, ("id", "text", "language", "source", "meta")):
        for row in batch:
            meta = json.loads(row["meta"] or "{}")
            size = len(row["text"].encode("utf-8", "surrogatepass"))
            score = size if task["order_by"] == "length" else meta.get(task["order_by"])
            rows.append(
                {
                    "id": row["id"],
                    "corpus": part["corpus"],
                    "source": row["source"],
                    "language": row["language"],
                    "size": size,
                    "copies": _number(meta.get("copies"), 1.0),
                    "score": _number(score, np.nan),
                    "quality": _number(meta.get(task["bucket_by"]), np.nan),
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=_DESCRIBED), folder / "described.parquet")


def _orders(config: MixConfig) -> bool:
    return any(phase.order != "shuffle" for phase in config.all_phases)


def _complete(values: NDArray[np.float64], name: str, needed: bool) -> NDArray[np.float64]:
    """Scores without gaps: the median where a document has none. Raises UserError when all lack one that is needed."""
    missing = np.isnan(values)
    if missing.all() and len(values):
        if needed:
            raise UserError(f'no document has a number "{name}" in its meta', "score the corpora first, or use length")
        return np.zeros(len(values))
    return np.where(missing, np.median(values[~missing]) if len(values) else 0.0, values)


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
