"""What every way of pruning is to the walk through a model: something that changes a block and says what is left of it.

Zeros       single weights become 0, by one of the criteria          same shapes
Channels    inner channels of the MLP go                             smaller intermediate_size   (structure.py)
HeadGroups  key/value heads go, with the query heads that use them   smaller n_kv_heads, n_heads (structure.py)
Layers      whole blocks go                                          smaller n_layers            (structure.py)
LowRank     each matrix becomes two                                  danlu/compress/prune/low_rank.py
"""

from __future__ import annotations

from typing import Any

import torch

from danlu.compress.prune.criteria import Criterion
from danlu.compress.prune.pattern import Pattern
from danlu.compress.walk.layers import Moments, Walk, matrix_names
from danlu.model.config import ModelConfig
from danlu.model.transformer import Block, Transformer, fused_rows


class Pruner:
    """One way of pruning, set to one model. Raises UserError when made for a share that the model cannot have."""

    def __init__(self, config: ModelConfig) -> None:
        self.before = config
        self.damped_again = 0  # how often a Hessian of the current block had to be damped more

    def change(self, block: Block, walk: Walk | None) -> dict[str, Any]:
        """Change `block` (float32) in place, on the way of `walk`, and keep its shapes; returns what is to be known.

        Without a walk there are no inputs.
        """
        self.damped_again = 0
        if walk is None:
            for name in matrix_names(block):
                self.visit(block, name, None)
        else:
            walk.through(block, lambda name, _, inputs: self.visit(block, name, inputs))
        return self.facts(block)

    def visit(self, block: Block, name: str, inputs: Moments | None) -> None:
        """Change the matrix `name` of the block."""

    def facts(self, block: Block) -> dict[str, Any]:
        """Of the block that was changed last."""
        return {"damped_again": self.damped_again} if self.damped_again else {}

    def finish(self, model: Transformer, facts: list[dict[str, Any]]) -> Transformer:
        """The pruned model, from one whose blocks are all changed and the facts of each."""
        return model


class Zeros(Pruner):
    def __init__(self, config: ModelConfig, criterion: Criterion, pattern: Pattern) -> None:
        super().__init__(config)
        self.criterion, self.pattern = criterion, pattern
        widths = {"a block": config.hidden_size, "mlp.down": config.intermediate_size}
        for name, columns in {**widths, "attention.out": config.n_heads * config.head_dim}.items():
            pattern.check(columns, name)

    def visit(self, block: Block, name: str, inputs: Moments | None) -> None:
        matrix: Any = block.get_submodule(name)
        seen = None
        if self.criterion.look is not None and inputs is not None:
            seen, raised = self.criterion.look(inputs)
            self.damped_again += raised
        rows = fused_rows(self.before, name) or (len(matrix.weight),)
        parts = [self.criterion.prune(part, seen, self.pattern) for part in matrix.weight.split(rows)]
        matrix.weight.copy_(torch.cat(parts))

    def facts(self, block: Block) -> dict[str, Any]:
        found: dict[str, Any] = {name: block.get_submodule(name).weight for name in matrix_names(block)}
        zeros = {name: int((weight == 0).sum()) for name, weight in found.items()}
        total = sum(weight.numel() for weight in found.values())
        return {
            "zeros": sum(zeros.values()) / total,
            "matrices": {name: count / found[name].numel() for name, count in zeros.items()},
            **super().facts(block),
        }


def share_of_zeros(model: Transformer) -> float:
    """Of the numbers in the matrices of the blocks."""
    found = [tensor for tensor in model.blocks.parameters() if tensor.dim() == 2]
    return sum(int((tensor == 0).sum()) for tensor in found) / sum(tensor.numel() for tensor in found)
