"""Which candidates are worth a second look: the Pareto front, and three rules.

A row is on the front when no other is both smaller and better (bits per byte). The rules allow a loss of bits per byte,
measured against the original by the upper end of the interval of the change:

    phone     the smallest file within the loss
    laptop    the fastest single answer within the loss
    server    the most tokens per second of several answers at once, within the loss

Sizes and speeds less than 5 % from the best are as good as it: of those rows the one that loses least is chosen, so
that no choice hangs on the noise of a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from danlu.core.progress import human_bytes
from danlu.evaluate.lab.page import change

Row = dict[str, Any]
NEAR = 0.05  # of the best


def size(row: Row) -> float:
    return row["weight_bytes"]


def slowness(row: Row) -> float:
    """Seconds for a token of a single answer."""
    return 1 / row["decode_tokens_per_second"]


def slowness_together(row: Row) -> float:
    return 1 / row["batched_tokens_per_second"]


def front(rows: list[Row], cost: Callable[[Row], float]) -> list[Row]:
    """The rows that no other beats in `cost` and bits per byte, cheapest first."""

    def beaten(row: Row) -> bool:
        own = cost(row), row["bits_per_byte"]
        others = [(cost(other), other["bits_per_byte"]) for other in rows]
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in others)

    return sorted((row for row in rows if not beaten(row)), key=cost)


def advise(rows: list[Row], loss: float) -> dict[str, dict[str, str]]:
    """{phone, laptop, server: {choice, because}}. The first row is the original, which loses nothing."""
    fit = [row for row in rows if row["change_high"] <= loss] or rows[:1]
    uses = {
        "phone": (size, "the smallest file", lambda row: human_bytes(size(row))),
        "laptop": (slowness, "the fastest single answer", lambda row: f"{1 / slowness(row):,.0f} tokens/s"),
        "server": (
            slowness_together,
            "the most tokens of several answers at once",
            lambda row: f"{1 / slowness_together(row):,.0f} tokens/s",
        ),
    }
    advice = {}
    for use, (cost, what, told) in uses.items():
        best = min(map(cost, fit))
        near = [row for row in fit if cost(row) <= best / (1 - NEAR)]
        row = min(near, key=lambda one: (one["bits_per_byte"], cost(one)))
        among = "" if len(near) == 1 else f", and of the {len(near)} within {NEAR:.0%} of it the one that loses least"
        advice[use] = {
            "choice": row["name"],
            "because": f"{what} within {loss:.0%} more bits per byte{among}: {told(row)}, "
            f"{change(row['bits_per_byte_change'])} bits per byte, at most {change(row['change_high'])}",
        }
    return advice
