"""A linear layer whose matrix is kept as a product of two: weight = left @ right.

    right [r, K]   left [N, r]        r (N + K) numbers instead of N K        y = (x right^T) left^T + bias

In a file the factors lie where the weight would, `...down_proj.weight_left` and `.weight_right`. Where danlu has one
matrix and the checkpoint several (query, key, value), `right` is one for all of them and lies with the first. The
ranks are in config.json, in the place that other readers look at before they open a model:

    "quantization_config": {"quant_method": "danlu", "format": "low-rank", "ranks": {"blocks.0.mlp.down": 209, ...}}

so that they refuse it by name: a reader that does not know the factors would begin with random matrices instead.

`weight` multiplies the factors out. Who wants one matrix per place (the compiled engine, the GGUF file) reads that.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.model.layers import Linear

FACTORS = ("weight_left", "weight_right")
SHARED = FACTORS[1]  # by all matrices that are joined in one
METHOD, FORMAT = "danlu", "low-rank"


class LowRankLinear(nn.Module):
    def __init__(self, like: Linear, rank: int) -> None:
        """Of the shape, dtype, device and bias of `like`, its factors without values."""
        super().__init__()
        self.in_features, self.out_features, self.rank = like.in_features, like.out_features, rank
        self.weight_left = nn.Parameter(like.weight.new_empty(like.out_features, rank))
        self.weight_right = nn.Parameter(like.weight.new_empty(rank, like.in_features))
        self.bias = like.bias

    @property
    def weight(self) -> Tensor:
        """[N, K], made anew at each call."""
        return self.weight_left @ self.weight_right

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight_right), self.weight_left, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.rank}"


def ranks_of(model: nn.Module) -> dict[str, int]:
    """The rank of every matrix of a model or block that is kept as two, by name."""
    return {name: module.rank for name, module in model.named_modules() if isinstance(module, LowRankLinear)}


def apply_ranks(model: nn.Module, ranks: Any) -> None:
    """Swap matrices of a model or block for pairs of these ranks by name, without values.

    Raises UserError for other names.
    """
    if not isinstance(ranks, dict):
        raise UserError("quantization_config has no ranks", "copy the model again")
    for name, rank in ranks.items():
        module = dict(model.named_modules()).get(name)
        largest = min(module.in_features, module.out_features) if isinstance(module, Linear) else 0
        if not (isinstance(module, Linear) and type(rank) is int and 0 < rank <= largest):
            raise UserError(f"quantization_config gives {name} the rank {rank!r}", "copy the model again")
        model.set_submodule(name, LowRankLinear(module, rank))


def low_rank_config(model: nn.Module) -> dict[str, Any] | None:
    """What config.json has to say about the pairs; None when there are none."""
    ranks = ranks_of(model)
    return {"quant_method": METHOD, "format": FORMAT, "ranks": ranks} if ranks else None
