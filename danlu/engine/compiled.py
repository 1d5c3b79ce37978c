"""A step through the compiled kernels: the same `run` as runner.py, in one call of C++.

A call has one list of rows, and gives logits or hidden states of all of them. In a step where some sequences want the
one and some the other it is two calls, each with its own sequences: no logit is computed that nobody reads, and no bit
depends on who shares a call. The price is that such a step reads the weights twice.

What is here is the way of the weights: each module of the model, float or quantised, becomes a matrix of the library.
`compile_model` says None where the library cannot compute a model (dynamic rotary scaling, a head width that is not a
multiple of 16, no compiler); the engine then runs on torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from danlu.engine.batch import Batch, Logits
from danlu.engine.kv_cache import KVCache
from danlu.kernels.decoder import GROUP, Decoder, KernelError, LoraWeights, Results, Shape
from danlu.model.quantized import SCHEMES, Quantized

if TYPE_CHECKING:
    from danlu.engine.adapters import LoadedAdapter
    from danlu.model.adapter import Adapter
    from danlu.model.transformer import Transformer

Lend = Callable[[str], AbstractContextManager[None]]  # a module's name -> its tensors are there while this lasts


class CompiledRunner:
    """Runs steps of a compiled model over a cache."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self.decoder, self.cache = decoder, cache
        self._adapters: WeakKeyDictionary[LoadedAdapter, LoraWeights] = WeakKeyDictionary()
        self._no_hidden = torch.empty(0, decoder.shape.hidden)
        self._logits = torch.empty(0)  # of the last step: new memory would be cleared by the system for every step

    def add_adapter(self, loaded: LoadedAdapter, adapter: Adapter) -> None:
        """Lay out an adapter for the spans that will name `loaded`. Raises KernelError."""
        self._adapters[loaded] = compile_adapter(self.decoder, adapter)

    def run(self, batch: Batch) -> tuple[Logits, Tensor]:
        """Fills the cache; logits of `batch.rows` and hidden states [H, D] of `batch.hidden_rows`.

        The logits are overwritten by the next step.
        """
        both = bool(batch.rows and batch.hidden_rows)
        logits, hidden = Logits(None, [], []), None
        if batch.rows or not batch.hidden_rows:
            results = self._call(batch.only(hidden=False) if both else batch, hidden=False)
            logits = Logits(results.logits, results.best, results.best_ids)
        if batch.hidden_rows:
            hidden = self._call(batch.only(hidden=True) if both else batch, hidden=True).hidden
        return logits, self._no_hidden if hidden is None else hidden

    def _call(self, batch: Batch, hidden: bool) -> Results:
        spans = [(span.row, span.n, span.length) for span in batch.spans]
        tables = [span.table for span in batch.spans]
        adapters = [self._adapters[span.adapter] if span.adapter is not None else None for span in batch.spans]
        values = not hidden and batch.values
        if values and (size := len(batch.rows) * self.decoder.shape.vocab) > len(self._logits):
            self._logits = torch.empty(size)
        return self.decoder.step(
            batch.ids, batch.positions, spans, tables, self.cache.memory, batch.hidden_rows if hidden else batch.rows,
            want_best=not hidden, want_logits=values, want_hidden=hidden, out=self._logits, adapters=adapters,
        )  # fmt: skip


def compile_model(
    model: Transformer,
    *,
    max_tokens: int,
    max_context: int,
    kv_dtype: torch.dtype,
    lend: Lend | None = None,
) -> Decoder | None:
    """The model in the library, or None where it cannot be computed there.

    The library has a copy of every weight. A model that has none itself (hub.Checkpoint) is read module by module:
    `lend` gives a module its tensors while they are copied.
    """
    config = model.config
    if model.rotary is not None and config.rope_scaling is not None and config.rope_scaling.type == "dynamic":
        return None  # its tables depend on the length of the sequence
    mlp = "swiglu" if config.mlp == "swiglu" else "gelu_tanh" if config.gelu_tanh else "gelu_erf"
    shape = Shape(
        layers=config.n_layers, hidden=config.hidden_size, heads=config.n_heads, kv_heads=config.n_kv_heads,
        head_dim=config.head_dim, inner=config.intermediate_size, vocab=config.vocab_size, max_position=max_context,
        norm="rms" if config.norm == "rms" else "layer", mlp=mlp, eps=config.norm_eps, scale=config.head_dim**-0.5,
        threads=torch.get_num_threads(), max_tokens=max_tokens, kv_dtype=kv_dtype,
    )  # fmt: skip
    try:
        decoder = Decoder(shape)
        with _one_thread():
            _fill(decoder, model, max_context, lend or (lambda name: nullcontext()))
    except KernelError:
        return None
    return decoder


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch's threads wait by spinning: between two calls of the library they would hold the cores of its own team."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compile_adapter(decoder: Decoder, adapter: Adapter) -> LoraWeights:
    """An adapter in the library. Raises KernelError when there is no memory."""
    weights = LoraWeights(decoder)
    for part in adapter.parts:
        _, layer, module = part.module.split(".", 2)
        weights.part(int(layer), _MATRICES[module], part.first, part.a, part.scale * part.b.float())
    return weights


ROWS = SCHEMES[8]  # 8 bits with a scale a row: what the library multiplies as it is

# danlu's names of the matrices in a block, and the library's.
_MATRICES = {
    "attention.qkv": "qkv", "attention.out": "out", "mlp.gate_up": "gate_up", "mlp.up": "gate_up", "mlp.down": "down",
}  # fmt: skip


def _fill(decoder: Decoder, model: Transformer, max_context: int, lend: Lend) -> None:
    @functools.cache  # the same memory for a matrix of the same shape: fresh pages cost more than unpacking
    def scratch(rows: int, columns: int) -> Tensor:
        return torch.empty(rows, columns, dtype=torch.int8)

    def matrix(layer: int, which: str, module: Any) -> None:
        bias = getattr(module, "bias", None)
        if not isinstance(module, Quantized):
            decoder.matrix(layer, which, module.weight, bias=bias)
            return
        scheme, groups = module.scheme, module.weight_scale.shape[1]
        if scheme.bits == 4 and module.on_grid and module.columns % (groups * GROUP) == 0:
            values, scale, zero = module.grid(out=scratch(module.rows, module.columns))
            each = module.columns // GROUP // groups  # groups of the library, which are small, in one of the model's
            scale = scale.repeat_interleave(each, dim=1)
            offset = None if zero is None else -scale.float() * zero.repeat_interleave(each, dim=1)
            decoder.matrix(layer, which, values, scale, bias, offset)
        elif scheme == ROWS:
            decoder.matrix(layer, which, module.stored, module.weight_scale[:, 0], bias)
        else:  # a way to store that the library has no product for
            decoder.matrix(layer, which, module.widen(torch.bfloat16), bias=bias)

    def norm(layer: int, which: str, module: Any) -> None:
        decoder.vector(layer, which, module.weight)
        if getattr(module, "bias", None) is not None:
            decoder.vector(layer, f"{which}_bias", module.bias)

    def fill_block(index: int, block: Any) -> None:
        attention, mlp = block.attention, block.mlp
        norm(index, "attention_norm", block.attention_norm)
        norm(index, "mlp_norm", block.mlp_norm)
        matrix(index, "qkv", attention.qkv)
        matrix(index, "out", attention.out)
        matrix(index, "gate_up", mlp.gate_up if hasattr(mlp, "gate_up") else mlp.up)
        matrix(index, "down", mlp.down)
        if attention.q_norm is not None:
            decoder.vector(index, "q_norm", attention.q_norm.weight)
            decoder.vector(index, "k_norm", attention.k_norm.weight)
        decoder.window(index, attention.window)

    blocks: Any = model.blocks
    for index, block in enumerate(blocks):
        with lend(f"blocks.{index}"):
            fill_block(index, block)
    with lend("norm"):
        norm(0, "final_norm", model.norm)
    with lend("embedding"):
        matrix(0, "head" if model.lm_head is None else "embedding", model.embedding)
    if model.lm_head is not None:
        with lend("lm_head"):
            matrix(0, "head", model.lm_head)
    if model.rotary is not None:
        cos, sin = model.rotary.tables(torch.arange(max_context), max_context, torch.device("cpu"))
        decoder.vector(0, "cos", cos)
        decoder.vector(0, "sin", sin)
    elif model.position_embedding is not None:
        with lend("position_embedding"):
            decoder.vector(0, "positions", model.position_embedding.weight[:max_context])
