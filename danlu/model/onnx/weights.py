"""Matrices as tensors of a graph, in each type of numbers.

A linear layer is `MatMul(x, W)` with W [K, N], and only what W is differs:

    float32, float16    the tensor itself
    int8, int4          DequantizeLinear(q [K, N], scale, zero)      w = scale * (q - zero)
                        one scale a column, or one for every `block_size` rows of it

That is the standard's own way to say "few bits on disk, float in the product", so every reader computes it right.
onnxruntime (tried: 1.32) recognises the pair and replaces it by one kernel (MatMulNBits) that keeps the few bits in
memory and rounds activations to 8 bits in blocks of 32. Measured on two cores of an AVX-512 server, x [1, 576] times
[576, 49152], with activations that have one column 50 times the others, against the product in float:

    float32                                    9.7 ms
    this, int8                                 1.3 ms   off by 1.0 %
    DynamicQuantizeLinear, MatMulInteger       0.8 ms          2.2 %   (24 % for 128 rows at once: one scale for all)
    the same with a scale for each row         0.8 ms          4.1 %
    this, int4 in groups of 32                 0.4 to 0.6 ms   1.0 %

Scales of int4 are float16 in the file and become float32 before use, which is a sixteenth of the file saved; that
Cast has a constant input, so it is computed once, when the model is opened. A tied head is the embedding turned over,
likewise. An embedding is never below 8 bits: rows of int8 can be taken with Gather, two numbers in a byte cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from danlu.core.errors import UserError
from danlu.model.onnx.graph import Graph
from danlu.model.quantized import QuantizedEmbedding, QuantizedLinear

FLOAT_LIMIT = 65504.0  # the largest float16


class Weights:
    """Puts the numbers of modules into `graph`. `half` makes float matrices float16; norms stay float32."""

    def __init__(self, graph: Graph, half: bool) -> None:
        self.graph, self.half = graph, half
        self.dtype: int = TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def vector(self, name: str, values: Tensor) -> str:
        """A norm's weight or a bias [N], float32."""
        return self._float(name, values, half=False)

    def matrix(self, name: str, module: Any) -> str:
        """A linear layer's W as a value [K, N]."""
        if isinstance(module, QuantizedLinear):
            return self._dequantised(name, module)
        return self._float(f"{name}.weight", module.weight.t(), self.half)

    def table(self, name: str, module: Any) -> str:
        """An embedding [V, D]: the name under which `rows` and `turned` find it."""
        if not isinstance(module, QuantizedEmbedding):
            return self._float(f"{name}.weight", module.weight, self.half)
        self.graph.tensor(f"{name}.weight", _numpy(module.values()))
        self.graph.tensor(f"{name}.scale", _numpy(module.weight_scale))
        return f"{name}.weight"

    def rows(self, name: str, module: Any, ids: str) -> str:
        """ids [B, T] -> [B, T, D] float32, of a table that is in the graph."""
        graph = self.graph
        rows = graph.cast(graph.op("Gather", f"{name}.weight", ids, axis=0), TensorProto.FLOAT)
        if not isinstance(module, QuantizedEmbedding):
            return rows
        scale = graph.cast(graph.op("Gather", f"{name}.scale", ids, axis=0), TensorProto.FLOAT)  # [B, T, groups]
        groups = module.weight_scale.shape[1]
        if groups == 1:
            return graph.op("Mul", rows, scale)
        split = graph.reshape(rows, 0, 0, groups, module.columns // groups)
        scaled = graph.op("Mul", split, graph.reshape(scale, 0, 0, groups, 1))
        return graph.reshape(scaled, 0, 0, module.columns)

    def turned(self, name: str, module: Any) -> str:
        """A table that is in the graph as the W of a head, [D, V]."""
        turned = self.graph.op("Transpose", f"{name}.weight", perm=[1, 0])
        if not isinstance(module, QuantizedEmbedding):
            return turned
        scale = self.graph.op("Transpose", f"{name}.scale", perm=[1, 0])
        return self._product_of(turned, scale, module)

    def _dequantised(self, name: str, module: QuantizedLinear) -> str:
        values = _numpy(module.values()).T  # [K, N]
        if module.scheme.bits == 4:
            self.graph.packed(f"{name}.weight", _nibbles(values), TensorProto.INT4, values.shape)
        else:
            self.graph.tensor(f"{name}.weight", values)
        scale = self.graph.tensor(f"{name}.scale", _numpy(module.weight_scale).T)
        return self._product_of(f"{name}.weight", scale, module)

    def _product_of(self, values: str, scale: str, module: QuantizedLinear | QuantizedEmbedding) -> str:
        """values [K, N] and scale [groups, N] -> float32 [K, N]."""
        graph = self.graph
        scale = graph.cast(scale, TensorProto.FLOAT) if module.weight_scale.dtype != torch.float32 else scale
        groups = module.weight_scale.shape[1]
        if groups == 1:
            return graph.op("DequantizeLinear", values, graph.reshape(scale, -1), axis=1)
        return graph.op("DequantizeLinear", values, scale, axis=0, block_size=module.columns // groups)

    def _float(self, name: str, values: Tensor, half: bool) -> str:
        array = _numpy(values.float())
        if half:
            if np.abs(array).max(initial=0) > FLOAT_LIMIT:
                raise UserError(f"{name} has a weight that float16 cannot hold", "write float32")
            array = array.astype(np.float16)
        return self.graph.tensor(name, array)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().numpy()


def _nibbles(values: np.ndarray) -> np.ndarray:
    """int8 from -8 to 7, an even number of them -> uint8, two in a byte, the first in the lower half.

    >>> [hex(byte) for byte in _nibbles(np.array([[1, -8], [7, -1]], dtype=np.int8))]
    ['0x81', '0xf7']
    """
    pairs = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 2) & 15
    return pairs[:, 0] | pairs[:, 1] << 4
