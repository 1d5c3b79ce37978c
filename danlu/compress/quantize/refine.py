"""What GPTQ left of a matrix' error, made smaller: scales by least squares, whole numbers one column after another.

GPTQ settles the scales before it rounds, and rounds each column once, before it knows how the later ones fall. With all
numbers there, both can be asked again. The error of a row of W [N, K] is e H e^T, e = w - w', H [K, K] (gptq.py).

Scales.  w' = sum over groups g of  s_g c_g,  c_g the numbers q - z of the group and 0 elsewhere. The best scales solve
    A s = b,      A_gh = c_g H c_h^T,      b_g = c_g H w^T
a small system for each row; it is held near the old scales, for H comes from a finite text.

Numbers.  With all others fixed the error is least where w'_k moves by (e H)_k / H_kk (coordinate descent, as QuantEase
does it, arXiv:2309.01885): q_k moves by the whole number nearest to that many steps, and e H is brought up to date.

Worked example, one row, one group, levels of 1:  H = [[1, 0.9], [0.9, 1]],  w = [0.4, 0.4],  q = [0, 0].
    e H = [0.76, 0.76]: q_0 moves by 0.76, that is to 1:  e = [-0.6, 0.4],  error 0.36 + 0.16 - 0.432 = 0.088 (of 0.608)
    e H = [-0.24, -0.14]: q_1 moves by -0.14: it stays.   Scale: A = 1, b = 0.76, s = 0.76:  error 0.0304

Rounds of both never make the error on the text larger; after a few they fit the text and no longer the language.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.kernels import grid
from danlu.kernels.grid import Grid
from danlu.model.quantized import Scheme

NEAR = 0.01  # of the mean diagonal of A: how firmly scales are held where they were
BLOCK = 128  # columns whose moves reach the others in one product
AT_ONCE = 1 << 25  # numbers in memory while scales are solved for


def refine(weight: Tensor, hessian: Tensor, found: Grid, scheme: Scheme, rounds: int, damp: float) -> Grid:
    """weight [N, K], hessian [K, K] -> from `found` a grid nearer to the weight's outputs.

    damp: of the mean diagonal, as in gptq. A Hessian that says nothing leaves the grid as it is.
    """
    weight, hessian = weight.detach().float(), hessian.float().clone()
    mean = float(hessian.diagonal().mean())
    if not (mean > 0 and torch.isfinite(hessian).all()):
        return found
    hessian.diagonal().add_(damp * mean)
    for _ in range(rounds):
        found = descend(weight, hessian, best_scales(weight, hessian, found, scheme), scheme)
    return found


def best_scales(weight: Tensor, hessian: Tensor, found: Grid, scheme: Scheme) -> Grid:
    """The same numbers with the scales that serve them best."""
    (rows, columns), groups = weight.shape, found.scale.shape[1]
    width = columns // groups
    numbers = found.values.float().unflatten(1, (groups, width))  # [N, G, group]
    if found.zero is not None:
        numbers = numbers - found.zero.float()[..., None]
    wanted = (numbers * (weight @ hessian).unflatten(1, (groups, width))).sum(dim=2)  # [N, G]
    scale, by_group = found.scale.clone(), hessian.view(groups, width, columns)
    at_once = max(1, AT_ONCE // (groups * columns))
    for begin in range(0, rows, at_once):
        part = slice(begin, begin + at_once)
        own, old = numbers[part], scale[part]
        reach = torch.einsum("ngi,gik->ngk", own, by_group)  # c_g H
        system = torch.einsum("nghi,nhi->ngh", reach.unflatten(2, (groups, width)), own)  # [n, G, G]
        near = NEAR * system.diagonal(dim1=1, dim2=2).mean(dim=1, keepdim=True)
        system.diagonal(dim1=1, dim2=2).add_(near)
        solved, failed = torch.linalg.solve_ex(system, wanted[part] + near * old)
        solved = solved.to(scheme.scale_dtype).float()  # as they will be stored
        usable = (failed == 0)[:, None] & torch.isfinite(solved) & (solved * old > 0)
        scale[part] = torch.where(usable, solved, old)
    return found._replace(scale=scale)


def descend(weight: Tensor, hessian: Tensor, found: Grid, scheme: Scheme) -> Grid:
    """One pass over the columns, those with the largest inputs first: each number where it serves best."""
    group = scheme.group or weight.shape[1]
    low, high = grid.levels(scheme.bits, scheme.symmetric)
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    order = order[diagonal[order] > 0]
    numbers, pull = found.values.float(), (weight - found.widen()) @ hessian  # e H, [N, K]
    for begin in range(0, len(order), BLOCK):
        chosen = order[begin : begin + BLOCK]
        inside, own, moved = hessian[chosen][:, chosen], pull[:, chosen], torch.empty(len(weight), len(chosen))
        for at, k in enumerate(chosen.tolist()):
            scale = found.scale[:, k // group]
            number = (numbers[:, k] + torch.round(own[:, at] / (diagonal[k] * scale))).clamp_(low, high)
            moved[:, at] = (number - numbers[:, k]) * scale
            numbers[:, k] = number
            own.addr_(moved[:, at], inside[at], alpha=-1)
        pull.addmm_(moved, hessian[chosen], alpha=-1)
    return found._replace(values=numbers.to(torch.int8))
