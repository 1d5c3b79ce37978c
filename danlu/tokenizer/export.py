"""Token shards for other trainers.

| format   | files                            | read by                                                                |
|----------|----------------------------------|------------------------------------------------------------------------|
| megatron | train.bin, train.idx             | Megatron-LM, NeMo, GPT-NeoX: their indexed dataset, version 1          |
| nanogpt  | train.bin                        | nanoGPT and its kin: ids and nothing else; uint16 up to 65,536 words   |

Megatron's index, little-endian:

    magic "MMIDIDX\\0\\0", version uint64 = 1, dtype code uint8, sequences uint64 (S), documents uint64 (D + 1)
    lengths int32 [S], offsets in bytes int64 [S], first sequence of each document int64 [D + 1]

A sequence is one document with its separator, so S = D.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.errors import UserError, suggest
from danlu.tokenizer.shards import TokenShards

_CHUNK = 1 << 22  # ids copied at once
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_CODES = {np.dtype("<i4"): 4, np.dtype("<u2"): 8}


def export_tokens(tokens: Path, target: Path, to: str) -> dict[str, int]:
    """Write the splits of a tokens directory into the empty folder `target`; returns the number of ids by split.

    Raises UserError for a format that is not in the table, or a directory without shards.
    """
    if to not in FORMATS:
        raise UserError(f'tokens cannot be exported to "{to}"', suggest(to, FORMATS))
    counts = {}
    for split in sorted({file.name.rsplit("-", 1)[0] for file in tokens.glob("*-*.bin")}):
        shards = TokenShards.open(tokens, split)
        FORMATS[to](shards, target, "val" if to == "nanogpt" and split == "validation" else split)
        counts[split] = len(shards)
    if not counts:
        raise UserError(f"{tokens.name} holds no token shards", "make some with the stage tokenizer.pack")
    return counts


def _megatron(shards: TokenShards, target: Path, split: str) -> None:
    # Megatron has no unsigned 32-bit ids; no vocabulary comes near 2^31.
    dtype = np.dtype("<u2") if shards.dtype.itemsize == 2 else np.dtype("<i4")
    _write_ids(shards, target / f"{split}.bin", dtype)
    ends = shards.document_ends().astype(np.int64)  # [D]
    lengths = np.diff(ends, prepend=0)
    with open(target / f"{split}.idx", "wb") as out:
        out.write(_MEGATRON_MAGIC + struct.pack("<QBQQ", 1, _MEGATRON_CODES[dtype], len(ends), len(ends) + 1))
        out.write(lengths.astype("<i4").tobytes())
        out.write(((ends - lengths) * dtype.itemsize).astype("<i8").tobytes())
        out.write(np.arange(len(ends) + 1, dtype="<i8").tobytes())


def _nanogpt(shards: TokenShards, target: Path, split: str) -> None:
    _write_ids(shards, target / f"{split}.bin", shards.dtype)


def _write_ids(shards: TokenShards, path: Path, dtype: np.dtype[Any]) -> None:
    with open(path, "wb") as out:
        for start in range(0, len(shards), _CHUNK):
            out.write(shards.read(start, min(_CHUNK, len(shards) - start)).astype(dtype).tobytes())


FORMATS: dict[str, Callable[[TokenShards, Path, str], None]] = {"megatron": _megatron, "nanogpt": _nanogpt}
