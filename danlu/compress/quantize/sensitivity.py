"""How much it hurts to round a matrix: every matrix in every scheme, from one walk forward and one back.

Rounding a matrix W [N, K] moves it by e = W - Q. What that does to the model's predictions on a text is, to second
order (Kullback and Leibler's divergence has no first-order term; its second is Fisher's),

    KL  ~  1/2 (sum over n, k of  e_nk d loss / d W_nk)^2,        the labels of the loss drawn from the model itself

on the average over labels. Errors of rounding have no common sign, so of the square only its diagonal is left:

    KL  ~  1/2 sum over n, k of   e_nk^2 F_nk,        F_nk = mean over rows of text of (d loss / d W_nk)^2

with e of rounding to nearest. Worked example, two weights: e = [0.1, 0.2] and F = [4, 1] cost
1/2 (0.01 * 4 + 0.04 * 1) = 0.04 nats; half the error in each, as one bit more would give, costs 0.01.

GPTQ makes up for the errors of a column by later ones, so far as inputs come together:
what is left of e_nk^2 mean(x_k^2) is e_nk^2 / U_kk^2, with mean(x x^T) = (U^T U)^-1 (gptq.py), and what inputs share at
all places is gone, so that places no longer add up:

    KL per place  ~  1/2 sum over n, k of   a_n e_nk^2 / U_kk^2,       a_n = mean over places of (d loss / d (W x)_n)^2

The outer matrices are as tall as the vocabulary; theirs is taken apart: a_v c_k instead of F_vk. For the head a_v is
the mean of p_v (1 - p_v) and c_k that of x_k^2; for the embedding a_v is how often token v comes and c_k the mean
square of the gradient below it. A matrix that is both pays for both.

The walk goes block by block and keeps only the hidden states between them. The model is not run once for each matrix:
this is an estimate, and checked against such runs in the tests (and in decision 26, with what else was tried).
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.compress.quantize.gptq import inverse_factor
from danlu.compress.walk.blockwise import Source
from danlu.compress.walk.layers import AT_ONCE, Walk, matrix_names
from danlu.core.artifact import write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.config import ModelConfig
from danlu.model.quantized import Scheme, matrices

LADDER = (*(Scheme(4, group, symmetric) for group in (128, 64, 32) for symmetric in (True, False)), Scheme(8))
SAMPLED = 512  # rows of a matrix that are rounded to see the error, those that count most
HEAD_PLACES = 256  # places whose logits are in memory together


@dataclass(frozen=True)
class Option:
    """A matrix in a scheme: bytes of its file, and the divergence that it causes (nats a token, estimated)."""

    scheme: Scheme
    bytes: int
    loss: float


Options = dict[str, list[Option]]  # of each matrix of a model, by name


def options_of(source: Source, ids: Tensor, damp: float | None, run: StageRun, seed: int = 0) -> Options:
    """Every matrix in every scheme that it divides into. ids [n, T]; damp: that of gptq, None: rounded to nearest.

    The result is kept in `run.work` for the next try. Raises Interrupted between two blocks.
    """
    file = run.work / "options.json"
    with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: the machine stopped while it was written
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: [Option(Scheme(**own["scheme"]), own["bytes"], own["loss"]) for own in kept[name]]
            for name in matrices(source.model)
        }
    found: Options = {}
    model, walk, before = source.model, Walk(source.model, ids), list[Tensor]()
    steps = 2 * source.n_blocks
    with run.graceful():
        for index in range(source.n_blocks):
            run.stop_if_asked()
            before.append(walk.hidden.clone())
            walk.through(source.block(index))
            run.progress(index + 1, steps, "blocks measured")
        gradient, head = _head(model, walk.hidden, seed)
        for index in reversed(range(source.n_blocks)):
            run.stop_if_asked()
            block = source.block(index)
            seen = {name: _Seen(block.get_submodule(name), damp) for name in matrix_names(block)}
            rows = max(1, AT_ONCE // ids.shape[1])
            for x, above in zip(before.pop().split(rows), gradient.split(rows), strict=True):
                x = x.requires_grad_()
                walk.step(block, x).backward(above)
                assert x.grad is not None
                above.copy_(x.grad)
            for name, one in seen.items():
                found[f"blocks.{index}.{name}"] = one.options(ids.numel())
            run.progress(steps - index, steps, "blocks measured")
    often = torch.bincount(ids.flatten(), minlength=model.config.vocab_size) / ids.numel()
    looked_up = _outer(often, gradient.flatten(0, -2).square().mean(dim=0))
    if model.lm_head is None:
        found["embedding"] = _options(model.embedding.weight, [head, looked_up])
    else:
        found["embedding"] = _options(model.embedding.weight, [looked_up])
        found["lm_head"] = _options(model.lm_head.weight, [head])
    found = {name: found[name] for name in matrices(model)}
    partial = file.with_suffix(".partial")
    write_json(partial, {name: [asdict(option) for option in own] for name, own in found.items()})
    partial.rename(file)
    return found


def planned_bytes(config: ModelConfig, tokens: int) -> int:
    """What `options_of` holds beside the model: hidden states between all blocks, and one chunk of logits."""
    inner = 2 * config.hidden_size + sum(config.qkv_sizes) + 4 * config.intermediate_size
    between = 4 * tokens * config.hidden_size * (config.n_layers + 2)
    return between + 8 * min(tokens, 2 * AT_ONCE) * inner + 12 * HEAD_PLACES * config.vocab_size


@dataclass(frozen=True)
class _Weight:
    """What the errors of a matrix [N, K] count for: rows [N] in all, cells(some rows) [n, K] one by one."""

    rows: Tensor
    cells: Callable[[Tensor], Tensor]


class _Seen:
    """What the errors of a matrix [N, K] count for, summed as text goes by both ways."""

    def __init__(self, matrix: Any, damp: float | None) -> None:
        self.weight, self.damp = matrix.weight, damp
        rows, columns = self.weight.shape
        if damp is None:
            self.squares = torch.zeros(rows, columns)  # of the weight's gradients, one a row of text
        else:
            self.squares, self.hessian = torch.zeros(rows), torch.zeros(columns, columns)  # of the outputs' gradients
        matrix.register_forward_hook(self._forward)

    def _forward(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()  # [n, T, K]
        output.register_hook(lambda above: self._backward(x, above))

    def _backward(self, x: Tensor, above: Tensor) -> None:
        if self.damp is not None:
            self.hessian.addmm_(x.flatten(0, -2).t(), x.flatten(0, -2))
            self.squares += above.flatten(0, -2).square().sum(dim=0)
            return
        for own, gradient in zip(x, above, strict=True):
            of_weight = gradient.t() @ own  # [N, K]
            self.squares.addcmul_(of_weight, of_weight)

    def options(self, places: int) -> list[Option]:
        mean = self.squares / places
        if self.damp is None:
            return _options(self.weight, [_Weight(mean.sum(dim=1), lambda some: mean[some])])
        hessian = self.hessian / places
        return _options(self.weight, [_outer(mean, _left(hessian, self.damp))], hessian.diagonal())


def _left(hessian: Tensor, damp: float) -> Tensor:
    """1 / U_kk^2 of each column [K], taken in gptq's order."""
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor, _ = inverse_factor(hessian[order][:, order], damp)
    return torch.empty(len(hessian)).index_copy_(0, order, factor.diagonal() ** -2)


def _outer(rows: Tensor, columns: Tensor) -> _Weight:
    return _Weight(rows * columns.sum(), lambda some: rows[some, None] * columns)


def _head(model: Any, hidden: Tensor, seed: int) -> tuple[Tensor, _Weight]:
    """hidden [n, T, D] before the last norm -> the loss's gradient there [n, T, D], and what the head counts for."""
    norm, head = copy.deepcopy(model.norm).float(), model.head_weight.float().detach()
    generator = torch.Generator().manual_seed(seed)
    gradients, rows = torch.empty_like(hidden).flatten(0, -2), torch.zeros(len(head))
    inputs = torch.zeros(head.shape[1])
    places = hidden.flatten(0, -2)
    for x, out in zip(places.split(HEAD_PLACES), gradients.split(HEAD_PLACES), strict=True):
        x = x.detach().requires_grad_()
        normed = norm(x)
        with torch.no_grad():
            chances = F.linear(normed, head).softmax(dim=-1)  # [P, V]
            rows += (chances * (1 - chances)).sum(dim=0)
            label = torch.multinomial(chances, 1, generator=generator)
            above = chances.scatter_add_(1, label, torch.full(label.shape, -1.0)) @ head
            inputs += normed.square().sum(dim=0)
        normed.backward(above)
        assert x.grad is not None
        out.copy_(x.grad)
    return gradients.view_as(hidden), _outer(rows / len(places), inputs / len(places))


@torch.no_grad()
def _options(weight: Tensor, uses: list[_Weight], importance: Tensor | None = None) -> list[Option]:
    """uses: all that the matrix [N, K] is used for. importance [K]: of the columns, when scales are searched."""
    (rows, columns), found = weight.shape, []
    for scheme in LADDER:
        try:
            scheme.check(rows, columns, "")
        except UserError:
            continue
        loss = sum(_loss(weight, use, scheme, importance) for use in uses)
        found.append(Option(scheme, scheme.bytes(rows, columns), loss))
    return found


def _loss(weight: Tensor, use: _Weight, scheme: Scheme, importance: Tensor | None) -> float:
    top = use.rows.topk(min(SAMPLED, len(use.rows))).indices.sort().values
    some, seen = weight[top].float(), use.cells(top)
    error = some - scheme.rounded(some, importance)
    scale = float(use.rows.sum() / seen.sum().clamp_min(1e-30))
    return 0.5 * scale * float((error.square() * seen).sum(dtype=torch.float64))
