"""GGUF: one file that holds a quantised model, its tokenizer and its chat template.

    bytes 0..3   magic "GGUF"
    uint32       version (2 or 3; they differ only in that 3 may be big-endian, which danlu does not read)
    uint64       number of tensors
    uint64       number of metadata entries
    metadata     entry = string key, uint32 type, value
    tensor table entry = string name, uint32 n_dims, uint64 dims[n_dims], uint32 type, uint64 offset
    padding      to a multiple of `general.alignment` (32 when absent)
    tensor data  each tensor at padding end + its offset, itself aligned

A string is a uint64 length and UTF-8 bytes; an array is a uint32 element type, a uint64 count and the elements. All
integers are little-endian. `dims` counts from the fastest index, so a matrix that numpy calls `[out, in]` is written
`in, out`: `TensorInfo.shape` is in numpy's order.

The file is memory-mapped: opening reads only the metadata and the table, and a tensor's bytes are read when it is
asked for. Every length is checked against the size of the file before it is used, so a truncated or damaged file is
one clear `UserError` and never a crash or a giant allocation. What the tensors *mean* (names, shapes, permutations) is
in `names.py`; how blocks become floats is in `blocks.py`.

Source: the GGUF specification (ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import mmap
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from danlu.core.errors import UserError
from danlu.model.gguf.blocks import BLOCK_TYPES, dequantize

if TYPE_CHECKING:
    import torch

MAGIC = b"GGUF"
VERSIONS = (2, 3)

# Type codes of tensors. Those without a row in `BLOCK_TYPES` are known by name only, for the error message.
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip

# Type codes of metadata values: struct format of the fixed-size ones. 8 is a string, 9 an array, 7 a bool.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

CHUNK_VALUES = 1 << 18  # values dequantised at a time: half the time of 1 << 20, which falls out of the cache


@dataclass(frozen=True)
class TensorInfo:
    """One line of the tensor table. `shape` is in numpy's order, `start` counts from the beginning of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    start: int
    size: int  # bytes

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class GGUFFile:
    """An open GGUF file: `metadata` (key -> value), `tensors` (name -> TensorInfo), `tensor(name)` to read one.

    Raises UserError when the file is missing, not GGUF, of an unknown version, truncated, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map, file_size = _map_file(self.path)
        try:
            reader = _Reader(self._map, file_size, self.path)
            n_tensors, n_entries = _read_header(reader)
            self.metadata = _read_metadata(reader, n_entries)
            self.tensors = _read_table(reader, n_tensors, self.metadata)
        except BaseException:
            self._map.close()
            raise

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def require_supported_types(self) -> None:
        """UserError that names the first tensor, if any, in a type that `dequantize` does not read."""
        for info in self.tensors.values():
            if info.type not in BLOCK_TYPES:
                raise UserError(
                    f"{self.path}: tensor {info.name!r} has type {info.type}, which danlu does not read",
                    f"take a file quantised with {', '.join(BLOCK_TYPES)}",
                )

    def same_bytes(self, one: TensorInfo, other: TensorInfo) -> bool:
        """Whether two tensors hold the same bytes, compared a megabyte at a time."""
        size = 1 << 20
        return one.size == other.size and all(
            self._map[one.start + at : one.start + min(at + size, one.size)]
            == self._map[other.start + at : other.start + min(at + size, one.size)]
            for at in range(0, one.size, size)
        )

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Read and dequantise one tensor into a new torch tensor of `dtype` (float32 when None)."""
        import torch

        result = torch.empty(self.tensors[name].shape, dtype=dtype or torch.float32)
        self.read_into(name, result)
        return result

    def read_into(self, name: str, target: torch.Tensor) -> None:
        """Dequantise one tensor into `target`, contiguous and of its shape, converting to the dtype that it has.

        Works in chunks of `CHUNK_VALUES` on two threads (numpy releases the interpreter lock), each written into its
        place, so that nothing but a few megabytes is needed besides the target.
        """
        import torch

        info = self.tensors[name]
        block = BLOCK_TYPES[info.type]
        flat = target.view(-1)
        assert flat.numel() == info.count, name
        array = flat.numpy() if flat.dtype == torch.float32 else None  # numpy's copy starts no threads of its own
        step = CHUNK_VALUES // block.values * block.size  # bytes

        def convert(at: int) -> None:
            raw = np.frombuffer(self._map, np.uint8, min(step, info.size - at), info.start + at)
            values = dequantize(raw, info.type)
            first = at // block.size * block.values
            if array is not None:
                array[first : first + values.size] = values
            else:
                flat[first : first + values.size].copy_(torch.from_numpy(values))

        starts = range(0, info.size, step)
        if len(starts) < 2:
            for at in starts:
                convert(at)
        else:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(convert, starts))


def open_gguf(path: str | Path) -> GGUFFile:
    """Open a GGUF file; see `GGUFFile`. Close it when done, or use it in a `with` block."""
    return GGUFFile(path)


def is_gguf(path: Path) -> bool:
    """Whether the file says of itself that it is GGUF, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def _map_file(path: Path) -> tuple[mmap.mmap, int]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise UserError(f"{path} is empty, not a GGUF file", "download or copy it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), size
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory, not a GGUF file", "name the .gguf file inside it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


class _Reader:
    """A cursor over the mapped bytes that never reads past the end."""

    def __init__(self, data: mmap.mmap, size: int, path: Path) -> None:
        self.data, self.size, self.path, self.at = data, size, path, 0

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self.path} is damaged: {what} (at byte {self.at:,})", "download or copy the file again")

    def take(self, n: int, what: str) -> int:
        """Advance by n bytes and return where they start."""
        if n > self.size - self.at:
            raise UserError(
                f"{self.path} is truncated: it ends at byte {self.size:,} inside {what}", "download or copy it again"
            )
        start = self.at
        self.at += n
        return start

    def scalar(self, code: str, what: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.data, self.take(layout.size, what))[0]

    def string(self, what: str, reversible: bool = False) -> str:
        length = self.scalar("Q", what)
        start = self.take(length, what)
        raw = self.data[start : start + length]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            if not reversible:
                raise self.damaged(f"{what} is not UTF-8") from None
            return raw.decode("utf-8", "surrogateescape")

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.scalar(SCALARS[kind], what)
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY and depth < 4:
            return self.array(what, depth)
        raise self.damaged(f"{what} has the unknown type {kind}")

    def array(self, what: str, depth: int) -> list[Any]:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        if kind in SCALARS:
            code = SCALARS[kind]
            start = self.take(count * struct.calcsize("<" + code), what)
            return np.frombuffer(self.data, np.dtype("<" + code), count, start).tolist()
        if count > self.size - self.at:  # every string or array takes at least a byte: refuse absurd counts at once
            raise UserError(f"{self.path} is truncated: {count:,} elements do not fit in {what}", "download it again")
        if kind == STRING:  # tokens of some files are cut inside a character: keep those bytes instead of failing
            return [self.string(what, reversible=True) for _ in range(count)]
        return [self.value(kind, what, depth + 1) for _ in range(count)]


def _read_header(reader: _Reader) -> tuple[int, int]:
    if reader.data[:4] != MAGIC:
        if MAGIC.startswith(reader.data[:4]):
            reader.take(4, "the header")  # shorter than the magic: truncated
        raise UserError(f"{reader.path} is not a GGUF file", 'a GGUF file begins with the four letters "GGUF"')
    reader.take(4, "the header")
    version = reader.scalar("I", "the header")
    if version not in VERSIONS:
        if version >> 24 in VERSIONS:
            raise UserError(f"{reader.path} is a big-endian GGUF file, which danlu does not read", "convert it first")
        raise UserError(f"{reader.path} is GGUF version {version}; danlu reads 2 and 3", "convert the model again")
    return reader.scalar("Q", "the header"), reader.scalar("Q", "the header")


def _read_metadata(reader: _Reader, n_entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(n_entries):
        key = reader.string(f"metadata entry {index}")
        metadata[key] = reader.value(reader.scalar("I", key), key)
    return metadata


def _read_table(reader: _Reader, n_tensors: int, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
    entries: list[tuple[str, tuple[int, ...], str, int, int]] = []
    for index in range(n_tensors):
        what = f"entry {index} of the tensor table"
        name, n_dims = reader.string(what), reader.scalar("I", what)
        if not 1 <= n_dims <= 4:
            raise reader.damaged(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(reader.scalar("Q", what) for _ in range(n_dims))[::-1]
        code, offset = reader.scalar("I", what), reader.scalar("Q", what)
        type_name = TENSOR_TYPES.get(code, f"number {code}")
        entries.append((name, shape, type_name, offset, _stored_size(reader, name, shape, type_name)))

    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise reader.damaged(f"alignment {alignment!r}")
    data_start = -(-reader.at // alignment) * alignment
    known = all(type_name in BLOCK_TYPES for _, _, type_name, _, _ in entries)
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for name, shape, type_name, offset, size in entries:
        start = data_start + offset
        if start + size > reader.size:
            raise UserError(
                f"{reader.path} is truncated: tensor {name!r} ends at byte {start + size:,} of {reader.size:,}",
                "download or copy it again",
            )
        if name in tensors:
            raise reader.damaged(f"tensor {name!r} is listed twice")
        if known and offset != expected:  # one after another: anything else is a wrong type, shape or offset
            raise reader.damaged(f"tensor {name!r} begins at {offset:,} of the data, not at {expected:,}")
        expected += -(-size // alignment) * alignment
        tensors[name] = TensorInfo(name, shape, type_name, start, size)
    return tensors


def _stored_size(reader: _Reader, name: str, shape: tuple[int, ...], type_name: str) -> int:
    """Bytes of a tensor; 0 for a type that is known by name only (it is refused when the model is built)."""
    block = BLOCK_TYPES.get(type_name)
    if block is None:
        return 0
    row = shape[-1] if shape else 1
    if row % block.values:
        raise reader.damaged(f"tensor {name!r}: rows of {row} values do not divide into {type_name} blocks")
    return math.prod(shape) // block.values * block.size
