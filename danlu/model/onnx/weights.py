"""Matrices as tensors of a graph, in each type of numbers.

A linear layer is `MatMul(x, W)` with W [K, N], and only what W is differs:

    floats          the tensor itself
    whole numbers   DequantizeLinear(q [K, N], scale, zero)      w = scale * (q - zero), as in kernels/grid.py
                    one scale a column, or one for every `block_size` rows of it; q is int8 or int4

That is the standard's own way to say "few bits on disk, float in the product", so every reader computes it right.
onnxruntime (tried: 1.32) recognises the pair and replaces it by one kernel (MatMulNBits) that keeps the few bits in
memory and rounds activations to 8 bits in blocks of 32 or more. Measured on two cores of an AVX-512 server, x [1, 576]
times [576, 49152], with activations that have one column 50 times the others, against the product in float:

    float32                                    9.7 ms
    this, int8                                 1.3 ms   off by 1.0 %
    DynamicQuantizeLinear, MatMulInteger       0.8 ms          2.2 %   (24 % for 128 rows at once: one scale for all)
    the same with a scale for each row         0.8 ms          4.1 %
    this, int4 in groups of 32                 0.4 to 0.6 ms   1.0 %

Scales of groups are float16 in the file and become float32 before use: in groups of 32 that saves half a bit a weight.
The Cast has a constant input, so it is computed once, when the model is opened; likewise the Transpose that makes a
tied head of the embedding. An embedding is never below 8 bits: rows of int8 can be taken with Gather, two numbers in a
byte cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from danlu.core.errors import UserError
from danlu.kernels.grid import Grid
from danlu.model.onnx.graph import Graph
from danlu.model.quantized import Quantized

FLOAT16_MAX = 65504.0


class Weights:
    """Puts the numbers of modules into `graph`: float matrices as float16 if `half`; norms and biases as float32.

    `keep` False writes quantised matrices as floats, too.
    """

    def __init__(self, graph: Graph, half: bool, keep: bool = True) -> None:
        self.graph, self.half, self.keep = graph, half, keep
        self.dtype: int = TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def vector(self, name: str, values: Tensor) -> str:
        """A norm's weight or a bias [N]."""
        return self.graph.tensor(name, _numpy(values.float()))

    def matrix(self, name: str, module: Any) -> str:
        """A linear layer's W as a value [K, N]."""
        grid = self._grid(name, module)
        if grid is None:
            return self._float(name, module, turned=True)
        four = module.scheme.bits == 4
        values = self._whole(f"{name}.weight", _numpy(grid.values).T, four)  # [K, N]
        scale = self.graph.tensor(f"{name}.scale", _per_column(grid.scale))
        zero = None if grid.zero is None else self._whole(f"{name}.zero", _per_column(grid.zero), four)
        return self._dequantise(values, scale, zero, grid)

    def table(self, name: str, module: Any) -> Grid | None:
        """An embedding [V, D], for `rows` and `turned`; they want back what this returns."""
        grid = self._grid(name, module)
        if grid is None:
            self._float(name, module, turned=False)
            return None
        self.graph.tensor(f"{name}.weight", _numpy(grid.values))
        self.graph.tensor(f"{name}.scale", _numpy(grid.scale))
        if grid.zero is not None:
            self.graph.tensor(f"{name}.zero", _numpy(grid.zero))
        return grid

    def rows(self, name: str, grid: Grid | None, ids: str) -> str:
        """ids [B, T] -> [B, T, D] float32."""
        graph = self.graph

        def gather(part: str) -> str:
            return graph.cast(graph.op("Gather", f"{name}.{part}", ids, axis=0), TensorProto.FLOAT)

        rows = gather("weight")
        if grid is None:
            return rows
        columns, groups = grid.values.shape[1], grid.scale.shape[1]
        rows = graph.reshape(rows, 0, 0, groups, columns // groups)
        if grid.zero is not None:
            rows = graph.op("Sub", rows, graph.reshape(gather("zero"), 0, 0, groups, 1))
        rows = graph.op("Mul", rows, graph.reshape(gather("scale"), 0, 0, groups, 1))
        return graph.reshape(rows, 0, 0, columns)

    def turned(self, name: str, grid: Grid | None) -> str:
        """A table as the W of a head, [D, V]."""

        def per_column(part: str) -> str:
            one = grid is not None and grid.scale.shape[1] == 1
            return self.graph.reshape(f"{name}.{part}", -1) if one else transpose(part)

        def transpose(part: str) -> str:
            return self.graph.op("Transpose", f"{name}.{part}", perm=[1, 0])

        if grid is None:
            return transpose("weight")
        zero = None if grid.zero is None else per_column("zero")
        return self._dequantise(transpose("weight"), per_column("scale"), zero, grid)

    def _whole(self, name: str, values: np.ndarray, four: bool) -> str:
        """int8, or int4 that came as int8."""
        if not four:
            return self.graph.tensor(name, values)
        return self.graph.packed(name, nibbles(values), TensorProto.INT4, values.shape)

    def _grid(self, name: str, module: Any) -> Grid | None:
        """The whole numbers of a module; None where it is to be written as floats."""
        if not isinstance(module, Quantized) or not self.keep:
            return None
        if not module.on_grid:
            kind = module.scheme.kind
            raise UserError(f"{name} is {kind}, for which onnxruntime has no product", "write --type float32")
        return module.grid()

    def _dequantise(self, values: str, scale: str, zero: str | None, grid: Grid) -> str:
        """values [K, N], scale and zero [G, N] ([N] where G is 1) -> float32 [K, N]."""
        graph, groups = self.graph, grid.scale.shape[1]
        if grid.scale.dtype != torch.float32:
            scale = graph.cast(scale, TensorProto.FLOAT)
        rest = [scale] if zero is None else [scale, zero]
        if groups == 1:
            return graph.op("DequantizeLinear", values, *rest, axis=1)
        block = grid.values.shape[1] // groups
        return graph.op("DequantizeLinear", values, *rest, axis=0, block_size=block)

    def _float(self, name: str, module: Any, turned: bool) -> str:
        wide = module.widen() if isinstance(module, Quantized) else module.weight.float()
        array = _numpy(wide.t() if turned else wide)
        if self.half:
            if np.abs(array).max(initial=0) > FLOAT16_MAX:
                raise UserError(f"{name} has a weight that float16 cannot hold", "write --type float32")
            array = array.astype(np.float16)
        return self.graph.tensor(f"{name}.weight", array)


def nibbles(values: np.ndarray) -> np.ndarray:
    """int8 from -8 to 7 -> uint8, two in a byte, row after row, the first in the lower half.

    >>> [hex(byte) for byte in nibbles(np.array([[1, -8], [7, -1]], dtype=np.int8))]
    ['0x81', '0xf7']
    """
    flat = np.ascontiguousarray(values).view(np.uint8).ravel() & 15
    flat = np.append(flat, flat[:0] if len(flat) % 2 == 0 else np.zeros(1, np.uint8))
    return flat[::2] | flat[1::2] << 4


def _per_column(values: Tensor) -> np.ndarray:
    """[N, G] -> [G, N], [N] where G is 1."""
    return _numpy(values[:, 0] if values.shape[1] == 1 else values.t())


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().numpy()
