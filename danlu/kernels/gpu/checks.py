"""What every kernel asks of its tensors, in one sentence when it is not so."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check(name: str, tensor: Tensor, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """`tensor` must be contiguous, of one of `dtypes` and of `shape`, where None is any size. Raises ValueError."""
    if tensor.shape == shape and tensor.dtype in dtypes and tensor.is_contiguous():
        return
    fits = len(shape) == tensor.dim() and all(
        wanted is None or wanted == size for wanted, size in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {list(tensor.shape)}, it must be [{wanted_shape}]")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, it must be {' or '.join(str(dtype) for dtype in dtypes)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has gaps between its rows (strides {tensor.stride()}), it must be contiguous")


def same_device(first: Tensor, **others: Tensor | None) -> None:
    """All tensors must be where the first is. Raises ValueError."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device}, the input is on {first.device}")
