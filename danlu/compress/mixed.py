"""Mixed precision: bits for the matrices that need them, under a budget of bytes.

Rounding a matrix W [N, K] moves its output by e x, with e = W - Q and x its input. What that does to the model's
predictions is, to second order and summed over the places t of a text (Fisher; Kullback and Leibler's divergence has
no first-order term),

    KL  ~  1/2 sum over t of (g_t . e x_t)^2,        g_t = d loss / d (W x_t),   the label drawn from the model itself

Taking g to be independent of x and its entries of one another, and the roundings of a row's columns of one another,

    KL per place  ~  1/2 sum over rows n, columns k of   a_n  e_nk^2  c_k

    a_n = mean of g_n^2                          how much an output matters: one backward pass gives it
    c_k = mean of x_k^2                          to nearest: how much a column's error moves the output
    c_k = 1 / U_kk^2,  H = mean x x^T = (U^T U)^-1    gptq: what is left of it when later columns have made up for it

The embedding has no input but a place in the table: a_v is how often token v comes, c_k the mean of g_k^2 below it. The
head's a_v is the mean of p_v (1 - p_v). A matrix that is both pays for both.

So one walk forward and one back, block by block (only the hidden states between blocks are kept), price every matrix
in every scheme of `LADDER` without running the model once for each: an estimate, and checked against such runs in the
tests. A matrix starts in the scheme of fewest bytes; then, as long as the budget lasts, whichever step saves most loss
a byte is taken. Only steps on the lower convex hull of a matrix' (bytes, loss) are offered, for those gains fall from
step to step, and greed is then as good as any plan up to the last step that no longer fits.

Worked example, 10 bytes to spend:   A: 2 bytes lose 9, 4 lose 3, 8 lose 1     B: 2 bytes lose 2, 4 lose 1
    2 + 2 bytes are spent. A to 4 gains 3 a byte, B to 4 gains 0.5, A to 8 gains 0.5 (from 4).
    First A to 4 (6 spent), then B to 4 (8 spent); A to 8 would need 4 more and 2 are left. Loss 3 + 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.compress.blockwise import Source
from danlu.compress.gptq import inverse_factor
from danlu.compress.layers import AT_ONCE, Walk, matrix_names
from danlu.core.artifact import write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.config import ModelConfig
from danlu.model.quantized import Scheme, matrices
from danlu.model.transformer import Transformer

if TYPE_CHECKING:
    from danlu.compress.quantize import QuantizeConfig

LADDER = (*(Scheme(4, group, symmetric) for group in (128, 64, 32) for symmetric in (True, False)), Scheme(8))
SAMPLED = 512  # rows of a matrix that are rounded to see the error, those with the largest a_n
HEAD_PLACES = 256  # places whose logits are in memory together


@dataclass(frozen=True)
class Option:
    """A matrix in a scheme: bytes of its file, and the divergence it causes (nats a token, estimated)."""

    scheme: Scheme
    bytes: int
    loss: float


Options = dict[str, list[Option]]  # of each matrix of a model, by name


def check(config: QuantizeConfig) -> None:
    """Raises UserError where a budget leaves nothing to choose, or was given beside what it chooses."""
    if config.method not in ("rtn", "gptq") or config.bits != 4:
        raise UserError(
            f"a budget has no use for {config.method} with {config.bits} bits", "use rtn or gptq with 4 bits"
        )
    if config.group is not None or config.symmetric is not None or config.head_bits != 8:
        raise UserError("a budget chooses group, symmetric and head_bits itself", "leave them out")


def options_of(source: Source, ids: Tensor, damp: float | None, run: StageRun, seed: int = 0) -> Options:
    """Every matrix in every scheme that it divides into. ids [n, T]; damp: that of gptq, None: rounded to nearest.

    The result is kept in `run.work` for the next try. Raises Interrupted between two blocks.
    """
    file = run.work / "options.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {name: [Option(Scheme(**o["scheme"]), o["bytes"], o["loss"]) for o in own] for name, own in kept.items()}
    found: Options = {}
    model, walk, before = source.model, Walk(source.model, ids), list[Tensor]()
    steps = 2 * source.n_blocks
    with run.graceful():
        for index in range(source.n_blocks):
            run.stop_if_asked()
            before.append(walk.hidden.clone())
            walk.through(source.block(index))
            run.progress(index + 1, steps, "blocks measured")
        gradient, *head = _head(model, walk.hidden, damp, seed)
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
                found[f"blocks.{index}.{name}"] = _options(one.matrix.weight, [one.weights(ids.numel())])
            run.progress(steps - index, steps, "blocks measured")
    often = torch.bincount(ids.flatten(), minlength=model.config.vocab_size) / ids.numel()
    looked_up = (often, gradient.flatten(0, -2).square().mean(dim=0))
    if model.lm_head is None:
        found["embedding"] = _options(model.embedding.weight, [(head[0], head[1]), looked_up])
    else:
        found["embedding"] = _options(model.embedding.weight, [looked_up])
        found["lm_head"] = _options(model.lm_head.weight, [(head[0], head[1])])
    found = {name: found[name] for name in matrices(model)}
    partial = file.with_suffix(".partial")
    write_json(partial, {name: [asdict(option) for option in own] for name, own in found.items()})
    partial.rename(file)
    return found


def choose_options(options: Options, budget_bytes: float) -> dict[str, Option]:
    """The plan that the greedy steps reach. Raises UserError for a budget below the smallest plan."""
    stairs = {name: _hull(own) for name, own in options.items()}
    chosen = {name: stair[0] for name, stair in stairs.items()}
    spent = sum(option.bytes for option in chosen.values())
    if spent > budget_bytes:
        raise UserError(
            f"the smallest plan takes {spent:,} bytes and the budget leaves {int(budget_bytes):,} for the matrices",
            "give it more bits a weight",
        )
    steps = [
        ((low.loss - high.loss) / (high.bytes - low.bytes), name, low, high)
        for name, stair in stairs.items()
        for low, high in pairwise(stair)
    ]
    for _, name, low, high in sorted(steps, key=lambda step: (-step[0], step[1], step[2].bytes)):
        if chosen[name] == low and spent + high.bytes - low.bytes <= budget_bytes:
            chosen[name] = high
            spent += high.bytes - low.bytes
    return chosen


def bytes_for_matrices(model: Transformer, bits_per_weight: float) -> float:
    """What a budget of bits a weight, over all numbers of a model, leaves when norms and biases stay float32."""
    of_matrices = sum(model.get_parameter(f"{name}.weight").numel() for name in matrices(model))
    numbers = model.n_params
    return bits_per_weight * numbers / 8 - 4 * (numbers - of_matrices)


def plan_report(options: Options, plan: Mapping[str, Option]) -> dict[str, Any]:
    """Of each matrix its scheme, and what it would lose in every other."""
    return {
        name: {
            "bits": own.scheme.bits,
            "group": own.scheme.group or "row",
            "symmetric": own.scheme.symmetric,
            "bytes": own.bytes,
            "expected_loss": own.loss,
            "sensitivity": {_word(option.scheme): option.loss for option in options[name]},
        }
        for name, own in plan.items()
    }


def planned_bytes(config: ModelConfig, tokens: int) -> int:
    """What `options_of` holds beside the model: hidden states between all blocks, and one chunk of logits."""
    inner = 2 * config.hidden_size + sum(config.qkv_sizes) + 4 * config.intermediate_size
    between = 4 * tokens * config.hidden_size * (config.n_layers + 2)
    return between + 8 * min(tokens, 2 * AT_ONCE) * inner + 12 * HEAD_PLACES * config.vocab_size


class _Seen:
    """Squares of a matrix' inputs and of the gradients of its outputs, summed as a text comes by both ways."""

    def __init__(self, matrix: Any, damp: float | None) -> None:
        self.matrix, self.damp = matrix, damp
        rows, columns = matrix.weight.shape
        self.inputs = torch.zeros(columns, columns) if damp is not None else torch.zeros(columns)
        self.gradients = torch.zeros(rows)
        matrix.register_forward_hook(self._forward)

    def _forward(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach().flatten(0, -2)
        if self.damp is None:
            self.inputs += x.square().sum(dim=0)
        else:
            self.inputs.addmm_(x.t(), x)
        output.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.gradients += gradient.flatten(0, -2).square().sum(dim=0)

    def weights(self, places: int) -> tuple[Tensor, Tensor]:
        """a [N], c [K]."""
        return self.gradients / places, _columns(self.inputs / places, self.damp)


def _columns(inputs: Tensor, damp: float | None) -> Tensor:
    """c [K] of the mean square [K] or, for gptq, the mean of x x^T [K, K]."""
    if damp is None:
        return inputs
    order = inputs.diagonal().argsort(descending=True, stable=True)
    factor, _ = inverse_factor(inputs[order][:, order], damp)
    return torch.empty(len(inputs)).index_copy_(0, order, factor.diagonal() ** -2)


def _head(model: Any, hidden: Tensor, damp: float | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [n, T, D] before the last norm -> the loss's gradient there [n, T, D], and a [V], c [D] of the head."""
    norm, head = copy.deepcopy(model.norm).float(), model.head_weight.float().detach()
    generator = torch.Generator().manual_seed(seed)
    gradients, rows = torch.empty_like(hidden).flatten(0, -2), torch.zeros(len(head))
    inputs = torch.zeros(head.shape[1])  # the head is rounded to nearest, whatever the method
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
    return gradients.view_as(hidden), rows / len(places), inputs / len(places)


@torch.no_grad()
def _options(weight: Tensor, parts: list[tuple[Tensor, Tensor]]) -> list[Option]:
    """parts: a [N] and c [K] of each thing the matrix [N, K] is used for."""
    rows, columns = weight.shape
    found = []
    for scheme in LADDER:
        try:
            scheme.check(rows, columns, "")
        except UserError:
            continue
        found.append(Option(scheme, scheme.bytes(rows, columns), sum(_loss(weight, a, c, scheme) for a, c in parts)))
    return found


def _loss(weight: Tensor, a: Tensor, c: Tensor, scheme: Scheme) -> float:
    top = a.topk(min(SAMPLED, len(a))).indices.sort().values
    some, seen = weight[top].float(), a[top]
    error = some - scheme.rounded(some, c)
    total = 0.5 * float((seen @ error.square() @ c).double())
    return total * float(a.sum() / seen.sum().clamp_min(1e-30))


def _hull(options: list[Option]) -> list[Option]:
    """Those on the lower convex hull of (bytes, loss), the loss falling."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bytes, option.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain(hull[-2], option) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _gain(low: Option, high: Option) -> float:
    return (low.loss - high.loss) / (high.bytes - low.bytes)


def _word(scheme: Scheme) -> str:
    return f"{scheme.bits} bits, {scheme.group or 'row'}{'' if scheme.symmetric else ' with zeros'}"
