"""Single weights set to zero, by three criteria; each is a row of `CRITERIA`.

| criterion   | a weight goes when this is low         | compared with    | the others           | arXiv      |
|-------------|----------------------------------------|------------------|----------------------|------------|
| `magnitude` | |w|                                    | the whole matrix | stay as they are     | 1506.02626 |
| `wanda`     | |w| times the norm of its input column | its row          | stay as they are     | 2306.11695 |
| `sparsegpt` | w^2 / (H^-1)_kk, what its loss costs   | 128 columns      | make up for the loss | 2301.00774 |

Why the inputs matter. One row w = [3, 2] with input columns of the norms [1, 4]: `magnitude` drops the 2, and the
output loses 2 * 4 = 8; `wanda` drops the 3, and it loses 3 * 1 = 3.

`sparsegpt` walks through the columns as GPTQ does (danlu/compress/quantize/gptq.py has the arithmetic): a weight that
goes is an error e, and each later weight takes over e (H^-1)_kj / (H^-1)_kk of it. Worked example, w = [0.4, 0.7],
half of the row, inputs that come together, H = [[1, 0.9], [0.9, 1]], so H^-1 = [[5.26, -4.74], [-4.74, 5.26]]:

    costs 0.4^2 / 5.26 = 0.030 and, once column 0 is settled, 0.7^2 / 1 = 0.49: the 0.4 goes,
    and 0.7 becomes 0.7 + 0.4 * 0.9 = 1.06: the output error falls from 0.16 to 0.0304

What is compared. The rows of one matrix as it was trained: query, key and value, gate and up are judged by themselves.
SparseGPT takes its share of every 128 columns, so where large inputs stand together it can lose to Wanda, which looks
at the whole row. A column of inputs that is always 0 costs nothing and goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.compress.prune.pattern import Pattern
from danlu.compress.quantize.gptq import BLOCK, inverse_factor
from danlu.compress.walk.layers import Moments


@dataclass(frozen=True)
class Criterion:
    """`look` makes of what is known of a matrix's inputs what `prune` wants of it, and says how often damping had to be
    raised; None: it wants nothing.

    `prune(weight [N, K], seen, pattern)` returns the weight with zeros, in memory of its own.
    """

    summary: str
    look: Callable[[Moments], tuple[Any, int]] | None
    prune: Callable[[Tensor, Any, Pattern], Tensor]


def magnitude(weight: Tensor, seen: None, pattern: Pattern) -> Tensor:
    return weight.masked_fill(pattern.lowest_of_all(weight.abs()), 0)


def column_norms(inputs: Moments) -> tuple[Tensor, int]:
    """Of the inputs' columns, [K]."""
    return inputs.hessian.diagonal().sqrt(), 0


def wanda(weight: Tensor, norms: Tensor, pattern: Pattern) -> Tensor:
    return weight.masked_fill(pattern.lowest(weight.abs() * norms), 0)


def hessian_factor(inputs: Moments) -> tuple[tuple[Tensor, Tensor], int]:
    """The factor of the inverse Hessian, and which columns are always 0."""
    factor, raised = inverse_factor(inputs.hessian)
    return (factor, inputs.hessian.diagonal() == 0), raised


def sparsegpt(weight: Tensor, seen: tuple[Tensor, Tensor], pattern: Pattern) -> Tensor:
    """Algorithm 1 of the paper. The zeros of a block of columns are chosen with its errors up to there made up for;
    those of a pattern group by group."""
    factor, empty = seen
    free = weight.float().clone()
    columns, width = weight.shape[1], BLOCK - BLOCK % (pattern.of or 1)
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block, errors = free[:, begin:end], torch.empty(len(weight), end - begin)
        inside, diagonal = factor[begin:end, begin:end], factor.diagonal()[begin:end]
        goes, together = torch.empty(block.shape, dtype=torch.bool), pattern.of or end - begin
        for k in range(end - begin):
            if k % together == 0:
                group = slice(k, k + together)
                costs = (block[:, group] / diagonal[group]).square_()
                goes[:, group] = pattern.lowest_of_all(costs.masked_fill_(empty[begin:end][group], 0))
            errors[:, k] = (block[:, k] * goes[:, k]).div_(diagonal[k])
            block[:, k].masked_fill_(goes[:, k], 0)
            block[:, k + 1 :].addr_(errors[:, k], inside[k, k + 1 :], alpha=-1)
        free[:, end:].addmm_(errors, factor[begin:end, end:], alpha=-1)
    return free


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": Criterion("the smallest weights of each matrix become 0; no data needed", None, magnitude),
    "wanda": Criterion("the smallest weights times the norm of their inputs become 0", column_norms, wanda),
    "sparsegpt": Criterion("the cheapest weights become 0, and the others make up for them", hessian_factor, sparsegpt),
}
