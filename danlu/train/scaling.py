"""From a budget of compute to a model and a plan to train it: what ``model: auto`` means.

Every step is numbered, has its source, and its result is in the report. The guesses are called guesses.

Check of the arithmetic, for C = 1e15 FLOPs, V = 4096 and data without end: 20 N tokens for N parameters is
C = 120 N^2, so N = 2.9e6 and D = 58e6 tokens; the batch is 0.292 C^0.3271 = 23,500 tokens and the learning rate
0.3118 C^-0.125 = 0.0042.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

EXPECTED_SHARE_OF_PEAK = 0.4
"""How much of the measured matrix peak a small model reaches: a guess on the low side, so that no run is cut short."""

HEAD_DIM = 64
ASPECT = 64  # hidden_size per layer


@dataclass(frozen=True)
class Plan:
    """What was derived, and how: ``steps`` is one line of text for each number."""

    flops: float
    parameters: int  # of the matrices, the head among them: what a token is multiplied with
    tokens: int
    batch_tokens: int
    learning_rate: float
    model: dict[str, Any]
    steps: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(flops: float, *, vocab_size: int, context: int, available_tokens: int | None = None) -> Plan:
    """Derive a model and its hyperparameters from a number of floating-point operations.

    ``available_tokens``: distinct tokens there are to train on, None for enough. Deterministic.
    """
    told: list[str] = [f"1. compute C = {flops:.3g} floating-point operations"]

    # 2. Parameters and tokens. C = 6 N D (Kaplan et al., arXiv:2001.08361, section 2.1) and D = 20 N
    # (Hoffmann et al., arXiv:2203.15556, table 3, as commonly rounded).
    parameters = math.sqrt(flops / 120)
    tokens = 20 * parameters
    told.append(f"2. C = 6 N D and D = 20 N: N = {parameters:.3g} parameters, D = {tokens:.3g} tokens")

    # 3. Repeating data helps almost as fresh data does up to 4 epochs and little after (Muennighoff et al.,
    # arXiv:2305.16264, section 5). With less text the rest of the compute buys a larger model.
    if available_tokens is not None and tokens > 4 * available_tokens:
        tokens = 4.0 * available_tokens
        parameters = flops / (6 * tokens)
        told.append(
            f"3. only {available_tokens:,} tokens of text, at most 4 epochs: D = {tokens:.3g}, N = {parameters:.3g}"
        )
    else:
        told.append("3. there is text enough for at most 4 epochs")

    # 4. Shape. A block has 4 D^2 in attention and 8 D^2 in a SwiGLU of width 8/3 D; the head has V D. The ratio of
    # width to depth hardly matters between 30 and 200 (Kaplan et al., figure 5); 64 is the custom of small models.
    # Depth grows until the model is as large as N; width keeps pace in whole heads.
    depth = 2
    while _matrices(depth + 1, vocab_size) <= parameters and depth < 96:
        depth += 1
    width = _width(depth)
    inner = _round_up(8 * width / 3, 64)
    size = _matrices(depth, vocab_size)
    told.append(
        f"4. {ASPECT} of width per layer: {depth} layers, width {width}, inner width {inner}: {size:,} parameters"
    )
    if size > 2 * parameters:
        told.append(
            f"   (the smallest shape offered; with {vocab_size:,} words the head alone has {vocab_size * width:,})"
        )

    # 5. What the compute buys with that shape.
    tokens = min(
        flops / (6 * size), tokens if available_tokens is not None and tokens == 4 * available_tokens else math.inf
    )
    told.append(f"5. tokens D = C / (6 N) = {tokens:.3g}, {tokens / size:.1f} per parameter")

    # 6. Batch and learning rate; fewer than 50 steps teach nothing, whatever the batch.
    batch_tokens = batch_for(flops, context, most=tokens / 50)
    rate = learning_rate_for(flops)
    told.append(f"6. batch {batch_tokens:,} tokens, learning rate {rate:.2g}: {tokens / batch_tokens:.0f} steps")

    model = {
        "preset": "nano",  # the family and its switches; every size is replaced
        "hidden_size": width,
        "n_layers": depth,
        "n_heads": width // HEAD_DIM,
        "n_kv_heads": width // HEAD_DIM,
        "head_dim": HEAD_DIM,
        "intermediate_size": inner,
        "max_position": max(context, 512),
    }
    return Plan(flops, size, int(tokens), batch_tokens, rate, model, told)


def batch_for(flops: float, context: int, most: float = math.inf) -> int:
    """Tokens in one step: B = 0.2920 C^0.3271, in whole rows (DeepSeek LLM, arXiv:2401.02954, eq. 1).

    Fitted from 1e17 to 2e19 FLOPs; below it is an extrapolation.
    """
    return max(1, round(min(0.2920 * flops**0.3271, most) / context)) * context


def learning_rate_for(flops: float) -> float:
    """lr = 0.3118 C^-0.1250 for AdamW (the same source and range); the bounds are guesses."""
    return float(f"{min(max(0.3118 * flops**-0.1250, 1e-4), 1e-2):.2g}")


def flops_of_budget(kind: str, amount: float, *, peak_flops: float, parameters: int | None = None) -> float | None:
    """Operations a budget stands for; None for steps and tokens, which say nothing before there is a model."""
    if kind == "flops":
        return amount
    if kind == "seconds":
        return amount * peak_flops * EXPECTED_SHARE_OF_PEAK
    if kind == "tokens":  # the inverse of D = 20 N, C = 6 N D
        return 6 * amount * amount / 20
    return None


def _width(depth: int) -> int:
    return max(HEAD_DIM, _round_up(ASPECT * depth, HEAD_DIM))


def _matrices(depth: int, vocab_size: int) -> int:
    width = _width(depth)
    return depth * (4 * width * width + 3 * width * _round_up(8 * width / 3, 64)) + vocab_size * width


def _round_up(value: float, multiple: int) -> int:
    return -(-math.ceil(value) // multiple) * multiple
