"""A decoder in the compiled library: weights go in once, then each step is one call.

This is the Python side of `cpu/step.cpp`: it owns the handle, turns tensors into pointers and error codes into
exceptions. It knows shapes and numbers, no model files and no requests.

    decoder = Decoder(Shape(...))
    decoder.matrix(0, "qkv", weight)                          float32 or bfloat16 [N, K]
    decoder.matrix(0, "out", q, scale)                        int8 [N, K], scale [N] or, for 4 bits, [N, K / 32]
    decoder.matrix(0, "down", q, scale, offset=m)             the same 4 bits, and an offset for every 32: s q + m
    results = decoder.step(ids, positions, spans, tables, cache, rows)

    lora = LoraWeights(decoder)                               for the sequences that have an adapter (cpu/lora.h)
    lora.part(0, "qkv", first_row, a, b)                      b (a x) is added to rows of the product
    decoder.step(..., adapters=[lora, None])
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.kernels.build import library

PAGE = 16  # tokens of a block of the cache: fixed in attention.h
GROUP = 32  # weights that share a scale in 4 bits
KV_DTYPES = (torch.float32, torch.bfloat16, torch.int8)
KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
MATRICES = {"qkv": 0, "out": 1, "gate_up": 2, "down": 3, "head": 4, "embedding": 5}
VECTORS = (
    "attention_norm", "attention_norm_bias", "mlp_norm", "mlp_norm_bias", "q_norm", "k_norm",
    "final_norm", "final_norm_bias", "positions", "cos", "sin",
)  # fmt: skip


class KernelError(Exception):
    """The library refused: sizes that do not fit, or no memory."""


@dataclass(frozen=True)
class Shape:
    """What the library needs to know before it sees a weight. norm: rms, layer. mlp: swiglu, gelu_tanh, gelu_erf."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    max_position: int
    norm: str
    mlp: str
    eps: float
    scale: float  # of the scores, 1 / sqrt(head_dim)
    threads: int
    max_tokens: int  # of one step
    kv_dtype: torch.dtype = torch.float32  # float32, bfloat16 or int8

    @property
    def page_bytes(self) -> int:
        """Bytes of the keys, or of the values, of one block of one layer. An int8 number has a float scale a head."""
        scale = 4 if self.kv_dtype == torch.int8 else 0
        return PAGE * self.kv_heads * (self.head_dim * self.kv_dtype.itemsize + scale)


class Results(NamedTuple):
    """Of the S rows that were asked for."""

    logits: Tensor | None  # [S, V]
    best: list[float]  # the largest logit of each row; NaN where one of them is no finite number; empty if not wanted
    best_ids: list[int]  # and its token, the first of equals
    hidden: Tensor | None  # [S, D] after the last norm


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "max_position",
            "norm", "mlp", "threads", "max_tokens", "kept",
        )),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
    ]  # fmt: skip


class Decoder:
    """One model in the library. Raises KernelError where there is no library or it does not compute the shape.

    Not for two threads at once.
    """

    def __init__(self, shape: Shape) -> None:
        found = library()
        if found is None:
            raise KernelError("there is no compiled library")
        self.shape, self._library = shape, _declare(found)
        self._cache: Tensor | None = None  # of the last step
        norm = ("rms", "layer").index(shape.norm)
        mlp = ("swiglu", "gelu_tanh", "gelu_erf").index(shape.mlp)
        raw = _Shape(
            shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.inner, shape.vocab,
            shape.max_position, norm, mlp, shape.threads, shape.max_tokens, KV_DTYPES.index(shape.kv_dtype), shape.eps,
            shape.scale,
        )  # fmt: skip
        self._handle = self._library.danlu_new(ctypes.byref(raw))
        if not self._handle:
            raise KernelError(self._why())

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.danlu_free(self._handle)
            self._handle = None

    @property
    def instructions(self) -> str:
        """The instructions the library was compiled for: avx512-vnni, avx2, neon-dotprod, neon, plain."""
        return str(self._library.danlu_instructions().decode())

    def matrix(
        self,
        layer: int,
        which: str,
        weight: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        """Copy a weight [N, K] into the library's layout.

        Floats stay what they are (bfloat16, else float32). int8 with scale [N] has 8 bits; with scale [N, K / 32] its
        values are -8 to 7 and it is stored in 4 bits: w = scale * weight, or with `offset` [N, K / 32] scale * weight
        + offset. Both are rounded to float16. bias is [N].
        """
        weight, kind = weight.detach(), "float32"
        if weight.dtype == torch.int8:
            assert scale is not None, "bytes mean nothing without their scale"
            kind = "int4" if scale.dim() == 2 else "int8"
        elif weight.dtype == torch.bfloat16:
            kind = "bfloat16"
        data = weight.contiguous() if weight.dtype == torch.int8 else weight.float().contiguous()
        scales = None if scale is None else scale.detach().float().contiguous()
        rows, columns = data.shape
        if scales is not None and scales.numel() != rows * (columns // GROUP if kind == "int4" else 1):
            raise KernelError(f"{tuple(scales.shape)} scales for a matrix {tuple(data.shape)}")
        offsets = None if offset is None else offset.detach().float().contiguous()
        if offsets is not None and (kind != "int4" or scales is None or offsets.shape != scales.shape):
            raise KernelError(f"{tuple(offsets.shape)} offsets for a matrix {tuple(data.shape)} of {kind}")
        biases = None if bias is None else bias.detach().float().contiguous()
        if biases is not None and biases.numel() != rows:
            raise KernelError(f"a bias of {biases.numel()} for {rows} rows")
        self._check(
            self._library.danlu_matrix(
                self._handle, layer, MATRICES[which], KINDS[kind], rows, columns, data.data_ptr(),
                _pointer(scales), _pointer(offsets), _pointer(biases),
            )
        )  # fmt: skip

    def vector(self, layer: int, which: str, values: Tensor) -> None:
        """Norm weights [D] or [hd], learned positions [max_position, D], cos and sin [max_position, hd / 2]."""
        data = values.detach().float().contiguous()
        self._check(
            self._library.danlu_vector(self._handle, layer, VECTORS.index(which), data.numel(), data.data_ptr())
        )

    def window(self, layer: int, window: int | None) -> None:
        """How many tokens back, itself included, a layer sees; None for all."""
        self._check(self._library.danlu_window(self._handle, layer, window or 0))

    def step(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        spans: Sequence[tuple[int, int, int]],
        tables: Sequence[Sequence[int]],
        cache: Tensor,
        rows: Sequence[int],
        *,
        want_best: bool = True,
        want_logits: bool = True,
        want_hidden: bool = False,
        out: Tensor | None = None,
        adapters: Sequence[LoraWeights | None] = (),
    ) -> Results:
        """Compute one step; the cache is mutated.

        spans: (first row, tokens, length after the step) of each sequence, in the order of the rows; tables: its
        blocks, one for every 16 tokens of that length. cache [layers, 2, n_blocks, ...] of the shape's dtype, with
        `page_bytes` in the last dimensions; adapters: one for each sequence, or none at all. Logits are written into
        `out` when given, float32 with room for S * V numbers.
        """
        shape = self.shape
        if cache is not self._cache:
            self._know(cache)
        needed = [-(-length // PAGE) for _, _, length in spans]
        if len(tables) != len(spans) or any(len(t) < n for t, n in zip(tables, needed, strict=True)):
            raise KernelError("a block table is too short for its sequence")
        if adapters and len(adapters) != len(spans):
            raise KernelError(f"{len(adapters)} adapters for {len(spans)} sequences")
        loras = None
        if any(adapters):
            loras = (ctypes.c_void_p * len(spans))(*(lora.handle if lora else None for lora in adapters))
        flat = [page for table, n in zip(tables, needed, strict=True) for page in table[:n]]
        logits = None
        if want_logits:
            logits = _room(out, len(rows) * shape.vocab).view(len(rows), shape.vocab)
        n_best = len(rows) if want_best else 0
        best, best_ids = (ctypes.c_float * max(n_best, 1))(), (ctypes.c_int32 * max(n_best, 1))()
        hidden = torch.empty(len(rows), shape.hidden) if want_hidden else None
        self._check(
            self._library.danlu_step(
                self._handle, len(ids), _ints(ids), _ints(positions), len(spans),
                _ints([number for span in spans for number in span]), len(flat), _ints(flat),
                self._cache_at, self._pages, len(rows), _ints(rows), _pointer(logits),
                best if want_best else None, best_ids if want_best else None, _pointer(hidden), loras,
            )
        )  # fmt: skip
        return Results(logits, list(best[:n_best]), list(best_ids[:n_best]), hidden)

    def read_rate(self, size: int = 256 << 20) -> float:
        """Bytes per second that the team reads from memory: the limit of decoding."""
        check = ctypes.c_float()
        return float(self._library.danlu_read_rate(self._handle, size, ctypes.byref(check)))

    def multiply_rate(self, rounds: int = 2_000_000) -> float:
        """Operations per second of the team's multiply-adds in float32, on registers: the limit of float32 products."""
        check = ctypes.c_float()
        return float(self._library.danlu_multiply_rate(self._handle, rounds, ctypes.byref(check)))

    def _know(self, cache: Tensor) -> None:
        """Check a cache once, not in every step."""
        each = 2 * self.shape.layers * self.shape.page_bytes  # a block in all layers
        if cache.dtype != self.shape.kv_dtype or not cache.is_contiguous() or cache.nbytes % each:
            raise KernelError("a cache of another shape or dtype")
        self._cache, self._cache_at, self._pages = cache, cache.data_ptr(), cache.nbytes // each

    def _check(self, code: int) -> None:
        if code:
            raise KernelError(self._why())

    def _why(self) -> str:
        return str(self._library.danlu_error().decode())


class LoraWeights:
    """An adapter of one decoder, in the library's layout. It may be filled while the decoder steps without it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder  # lives as long as this
        self.handle = decoder._library.danlu_adapter_new(decoder._handle)
        if not self.handle:
            raise KernelError(decoder._why())

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._decoder._library.danlu_adapter_free(self.handle)
            self.handle = None

    def part(self, layer: int, which: str, first: int, a: Tensor, b: Tensor) -> None:
        """Add b (a x) to rows `first .. first + N` of a product with x; a [r, K], b [N, r] with the scale in it."""
        a, b = a.detach().float().contiguous(), b.detach().float().contiguous()
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise KernelError(f"a {tuple(a.shape)} and b {tuple(b.shape)} are no product")
        self._decoder._check(
            self._decoder._library.danlu_adapter_part(
                self.handle, layer, MATRICES[which], first, b.shape[0], a.shape[0], a.shape[1], a.data_ptr(),
                b.data_ptr(),
            )
        )  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _room(out: Tensor | None, size: int) -> Tensor:
    """`size` numbers for logits: the first ones of `out`, or new ones."""
    if out is None:
        return torch.empty(size)
    if out.dtype != torch.float32 or not out.is_contiguous() or out.numel() < size:
        raise KernelError("no room for the logits")
    return out.view(-1)[:size]


def _ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * max(len(values), 1))(*values)


def _declare(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.danlu_error.restype = found.danlu_instructions.restype = ctypes.c_char_p
    found.danlu_new.restype, found.danlu_new.argtypes = pointer, [pointer]
    found.danlu_free.restype, found.danlu_free.argtypes = None, [pointer]
    found.danlu_matrix.argtypes = [pointer, *[number] * 5, *[pointer] * 4]
    found.danlu_vector.argtypes = [pointer, number, number, ctypes.c_int64, pointer]
    found.danlu_window.argtypes = [pointer, number, number]
    found.danlu_adapter_new.restype, found.danlu_adapter_new.argtypes = pointer, [pointer]
    found.danlu_adapter_free.restype, found.danlu_adapter_free.argtypes = None, [pointer]
    found.danlu_adapter_part.argtypes = [pointer, *[number] * 6, pointer, pointer]
    found.danlu_step.argtypes = [
        pointer, number, pointer, pointer, number, pointer, number, pointer, pointer, ctypes.c_int64, number,
        *[pointer] * 6,
    ]  # fmt: skip
    found.danlu_read_rate.restype = ctypes.c_double
    found.danlu_read_rate.argtypes = [pointer, ctypes.c_int64, pointer]
    found.danlu_multiply_rate.restype = ctypes.c_double
    found.danlu_multiply_rate.argtypes = [pointer, ctypes.c_int64, pointer]
    return found
