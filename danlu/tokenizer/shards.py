"""Token shards: a corpus as one long row of ids on disk, with the way back to its documents.

    train-00000.bin           header (64 bytes), then ids, little-endian
    train-00000.docs.parquet  one row a document: end (uint64, in ids from the start of this shard), id (string)
    tokens.json               the tokenizer's hash, vocabulary size, and counts of each split

    header   offset  bytes  what
             0       8      "DANLUTOK"
             8       4      format version, 1
             12      4      bytes of one id: 2 (vocabularies up to 65,536) or 4
             16      8      number of ids
             24      32     sha256 of tokenizer.json
             56      8      zero

A shard is closed only between documents, so each document lies in one shard, ended by its separator. Reading is
memory mapping: a shard of ten gigabytes costs the pages that are touched, and many processes share them.

    tokens = TokenShards.open(path, "train")
    tokens.read(1000, 512)          # uint16 [512], across shard borders
    tokens.document_at(1000)        # ("9f86d081884c7d65", 873, 1520): whose token is this

The header makes a wrong or cut file an error before training starts instead of noise in the loss.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from danlu.core.artifact import read_json
from danlu.core.errors import UserError

MAGIC = b"DANLUTOK"
VERSION = 1
HEADER = struct.Struct("<8sIIQ32s8x")  # 64 bytes
DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
TOKENS_FILE = "tokens.json"
_DOCUMENTS_PER_WRITE = 16_384


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The smallest id type that holds the vocabulary."""
    return DTYPES[2] if vocab_size <= 2**16 else DTYPES[4]


class TokenShards:
    """All shards of one split, read as one array of ids."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self._starts = np.cumsum([0, *(shard.count for shard in self.shards)])  # [shards + 1]

    @classmethod
    def open(cls, path: Path | str, split: str = "train", *, tokenizer: str | None = None) -> TokenShards:
        """Open the shards of `split` in a tokens directory.

        `tokenizer`, when given, is the fingerprint that the shards must have been made with. Raises UserError
        when there are no shards, or one is damaged or made by another tokenizer or another version.
        """
        path = Path(path)
        files = sorted(path.glob(f"{split}-*.bin"))
        if not files:
            raise UserError(f"{path} holds no tokens of the split {split!r}", _splits_hint(path))
        shards = [Shard(file) for file in files]
        expected = tokenizer or shards[0].tokenizer
        for shard in shards:
            if shard.tokenizer != expected:
                raise UserError(
                    f"{shard.path.name} was made with another tokenizer ({shard.tokenizer[:16]}, not {expected[:16]})",
                    "pack the corpus again with the tokenizer of this model",
                )
        return cls(shards)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.shards[0].tokens.dtype

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that made the ids."""
        return self.shards[0].tokenizer

    @property
    def n_documents(self) -> int:
        return sum(len(shard.ends) for shard in self.shards)

    def read(self, start: int, count: int) -> np.ndarray:
        """Ids [start, start + count) as a new array in the dtype of the shards. Raises IndexError outside."""
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        out = np.empty(count, self.dtype)
        done = 0
        while done < count:
            shard, local = self._locate(start + done)
            part = self.shards[shard].tokens[local : local + count - done]
            out[done : done + len(part)] = part
            done += len(part)
        return out

    def document_at(self, position: int) -> tuple[str, int, int]:
        """The document that token `position` belongs to: (id, start, end), its separator included.

        Raises IndexError when the position lies outside.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"token {position} of {len(self)}")
        shard, local = self._locate(position)
        row = int(np.searchsorted(self.shards[shard].ends, local, side="right"))
        start, end = self.shards[shard].document_range(row)
        offset = int(self._starts[shard])
        return self.shards[shard].document_id(row), offset + start, offset + end

    def document(self, index: int) -> tuple[str, int, int]:
        """Document number `index` of the split: (id, start, end)."""
        for shard, offset in zip(self.shards, self._starts.tolist(), strict=False):
            if 0 <= index < len(shard.ends):
                start, end = shard.document_range(index)
                return shard.document_id(index), offset + start, offset + end
            index -= len(shard.ends)
        raise IndexError("no such document")

    def document_ends(self) -> np.ndarray:
        """Where each document ends, uint64 [documents], in positions of the split."""
        parts = [shard.ends + np.uint64(offset) for shard, offset in zip(self.shards, self._starts, strict=False)]
        return np.concatenate(parts)

    def _locate(self, position: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        return shard, position - int(self._starts[shard])


class Shard:
    """One .bin file with its document index; both are mapped, not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with open(path, "rb") as handle:
            header = handle.read(HEADER.size)
        if len(header) < HEADER.size or header[:8] != MAGIC:
            raise UserError(f"{path.name} is no token shard", "it does not start with the header of one; pack again")
        _, version, width, self.count, digest = HEADER.unpack(header)
        if version != VERSION:
            raise UserError(
                f"{path.name} has format version {version}, this danlu reads {VERSION}", "pack the corpus again"
            )
        if width not in DTYPES:
            raise UserError(f"{path.name} has ids of {width} bytes, not 2 or 4", "the header is damaged; pack again")
        if size != HEADER.size + self.count * width:
            raise UserError(
                f"{path.name} has {size} bytes, its header says {HEADER.size + self.count * width}",
                "it was cut or is still being written; pack again",
            )
        self.tokenizer: str = digest.hex()
        self.tokens: np.ndarray = (
            np.memmap(path, DTYPES[width], "r", offset=HEADER.size) if self.count else np.empty(0, DTYPES[width])
        )

    @cached_property
    def _index(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path.with_suffix(".docs.parquet")
        try:
            table = pq.read_table(path, columns=["end", "id"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path.name} cannot be read ({error})", "pack the corpus again") from None
        ends = table["end"].to_numpy()
        if (int(ends[-1]) if len(ends) else 0) != self.count:
            raise UserError(f"{path.name} does not belong to {self.path.name}", "pack the corpus again")
        return table

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each document ends, uint64 [documents], in ids from the start of this shard."""
        ends: np.ndarray = self._index["end"].to_numpy()
        return ends

    def document_range(self, row: int) -> tuple[int, int]:
        return int(self.ends[row - 1]) if row else 0, int(self.ends[row])

    def document_id(self, row: int) -> str:
        return str(self._index["id"][row].as_py())


class ShardWriter:
    """Writes the shards of one split in constant memory; use it as a context manager."""

    def __init__(
        self, directory: Path, split: str, *, dtype: np.dtype[Any], tokenizer: str, tokens_per_shard: int
    ) -> None:
        self.directory, self.split, self.dtype = directory, split, dtype
        self.digest = bytes.fromhex(tokenizer)
        self.tokens_per_shard = tokens_per_shard
        self.shards = self.tokens = self.documents = 0
        self._count = 0  # ids in the open shard
        self._file: BinaryIO | None = None
        self._parquet: Any = None
        self._rows: tuple[list[int], list[str]] = ([], [])

    def add(self, document_id: str, ids: np.ndarray) -> None:
        """Append one document, its separator included. A shard that would overflow is closed first."""
        if self._file is not None and self._count + len(ids) > self.tokens_per_shard:
            self._close()
        if self._file is None:
            self._open()
        assert self._file is not None
        self._file.write(ids.astype(self.dtype, copy=False).tobytes())
        self._count += len(ids)
        self.tokens += len(ids)
        self.documents += 1
        self._rows[0].append(self._count)
        self._rows[1].append(document_id)
        if len(self._rows[0]) >= _DOCUMENTS_PER_WRITE:
            self._flush_index()

    def _open(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.directory / f"{self.split}-{self.shards:05d}.bin"
        self._file = open(path, "wb")  # noqa: SIM115 - stays open until _close
        self._file.write(bytes(HEADER.size))  # no magic yet: a killed writer leaves no valid shard
        self._schema = pa.schema([("end", pa.uint64()), ("id", pa.string())])
        self._parquet = pq.ParquetWriter(path.with_suffix(".docs.parquet"), self._schema, compression="zstd")
        self._count = 0

    def _flush_index(self) -> None:
        import pyarrow as pa

        ends, names = self._rows
        arrays = [pa.array(ends, pa.uint64()), pa.array(names, pa.string())]
        self._parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows = ([], [])

    def _close(self) -> None:
        if self._file is None:
            return
        self._flush_index()
        self._parquet.close()
        self._file.seek(0)
        self._file.write(HEADER.pack(MAGIC, VERSION, self.dtype.itemsize, self._count, self.digest))
        self._file.close()
        self._file = None
        self.shards += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        elif self._file is not None:
            self._file.close()


def read_summary(path: Path | str) -> dict[str, Any]:
    """The content of tokens.json. Raises UserError when it is missing or damaged."""
    return read_json(Path(path) / TOKENS_FILE, "pack the corpus again")


def _splits_hint(path: Path) -> str:
    names = sorted({file.name.rsplit("-", 1)[0] for file in path.glob("*-*.bin")}) if path.is_dir() else []
    return "splits there: " + ", ".join(names) if names else "give a directory that tokenizer.pack made"
