"""The decoder as ONNX nodes: the counterpart of transformer.py, attention.py, layers.py and rope.py.

    x = rows(ids) (+ positions)                                        [B, T, D]     float32, whatever the type
    q, k, v = norm(x) Wqkv, q and k turned                             [B, T, heads, hd]
    k, v = past | k, past | v                                          [B, Hkv, P + T, hd]    -> present
    x = x + softmax(q k^T / sqrt(hd) + mask) v Wo
    x = x + mlp(norm(x))
    logits = norm(x) W                                                 [B, T, V]

Grouped heads: q is [B, Hkv, H / Hkv, T, hd] and k [B, Hkv, 1, P + T, hd], so that MatMul's own broadcasting pairs them
and no key is copied. In float16 the products are float16; sums, norms, angles and softmax are float32, as is what runs
from block to block, because sums of many layers are what leaves the range of float16 first.

Norms and gelu are spelt with simple operators rather than with the newer ones: those in the mobile packages of
onnxruntime stop at operator set 15 or so, and onnxruntime finds the patterns and replaces them by its fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from onnx import TensorProto

from danlu.model.config import ModelConfig
from danlu.model.onnx.graph import Graph
from danlu.model.onnx.weights import Weights
from danlu.model.rope import frequencies
from danlu.model.transformer import Transformer

HIDDEN = -1e30  # added to a score that does not count; finite, so that a row which sees nothing is not NaN
Lend = Callable[[str], AbstractContextManager[None]]  # while it lasts, that module of the model can be read


class Decoder:
    """Writes `model`, module by module as `lend` makes them readable, into `graph`."""

    def __init__(self, graph: Graph, model: Transformer, lend: Lend, half: bool, keep: bool = True) -> None:
        self.graph, self.model, self.lend = graph, model, lend
        self.config: ModelConfig = model.config
        self.weights = Weights(graph, half, keep)
        self.half = half
        self._masks: dict[int | None, str] = {}

    def build(self) -> None:
        graph, config = self.graph, self.config
        self.ids = graph.input("input_ids", TensorProto.INT64, ("batch", "length"))
        self.mask = graph.input("attention_mask", TensorProto.INT64, ("batch", "total"))
        self.positions = graph.input("position_ids", TensorProto.INT64, ("batch", "length"))
        cache = [[self._cache_input(layer, part) for part in ("key", "value")] for layer in range(config.n_layers)]
        x = self._embed()
        self.rotary = self._rotary() if config.positions == "rope" else None
        for layer, (past_key, past_value) in enumerate(cache):
            name = f"blocks.{layer}"
            attended = self._attention(layer, self._norm(f"{name}.attention_norm", x), past_key, past_value)
            x = graph.op("Add", x, attended)
            x = graph.op("Add", x, self._mlp(name, self._norm(f"{name}.mlp_norm", x)))
        logits = self._head(self._norm("norm", x))
        graph.output("logits", logits, TensorProto.FLOAT, ("batch", "length", config.vocab_size))

    # ---- in and out ----------------------------------------------------------------------------------------------

    def _cache_input(self, layer: int, part: str) -> str:
        shape = ("batch", self.config.n_kv_heads, "past", self.config.head_dim)
        return self.graph.input(f"past_key_values.{layer}.{part}", self.weights.dtype, shape)

    def _embed(self) -> str:
        with self.lend("embedding"):
            grid = self.weights.table("embedding", self.model.embedding)
        x = self.weights.rows("embedding", grid, self.ids)
        self._tied = lambda: self.weights.turned("embedding", grid)
        if self.model.position_embedding is None:
            return x
        with self.lend("position_embedding"):
            self.weights.table("position_embedding", self.model.position_embedding)
        places = self.weights.rows("position_embedding", None, self.positions)
        return self.graph.op("Add", x, places)

    def _head(self, x: str) -> str:
        if self.model.lm_head is not None:
            return self._linear("lm_head", x)
        return self._wide(self.graph.op("MatMul", x, self._tied()))

    # ---- a block -------------------------------------------------------------------------------------------------

    def _attention(self, layer: int, x: str, past_key: str, past_value: str) -> str:
        graph, config, name = self.graph, self.config, f"blocks.{layer}.attention"
        q, k, v = self._positioned(name, self._linear(f"{name}.qkv", x))
        groups = config.n_heads // config.n_kv_heads
        q = graph.op("Mul", q, graph.constant(config.head_dim**-0.5))
        q = self._narrow(graph.reshape(q, 0, 0, config.n_kv_heads, groups, config.head_dim))
        q = graph.op("Transpose", q, perm=[0, 2, 3, 1, 4])  # [B, Hkv, H / Hkv, T, hd]
        k = self._extended(layer, "key", past_key, k)
        v = self._extended(layer, "value", past_value, v)  # [B, Hkv, 1, P + T, hd]
        scores = self._wide(graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 2, 4, 3])))
        scores = graph.op("Add", scores, self._visible(config.window(layer)))  # [B, Hkv, H / Hkv, T, P + T]
        shares = self._narrow(graph.op("Softmax", scores, axis=-1))
        seen = graph.op("Transpose", graph.op("MatMul", shares, v), perm=[0, 3, 1, 2, 4])
        return self._linear(f"{name}.out", graph.reshape(seen, 0, 0, config.n_heads * config.head_dim))

    def _positioned(self, name: str, qkv: str) -> tuple[str, str, str]:
        """[B, T, (H + 2 Hkv) hd] -> q, k, v [B, T, heads, hd], float32; the first two normed and turned."""
        graph, config = self.graph, self.config
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        q, k, v = graph.split(graph.reshape(qkv, 0, 0, sum(heads), config.head_dim), heads, axis=2)
        if config.qk_norm:
            q, k = self._norm(f"{name}.q_norm", q, narrow=False), self._norm(f"{name}.k_norm", k, narrow=False)
        return (q, k, v) if self.rotary is None else (self._turn(q), self._turn(k), v)

    def _extended(self, layer: int, part: str, past: str, new: str) -> str:
        """past [B, Hkv, P, hd] and new [B, T, Hkv, hd] -> [B, Hkv, 1, P + T, hd], which is also handed out."""
        config = self.config
        new = self.graph.op("Transpose", self._narrow(new), perm=[0, 2, 1, 3])
        all_of_it = self.graph.op("Concat", past, new, axis=2)
        shape = ("batch", config.n_kv_heads, "total", config.head_dim)
        self.graph.output(f"present.{layer}.{part}", all_of_it, self.weights.dtype, shape)
        return self.graph.op("Unsqueeze", all_of_it, self.graph.constant(np.array([2])))

    def _mlp(self, block: str, x: str) -> str:
        graph, config = self.graph, self.config
        if config.mlp == "swiglu":
            both = self._linear(f"{block}.mlp.gate_up", x)
            gate, up = graph.split(both, (config.intermediate_size, config.intermediate_size), axis=-1)
            inner = graph.op("Mul", graph.op("Mul", gate, graph.op("Sigmoid", gate)), up)
        else:
            inner = self._gelu(self._linear(f"{block}.mlp.up", x))
        return self._linear(f"{block}.mlp.down", self._narrow(inner))

    def _gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt 2)), or x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
        graph = self.graph
        if self.config.gelu_tanh:
            cubed = graph.op("Mul", graph.op("Pow", x, graph.constant(3.0)), graph.constant(0.044715))
            bent = graph.op("Mul", graph.op("Add", x, cubed), graph.constant(math.sqrt(2 / math.pi)))
            bent = graph.op("Tanh", bent)
        else:
            bent = graph.op("Erf", graph.op("Div", x, graph.constant(math.sqrt(2))))
        return graph.op("Mul", graph.op("Mul", x, graph.op("Add", bent, graph.constant(1.0))), graph.constant(0.5))

    def _norm(self, name: str, x: str, narrow: bool = True) -> str:
        """Over the last axis of float32 x, into the dtype of products unless told otherwise."""
        graph, centred = self.graph, x
        module: Any = self.model.get_submodule(name)
        with self.lend(name):
            weight = self.weights.vector(f"{name}.weight", module.weight)
            bias = self.weights.vector(f"{name}.bias", module.bias) if self._has_bias(module) else None
        if bias is not None:  # LayerNorm
            centred = graph.op("Sub", x, graph.mean(x))
        square = graph.mean(graph.op("Pow", centred, graph.constant(2.0)))
        root = graph.op("Sqrt", graph.op("Add", square, graph.constant(self.config.norm_eps)))
        out = graph.op("Mul", graph.op("Div", centred, root), weight)
        out = out if bias is None else graph.op("Add", out, bias)
        return self._narrow(out) if narrow else out

    def _linear(self, name: str, x: str) -> str:
        """x [..., K] in the dtype of products -> [..., N] float32."""
        module: Any = self.model.get_submodule(name)
        with self.lend(name):
            out = self._wide(self.graph.op("MatMul", x, self.weights.matrix(name, module)))
            if not self._has_bias(module):
                return out
            return self.graph.op("Add", out, self.weights.vector(f"{name}.bias", module.bias))

    # ---- positions and masks -------------------------------------------------------------------------------------

    def _rotary(self) -> tuple[str, str]:
        """cos and sin [B, T, 1, hd / 2] of the positions."""
        graph, scaling = self.graph, self.config.rope_scaling
        inverse, amplitude = frequencies(self.config)
        speeds = graph.constant(inverse.numpy())
        places = graph.cast(self.positions, TensorProto.FLOAT)
        if scaling is not None and scaling.type == "dynamic":
            speeds = self._dynamic_speeds(places)
        angles = graph.op("Mul", graph.op("Unsqueeze", places, graph.constant(np.array([2, 3]))), speeds)
        cos, sin = graph.op("Cos", angles), graph.op("Sin", angles)
        if amplitude == 1.0:
            return cos, sin
        return graph.op("Mul", cos, graph.constant(amplitude)), graph.op("Mul", sin, graph.constant(amplitude))

    def _dynamic_speeds(self, places: str) -> str:
        """The frequencies for the largest position of this call; the formula is at the head of rope.py."""
        graph, config = self.graph, self.config
        scaling, dim = config.rope_scaling, config.head_dim
        assert scaling is not None
        length = graph.op("Add", graph.op("ReduceMax", places, keepdims=0), graph.constant(1.0))
        length = graph.op("Max", length, graph.constant(float(config.max_position)))
        stretch = graph.op("Mul", length, graph.constant(scaling.factor / config.max_position))
        stretch = graph.op("Sub", stretch, graph.constant(scaling.factor - 1))
        base = graph.op("Pow", stretch, graph.constant(dim / max(dim - 2, 1)))
        base = graph.op("Mul", base, graph.constant(config.rope_theta))
        return graph.op("Pow", base, graph.constant(-np.arange(0, dim, 2, dtype=np.float32) / dim))

    def _turn(self, x: str) -> str:
        """[B, T, heads, hd], each pair (x[i], x[i + hd / 2]) by its angle."""
        assert self.rotary is not None
        graph, (cos, sin) = self.graph, self.rotary
        half = self.config.head_dim // 2
        first, second = graph.split(x, (half, half), axis=-1)
        left = graph.op("Sub", graph.op("Mul", first, cos), graph.op("Mul", second, sin))
        right = graph.op("Add", graph.op("Mul", second, cos), graph.op("Mul", first, sin))
        return graph.op("Concat", left, right, axis=-1)

    def _visible(self, window: int | None) -> str:
        """[B, 1, 1, T, P + T]: 0 where a token may look, HIDDEN where not. Places are counted with the padding."""
        if window in self._masks:
            return self._masks[window]
        graph = self.graph
        zero, one, last = graph.constant(np.array(0)), graph.constant(np.array(1)), graph.constant(np.array([1]))
        total = graph.op("Gather", graph.op("Shape", self.mask), one, axis=0)
        length = graph.op("Gather", graph.op("Shape", self.ids), one, axis=0)
        keys = graph.cast(graph.op("Range", zero, total, one), TensorProto.FLOAT)  # exact up to 16 million places
        queries = graph.cast(graph.op("Range", graph.op("Sub", total, length), total, one), TensorProto.FLOAT)
        distance = graph.op("Sub", graph.op("Unsqueeze", queries, last), keys)  # [T, P + T]
        seen = graph.op("GreaterOrEqual", distance, graph.constant(0.0))
        if window is not None:
            seen = graph.op("And", seen, graph.op("Less", distance, graph.constant(float(window))))
        present = graph.op("Greater", graph.cast(self.mask, TensorProto.FLOAT), graph.constant(0.0))
        seen = graph.op("And", graph.op("Unsqueeze", present, graph.constant(np.array([1, 2, 3]))), seen)
        self._masks[window] = graph.op("Where", seen, graph.constant(0.0), graph.constant(HIDDEN))
        return self._masks[window]

    # ---- float16 -------------------------------------------------------------------------------------------------

    def _wide(self, x: str) -> str:
        return self.graph.cast(x, TensorProto.FLOAT) if self.half else x

    def _narrow(self, x: str) -> str:
        return self.graph.cast(x, TensorProto.FLOAT16) if self.half else x

    @staticmethod
    def _has_bias(module: Any) -> bool:
        return getattr(module, "bias", None) is not None
