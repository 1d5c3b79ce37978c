"""A graph in the making: nodes one after the other, and their tensors.

An ONNX file is one protocol buffer, and those end at 2 GiB. Larger models keep their tensors in a second file, and the
first one says where: {location, offset, length}. Offsets are multiples of a memory page, so that a reader can map them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

PAGE = 4096
IR_VERSION = {15: 8, 21: 10}  # of the file format, by operator set: the oldest that has it


class Graph:
    """Nodes in the order they are computed. `data` is the file for large tensors; None: they stay in the graph."""

    def __init__(self, opset: int, data: Path | None = None) -> None:
        self.opset, self.data = opset, data
        imports = [helper.make_opsetid("", opset)]
        self._model = onnx.ModelProto(ir_version=IR_VERSION[opset], producer_name="danlu", opset_import=imports)
        self._graph = self._model.graph  # filled in place: to make lists first is to hold every tensor twice
        self._graph.name = "decoder"
        self._constants: dict[tuple[Any, ...], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        return self._node(kind, inputs, 1, attributes)[0]

    def split(self, x: str, sizes: tuple[int, ...], axis: int) -> list[str]:
        return self._node("Split", (x, self.constant(np.array(sizes))), len(sizes), {"axis": axis})

    def mean(self, x: str) -> str:
        """The mean over the last axis, which stays with length 1."""
        if self.opset < 18:  # the axes were an attribute
            return self.op("ReduceMean", x, axes=[-1], keepdims=1)
        return self.op("ReduceMean", x, self.constant(np.array([-1])), keepdims=1)

    def reshape(self, x: str, *shape: int) -> str:
        """0 keeps a length, -1 is what is left."""
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def cast(self, x: str, to: int) -> str:
        return self.op("Cast", x, to=to)

    def constant(self, value: np.ndarray | float) -> str:
        """A small tensor, shared by all who ask for it; whole numbers are int64, others float32."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.tensor(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def tensor(self, name: str, array: np.ndarray) -> str:
        """A tensor with numpy's own dtype."""
        return self.packed(name, array, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def packed(self, name: str, array: np.ndarray, kind: int, shape: tuple[int, ...]) -> str:
        """The bytes of `array` as a tensor of `kind` and `shape`: for types that numpy has not."""
        tensor = self._graph.initializer.add(name=name, data_type=kind, dims=shape)
        content = np.ascontiguousarray(array)
        if self.data is None or content.nbytes < PAGE:
            tensor.raw_data = content.tobytes()
        else:
            place = _append(self.data, content)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        return name

    def input(self, name: str, kind: int, shape: tuple[int | str, ...]) -> str:
        self._graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, kind: int, shape: tuple[int | str, ...]) -> None:
        """Let `value`, the latest node's or not, be known outside as `name`."""
        self._graph.node.append(helper.make_node("Identity", [value], [name], name=name))
        self._graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def save(self, path: Path) -> None:
        """Write it; the graph is empty afterwards."""
        onnx.save(self._model, path)
        self._model.Clear()

    def _node(self, kind: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]) -> list[str]:
        name = f"{kind}_{len(self._graph.node)}"
        names = [name] if outputs == 1 else [f"{name}.{index}" for index in range(outputs)]
        self._graph.node.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names


def _append(file: Path, content: np.ndarray) -> dict[str, Any]:
    with file.open("ab") as out:
        offset = -(-out.tell() // PAGE) * PAGE
        out.write(bytes(offset - out.tell()))
        content.tofile(out)
    return {"location": file.name, "offset": offset, "length": content.nbytes}
