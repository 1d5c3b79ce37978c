"""GPTQ: rounding a matrix so that its output stays, not its weights (arXiv:2210.17323).

The inputs x of a matrix W [N, K] lie mostly in few directions. What a rounding does to the output is

    sum over x of |(W - Q) x|^2  =  sum over rows n of  e_n H e_n^T,      e = W - Q,   H = sum over x of  x x^T  [K, K].

Columns are rounded one after another, and the error of each is made up for by the columns that are still free: with
the free ones' part of H^-1, a column's error e_k moves a later weight j by

    w_j -= e_k (H^-1)_kj / (H^-1)_kk

With U upper triangular and H^-1 = U^T U, row k of U holds just those numbers, U_kj / U_kk, for every step: one Cholesky
factor instead of K inverses (section 3.3 there).

Worked example, one row, levels of 1:  w = [0.4, 0.7], and the two inputs come together, H = [[1, 0.9], [0.9, 1]].

    to nearest:  q = [0, 1],  e = [0.4, -0.3]:   e H e^T = 0.16 + 0.09 - 2 * 0.9 * 0.12 = 0.034
    GPTQ:        q_0 = 0, e_0 = 0.4. The second weight takes over: w_1 = 0.7 + 0.9 * 0.4 = 1.06, q_1 = 1.
    and for w = [0.4, 0.4]: to nearest [0, 0] costs 0.608; GPTQ moves w_1 to 0.76 and rounds to [0, 1]: 0.088.

Columns go in the order of their diagonal in H, largest first ("activation order"): while many are free, an error is
cheap. The scale and zero point of a group are settled beforehand for the weights as they were, so that the order of the
columns is nowhere in the file.

The inputs that a matrix will get are not those it was trained for: everything before it is rounded too. So it should
first become the matrix that makes the old output from the new inputs (GPTAQ, arXiv:2504.02692). With x the new input
and y the old one of the same place, the sum over places of |W y - W' x|^2 is least for

    W' = W C H^-1,      C = sum of y x^T

and rounding W' by H is all that is left to do. The text is finite and C is noisy: half of the way (`TRUST`) does
better than all of it.

A column whose input is always 0 says nothing about its weights: they are rounded as they are. H gets a share of its
mean diagonal added (`damp`), and ten times as much each time the factor still fails: a matrix that saw too few inputs
becomes plain rounding, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.kernels import grid
from danlu.kernels.grid import Grid
from danlu.model.quantized import Scheme

DAMP = 0.01  # of the mean diagonal, as in the paper
TRUST, TRUST_DAMP = 0.5, 0.05  # measured on one small model (bench/compress.py)
BLOCK = 128  # columns whose errors reach the later ones in one product


def gptq(
    weight: Tensor, hessian: Tensor, scheme: Scheme, *, damp: float = DAMP, activation_order: bool = True
) -> tuple[Grid, int]:
    """weight [N, K], hessian [K, K] -> the matrix on the grid of `scheme`, and how often damping had to be raised."""
    weight, columns = weight.detach().float(), weight.shape[1]
    diagonal = hessian.diagonal()
    found = grid.fit(weight, scheme.bits, scheme.group, scheme.symmetric, importance=diagonal.clamp_min(1e-12))
    group = scheme.group or columns
    order = diagonal.argsort(descending=True, stable=True) if activation_order else torch.arange(columns)
    factor, raised = inverse_factor(hessian[order][:, order], damp)

    free, values = weight[:, order], torch.empty(weight.shape, dtype=torch.int8)
    groups = order // group
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        block, errors = free[:, begin:end], torch.empty(len(weight), end - begin)
        inside = factor[begin:end, begin:end]
        for k in range(end - begin):
            g = groups[begin + k]
            scale, zero = found.scale[:, g], None if found.zero is None else found.zero[:, g].float()
            column = block[:, k]
            q = grid.round_to(column, scale, zero, scheme.bits)
            values[:, order[begin + k]] = q.to(torch.int8)
            errors[:, k] = (column - (q if zero is None else q - zero) * scale) / inside[k, k]
            block[:, k + 1 :].addr_(errors[:, k], inside[k, k + 1 :], alpha=-1)
        free[:, end:].addmm_(errors, factor[begin:end, end:], alpha=-1)
    return Grid(values, found.scale, found.zero), raised


def for_new_inputs(weight: Tensor, hessian: Tensor, cross: Tensor, trust: float = TRUST) -> Tensor:
    """W' [N, K] that makes of the new inputs what `weight` made of the old ones, as far as they are trusted.

    cross [K, K]: sum of y x^T. A Hessian that cannot be solved leaves the weight as it is.
    """
    damped, towards = hessian.float().clone(), torch.lerp(hessian.float(), cross.float(), trust)
    damp = TRUST_DAMP * float(hessian.diagonal().mean())
    for matrix in (damped, towards):
        matrix.diagonal().add_(damp)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed or damp <= 0:
        return weight
    return torch.cholesky_solve((weight.float() @ towards).t().contiguous(), lower).t().contiguous()


def inverse_factor(hessian: Tensor, damp: float = DAMP) -> tuple[Tensor, int]:
    """U [K, K], upper triangular, with H^-1 = U^T U of the damped H; and how often damping had to be raised."""
    hessian = hessian.float()
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    if not (mean > 0 and torch.isfinite(diagonal).all()):
        return torch.eye(len(hessian)), 1  # nothing is known of the inputs
    empty = diagonal == 0
    for raised in range(8):
        damped = hessian.clone()
        damped.diagonal().add_(damp * 10**raised * mean)
        damped.diagonal()[empty] = mean
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and torch.isfinite(upper).all():
            return upper, raised
    return torch.eye(len(hessian)), 8
