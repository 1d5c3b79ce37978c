"""A step on a GPU: the decoder of model/transformer.py as a row of fused kernels.

The same modules and the same numbers; what differs is how often a row of activations goes through memory. A layer is

    x += delta, norm | qkv | norm, turn, store k v | attend (, join) | out | x += delta, norm | gate_up | swiglu | down

where qkv, out, gate_up and down are the model's own modules, called as they are (float, quantised, hooked), and each
other part is one kernel of kernels/gpu. `delta` is what the part before adds to the residual stream: it waits for the
next norm, which reads the stream anyway. LayerNorm and GELU stay with torch.

What the kernels need to know of the step goes to the GPU in two small copies: three numbers for every token (id,
position, slot) and a line for every sequence (`PagedBatch`). Decoding steps are recorded and played back (graphs.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from danlu.engine.graphs import DecodeGraphs, Found, Inputs, cuda_recorder
from danlu.kernels import gpu
from danlu.model.layers import Linear, RMSNorm, SwiGLU

if TYPE_CHECKING:
    from danlu.engine.batch import Batch, Logits
    from danlu.engine.kv_cache import KVCache
    from danlu.model.transformer import Transformer


class FusedForward:
    """A model's forward pass over the cache, for a `Runner`. Make one where it `fits`.

    `alone`: nothing but this process takes part in a pass, so that it may be recorded.
    """

    def __init__(self, model: Transformer, cache: KVCache, device: torch.device, alone: bool = True) -> None:
        self.model, self.cache, self.device = model, cache, device
        dynamic = model.rotary is not None and model.rotary.dynamic  # its frequencies are numbers of the step
        record = cuda_recorder(device) if alone and not dynamic else None
        self._graphs = DecodeGraphs(self._decode, cache.block_size, device, record) if record is not None else None

    @staticmethod
    def fits(model: Transformer, device: torch.device) -> bool:
        """Whether the kernels run on this device and know heads of this width."""
        head_dim = model.config.head_dim
        return head_dim % 2 == 0 and head_dim <= gpu.MAX_HEAD_DIM and gpu.enabled(device)

    def decode(self, batch: Batch) -> Logits | None:
        """The logits of a step that is recorded, until the next call; fills the cache. None for any other step."""
        return self._graphs.run(batch) if self._graphs is not None else None

    def hidden(self, batch: Batch) -> Tensor:
        """The last hidden state of every row, [T, D]; fills the cache."""
        per_token = torch.tensor([batch.ids, batch.positions, batch.slots(self.cache.block_size)])
        spans = [(span.row, span.n, span.length, span.table) for span in batch.spans]
        ids, positions, slots = per_token.to(self.device)
        return self._forward(Inputs(ids, positions, slots, gpu.PagedBatch.of(spans, self.device)))

    def _decode(self, inputs: Inputs) -> Found:
        """One token more for every row; `inputs` are then those of the token after it, should it be the likeliest."""
        logits = self.model.head(self._forward(inputs))
        best = gpu.best_tokens(logits)
        gpu.follow(best, inputs.ids, inputs.positions, inputs.slots, inputs.paged.lines, self.cache.block_size)
        return Found(logits, best)

    def _forward(self, inputs: Inputs) -> Tensor:
        """Decides nothing by what is in the tensors of `inputs`, only by their shapes."""
        ids, positions, slots, paged = inputs
        model, cache, n_rows = self.model, self.cache, len(ids)
        x = model.embedding(ids[None]).to(cache.shape.dtype)  # [1, T, D]
        rotary = None
        if model.rotary is not None:
            cos, sin = model.rotary.tables(positions, n_rows, self.device)  # [T, 1, hd / 2]
            rotary = cos[:, 0], sin[:, 0]
        elif model.position_embedding is not None:
            x += model.position_embedding(positions)

        delta = None
        blocks: Any = model.blocks
        for layer, block in enumerate(blocks):
            attention = block.attention
            qkv = _linear(attention.qkv, _add_norm(x, delta, block.attention_norm))
            q = gpu.rotate_and_store(
                qkv.view(n_rows, -1, attention.head_dim), cache.key_slots[layer], cache.value_slots[layer], slots,
                rotary, _head_norms(attention),
            )  # fmt: skip
            o = gpu.paged_attention(
                q, cache.keys[layer], cache.values[layer], paged, attention.scale, attention.window
            )  # [T, H, hd]
            delta = _linear(attention.out, o.view(1, n_rows, -1))
            delta = _mlp(block.mlp, _add_norm(x, delta, block.mlp_norm))
        return _add_norm(x, delta, model.norm)[0]


def _add_norm(x: Tensor, delta: Tensor | None, norm: nn.Module) -> Tensor:
    """x += delta, in place; norm(x)."""
    if isinstance(norm, RMSNorm):
        return gpu.add_rms_norm(x, delta, norm.weight, norm.eps)
    if delta is not None:
        x += delta
    return norm(x)


def _mlp(mlp: nn.Module, x: Tensor) -> Tensor:
    return _linear(mlp.down, gpu.swiglu(_linear(mlp.gate_up, x))) if isinstance(mlp, SwiGLU) else mlp(x)


def _linear(module: Any, x: Tensor) -> Tensor:
    """module(x), where x [1, T, K] is one row of plain weights by our own kernel."""
    if x.shape[1] == 1 and type(module) is Linear and module.weight.is_contiguous() and not module._forward_hooks:
        return gpu.linear_row(x, module.weight, module.bias)
    return module(x)


def _head_norms(attention: Any) -> tuple[Tensor, Tensor, float] | None:
    if attention.q_norm is None:
        return None
    return attention.q_norm.weight, attention.k_norm.weight, attention.q_norm.eps
