"""Mixed precision: bits for the matrices that need them, under a budget of bytes.

What each matrix loses in each scheme says sensitivity.py. A matrix starts in the scheme of fewest bytes; then, as long
as the budget lasts, whichever step saves most loss a byte is taken. Only steps on the lower convex hull of a matrix'
(bytes, loss) are offered, for those gains fall from step to step, and greed is then as good as any plan up to the last
step that no longer fits. That one can be large (an embedding is a fifth of a small model): so the walk is begun again
with each step that did not fit taken beforehand, and the best plan counts.

Worked example, 10 bytes to spend:   A: 2 bytes lose 9, 4 lose 3, 8 lose 1     B: 2 bytes lose 4, 4 lose 1
    2 + 2 bytes are spent. A to 4 gains 3 a byte, B to 4 gains 1.5, A to 8 gains 0.5 (from 4).
    First A to 4 (6 spent), then B to 4 (8 spent); A to 8 would need 4 more and 2 are left. Loss 3 + 1.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from danlu.compress.quantize.sensitivity import Option, Options, options_of
from danlu.compress.walk.blockwise import Source
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.quantized import Scheme, matrices
from danlu.model.transformer import Transformer

if TYPE_CHECKING:
    from danlu.compress.quantize import QuantizeConfig


def check(config: QuantizeConfig) -> None:
    """Raises UserError where a budget leaves nothing to choose, or was given beside what it chooses."""
    if config.method not in ("rtn", "gptq") or config.bits != 4:
        raise UserError(
            f"a budget has no use for {config.method} with {config.bits} bits", "use rtn or gptq with 4 bits"
        )
    if config.group is not None or config.symmetric is not None or config.head_bits != 8:
        raise UserError("a budget chooses group, symmetric and head_bits itself", "leave them out")


def plan_under(
    budget: float, source: Source, ids: Tensor, damp: float | None, run: StageRun, seed: int
) -> tuple[dict[str, Scheme], dict[str, Any]]:
    """The scheme of each matrix under `budget` bits a weight, and the account of it: of each matrix also what it would
    lose in every other scheme. The rest as in `options_of`."""
    options = options_of(source, ids, damp, run, seed)
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
