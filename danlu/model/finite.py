"""Whether a model's numbers are numbers.

One NaN in a matrix makes every answer NaN, and whatever is made of such a model (rounded, pruned, exported) looks whole
and is not. So each door asks, of one module after another, and reads nothing twice: the least and the largest number
of a tensor carry a NaN along, and need no memory.
"""

from __future__ import annotations

from torch import Tensor, nn

from danlu.core.errors import UserError


def require_finite(module: nn.Module, name: str, where: str, hint: str = "") -> None:
    """Raises UserError that names the first tensor of `module` (called `name` in its model) with a NaN or infinity."""
    for key, tensor in module.state_dict().items():
        if not _is_finite(tensor):
            full = f"{name}.{key}" if name else key
            raise UserError(
                f"{where}: {full} has numbers that are not finite",
                hint or "the model is damaged: copy or train it again",
            )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = (tensor if tensor.element_size() > 1 else tensor.float()).aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())
