"""Low rank: a matrix W [N, K] as a product A B of A [N, r] and B [r, K], fewer numbers where r < N K / (N + K).

What is best at a rank depends on what the matrix is fed. With inputs x and H = sum over x of x x^T = L L^T (Cholesky,
"whitening"),

    sum over x of |(W - A B) x|^2  =  |W L - A B L|^2 (Frobenius)

and the smallest value, the sum of the squares of the singular values of W L that are left out, belongs to

    A = U_r,    B = U_r^T W,      W L = U S V^T

(truncation-aware whitening of SVD-LLM, arXiv:2403.07378, section 3.1; there B = S_r V_r^T L^-1, which is the same:
U_r^T W = U_r^T U S V^T L^-1. Written like this no inverse is needed, and inputs that span only a part do no harm.)

Worked example, W = [[1, 0], [0, 2]], rank 1: by itself W keeps the 2. With H = [[9, 0], [0, 1]], L = [[3, 0], [0, 1]]
and W L = [[3, 0], [0, 2]], it keeps the 1: A = [[1], [0]], B = [[1, 0]], loss 2^2 = 4 and not 3^2 = 9.

How the pair is kept in modules and files is in danlu/model/low_rank.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.compress.prune.pruner import Pruner
from danlu.compress.walk.damping import lower_factor
from danlu.compress.walk.layers import Moments, matrix_names
from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.low_rank import LowRankLinear
from danlu.model.transformer import Block

RIDGE = 1e-6  # of the mean diagonal: enough for a Cholesky factor, nothing to the result


class LowRank(Pruner):
    """Every matrix of the blocks as a pair with `share` fewer numbers."""

    def __init__(self, config: ModelConfig, share: float) -> None:
        super().__init__(config)
        self.share = share
        with torch.device("meta"):
            block = Block(config, 0)
        self.ranks: dict[str, int] = {}
        for name in matrix_names(block):
            rows, columns = block.state_dict()[f"{name}.weight"].shape
            self.ranks[name] = rank_of(rows, columns, share)
        if not min(self.ranks.values()):
            raise UserError(f"a share of {share:g} leaves a rank of 0", "choose a smaller share")
        self._lost: dict[str, float] = {}

    def visit(self, block: Block, name: str, inputs: Moments | None) -> None:
        assert inputs is not None
        matrix: Any = block.get_submodule(name)
        pair = LowRankLinear(matrix, self.ranks[name]).requires_grad_(False)
        left, right, self._lost[name], raised = factorise(matrix.weight, inputs.hessian, pair.rank)
        self.damped_again += raised
        pair.weight_left.copy_(left)
        pair.weight_right.copy_(right)
        block.set_submodule(name, pair)

    def facts(self, block: Block) -> dict[str, Any]:
        return {"lost": dict(self._lost), **super().facts(block)}


def rank_of(rows: int, columns: int, share: float) -> int:
    """The rank at which two matrices have `share` fewer numbers than one.

    >>> rank_of(576, 576, 0.5)
    144
    """
    return int((1 - share) * rows * columns / (rows + columns))


def factorise(weight: Tensor, h: Tensor, rank: int) -> tuple[Tensor, Tensor, float, int]:
    """weight [N, K], h [K, K] -> A [N, r], B [r, K], |(W - A B) L|^2 / |W L|^2, and how often the ridge was raised."""
    root, raised = lower_factor(h, RIDGE)  # None: nothing is known of the inputs
    u, s = torch.linalg.svd(weight if root is None else weight @ root, full_matrices=False)[:2]
    left = u[:, :rank].contiguous()
    energy = s.double().square()
    return left, left.T @ weight, float(energy[rank:].sum() / energy.sum().clamp_min(1e-30)), raised
