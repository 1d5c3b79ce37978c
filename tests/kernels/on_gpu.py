"""Where the tests of kernels/gpu run: on a GPU where there is one, else on the CPU in Triton's interpreter.

Triton settles when it is first imported whether kernels are interpreted, and each kernel again when it is defined. So
this module is imported before anything else brings Triton in. The variable is taken back at once, for it would reach
every program that other tests start; the fixture `kernels_on` sets it for one test.

The interpreter of Triton 3.6 computes with numpy. Where that differs from a GPU it is mended here, or allowed for:

    numpy has no bfloat16: the bits of two bfloat16 tiles are multiplied as whole numbers     `_dot` widens them
    a row of a matrix product may depend, in its last bit, on where in the tile it is         `_dot` goes row by row
    since numpy 2.4 an array of one number is no bound of a range                             `_patch_index`
    float32 is cut to bfloat16 where a GPU rounds                                             bounds allow a last bit
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from danlu.kernels import gpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ATOL = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
FLOATS = tuple(ATOL)

if DEVICE.type == "cpu":
    assert "triton" not in sys.modules, "Triton came in before it was told to interpret"
    os.environ["TRITON_INTERPRET"] = "1"
try:
    pytest.importorskip("triton", reason="Triton is for Linux")
    from danlu.kernels.gpu import activation, attention, best, matrix, norm, rotary, row  # noqa: F401
finally:
    os.environ.pop("TRITON_INTERPRET", None)


@pytest.fixture
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, `gpu.enabled(DEVICE)` is True and the kernels run."""
    if DEVICE.type == "cpu":
        from triton.runtime import interpreter

        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", _dot(interpreter))
        monkeypatch.setattr(interpreter, "_patch_lang_tensor", _patch_index(interpreter._patch_lang_tensor))
    gpu._enabled.cache_clear()
    assert gpu.enabled(DEVICE)
    yield
    gpu._enabled.cache_clear()


def _dot(interpreter: Any) -> Any:
    import numpy as np
    import triton.language as tl

    def widen(tile: Any) -> Any:
        if tile.dtype.scalar != tl.bfloat16:
            return tile.data.astype(np.float32)
        return (tile.data.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32

    def dot(builder: Any, a: Any, b: Any, acc: Any, precision: Any, n: Any) -> Any:
        product = np.matmul(widen(a)[:, None, :], widen(b))[:, 0]  # [M, 1, K] x [K, N]
        return interpreter.TensorHandle(product + acc.data, acc.dtype.scalar)

    return dot


def _patch_index(plain: Any) -> Any:
    def patch(tensor: Any, scope: Any) -> None:
        plain(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    return patch


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)
