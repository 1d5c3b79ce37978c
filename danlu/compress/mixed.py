"""Mixed precision: bits for the matrices that need them, under a budget of bytes.

Rounding a matrix W [N, K] moves it by e = W - Q. What that does to the model's predictions on a text is, to second
order (Kullback and Leibler's divergence has no first-order term; its second is Fisher's),

    KL  ~  1/2 (sum over n, k of  e_nk d loss / d W_nk)^2,        the labels of the loss drawn from the model itself

on the average over labels. Errors of rounding have no common sign, so of the square only its diagonal is left:

    KL  ~  1/2 sum over n, k of   e_nk^2 F_nk,        F_nk = mean over rows of text of (d loss / d W_nk)^2

with e of rounding to nearest. GPTQ leaves half of that, in most matrices (0.2 to 0.9). Measured on SmolLM2-135M, one
matrix at a time in 4 bits (logarithms of estimate and run): to nearest the estimate is 0.6 to 1.2 times what is seen,
correlation 0.99; of GPTQ 0.93. To put GPTQ's share of each column (1 / U_kk^2 H_kk, gptq.py) into the sum looks better
founded and is worse, 0.71: the text that H was made from flatters it. So GPTQ's half is one number, `GPTQ_LEAVES`, for
all matrices of the blocks; the outer ones are rounded to nearest by every method.

The outer matrices are as tall as the vocabulary; theirs is taken apart: a_v c_k instead of F_vk. For the head a_v is
the mean of p_v (1 - p_v) and c_k that of x_k^2; for the embedding a_v is how often token v comes and c_k the mean
square of the gradient below it. A matrix that is both pays for both.

So one walk forward and one back, block by block (only the hidden states between blocks are kept), price every matrix
in every scheme of `LADDER` without running the model once for each: an estimate, and checked against such runs in the
tests. A matrix starts in the scheme of fewest bytes; then, as long as the budget lasts, whichever step saves most loss
a byte is taken. Only steps on the lower convex hull of a matrix' (bytes, loss) are offered, for those gains fall from
step to step, and greed is then as good as any plan up to the last step that no longer fits. That one can be large (an
embedding is a fifth of a small model): so the walk is begun again with each step that did not fit taken beforehand, and
the best plan counts.

Worked example, 10 bytes to spend:   A: 2 bytes lose 9, 4 lose 3, 8 lose 1     B: 2 bytes lose 4, 4 lose 1
    2 + 2 bytes are spent. A to 4 gains 3 a byte, B to 4 gains 1.5, A to 8 gains 0.5 (from 4).
    First A to 4 (6 spent), then B to 4 (8 spent); A to 8 would need 4 more and 2 are left. Loss 3 + 1.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.compress.blockwise import Source
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
SAMPLED = 512  # rows of a matrix that are rounded to see the error, those that count most
GPTQ_LEAVES = 0.5
HEAD_PLACES = 256  # places whose logits are in memory together


@dataclass(frozen=True)
class Option:
    """A matrix in a scheme: bytes of its file, and the divergence that it causes (nats a token, estimated)."""

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


def plan_under(
    budget: float, source: Source, ids: Tensor, left: float, run: StageRun, seed: int
) -> tuple[dict[str, Scheme], dict[str, Any]]:
    """The scheme of each matrix under `budget` bits a weight, and the account of it: of each matrix also what it would
    lose in every other scheme. The rest as in `options_of`."""
    options = options_of(source, ids, left, run, seed)
    plan = choose_options(options, bytes_for_matrices(source.model, budget))
    facts = {
        "budget": budget,
        "expected_loss": sum(own.loss for own in plan.values()),
        "plan": {
            name: {
                "bits": own.scheme.bits,
                "group": own.scheme.group or "row",
                "symmetric": own.scheme.symmetric,
                "bytes": own.bytes,
                "expected_loss": own.loss,
                "sensitivity": {_word(option.scheme): option.loss for option in options[name]},
            }
            for name, own in plan.items()
        },
    }
    return {name: own.scheme for name, own in plan.items()}, facts


def options_of(source: Source, ids: Tensor, left: float, run: StageRun, seed: int = 0) -> Options:
    """Every matrix in every scheme that it divides into. ids [n, T]; left: by the method, of what rounding a block's
    matrix to nearest would lose.

    The result is kept in `run.work` for the next try. Raises Interrupted between two blocks.
    """
    file = run.work / "options.json"
    if file.exists():
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
            seen = {name: _Seen(block.get_submodule(name)) for name in matrix_names(block)}
            rows = max(1, AT_ONCE // ids.shape[1])
            for x, above in zip(before.pop().split(rows), gradient.split(rows), strict=True):
                x = x.requires_grad_()
                walk.step(block, x).backward(above)
                assert x.grad is not None
                above.copy_(x.grad)
            for name, one in seen.items():
                found[f"blocks.{index}.{name}"] = one.options(left / ids.numel())
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


def choose_options(options: Options, budget_bytes: float) -> dict[str, Option]:
    """The plan of least loss among those the greedy steps reach, from the smallest and from one large step beforehand.

    Raises UserError for a budget below the smallest plan.
    """
    stairs = {name: _hull(own) for name, own in options.items()}
    first = {name: stair[0] for name, stair in stairs.items()}
    spent = sum(option.bytes for option in first.values())
    if spent > budget_bytes:
        raise UserError(
            f"the smallest plan takes {spent:,} bytes and the budget leaves {int(budget_bytes):,} for the matrices",
            "give it more bits a weight",
        )
    best, missed = _climb(stairs, first, budget_bytes)
    for name, high in missed:
        if spent - first[name].bytes + high.bytes <= budget_bytes:
            other, _ = _climb(stairs, first | {name: high}, budget_bytes)
            best = min(best, other, key=lambda plan: sum(option.loss for option in plan.values()))
    return best


def _climb(
    stairs: Options, start: dict[str, Option], budget_bytes: float
) -> tuple[dict[str, Option], list[tuple[str, Option]]]:
    """Steps of most gain a byte first, from `start`; the plan, and the steps that were due and no longer fitted."""
    plan, missed = dict(start), list[tuple[str, Option]]()
    spent = sum(option.bytes for option in plan.values())
    steps = [(_gain(low, high), name, low, high) for name, own in stairs.items() for low, high in pairwise(own)]
    for _, name, low, high in sorted(steps, key=lambda step: (-step[0], step[1], step[2].bytes)):
        if plan[name] == low:
            if spent + high.bytes - low.bytes <= budget_bytes:
                plan[name] = high
                spent += high.bytes - low.bytes
            else:
                missed.append((name, high))
    return plan, missed


def bytes_for_matrices(model: Transformer, bits_per_weight: float) -> float:
    """What a budget of bits a weight, over all numbers of a model, leaves when norms and biases stay float32."""
    of_matrices = sum(model.get_parameter(f"{name}.weight").numel() for name in matrices(model))
    numbers = model.n_params
    return bits_per_weight * numbers / 8 - 4 * (numbers - of_matrices)


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
    """Squares of a matrix' gradients, one a row of text, summed as text goes by both ways."""

    def __init__(self, matrix: Any) -> None:
        self.weight = matrix.weight
        self.squares = torch.zeros_like(self.weight)
        matrix.register_forward_hook(self._forward)

    def _forward(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()  # [n, T, K]
        output.register_hook(lambda above: self._backward(x, above))

    def _backward(self, x: Tensor, above: Tensor) -> None:
        for own, gradient in zip(x, above, strict=True):
            of_weight = gradient.t() @ own  # [N, K]
            self.squares.addcmul_(of_weight, of_weight)

    def options(self, factor: float) -> list[Option]:
        shares = self.squares * factor
        return _options(self.weight, [_Weight(shares.sum(dim=1), lambda some: shares[some])])


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
def _options(weight: Tensor, uses: list[_Weight]) -> list[Option]:
    """uses: all that the matrix [N, K] is used for."""
    (rows, columns), found = weight.shape, []
    for scheme in LADDER:
        try:
            scheme.check(rows, columns, "")
        except UserError:
            continue
        loss = sum(_loss(weight, use, scheme) for use in uses)
        found.append(Option(scheme, scheme.bytes(rows, columns), loss))
    return found


def _loss(weight: Tensor, use: _Weight, scheme: Scheme) -> float:
    top = use.rows.topk(min(SAMPLED, len(use.rows))).indices.sort().values
    some, seen = weight[top].float(), use.cells(top)
    error = some - scheme.rounded(some)
    scale = float(use.rows.sum() / seen.sum().clamp_min(1e-30))
    return 0.5 * scale * float((error.square() * seen).sum(dtype=torch.float64))


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
