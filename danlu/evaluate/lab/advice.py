"""Which candidates are worth a second look: the Pareto front, and three rules.

A row is on the front when no other is both smaller and better (bits per byte). The rules allow a loss of bits per byte,
measured against the original by the upper end of the interval of the change:

    phone     the smallest file within the loss
    laptop    the fastest single answer within the loss
    server    the most tokens per second of several answers at once, within the loss
"""

from __future__ import annotations

from typing import Any

from danlu.core.progress import human_bytes

Row = dict[str, Any]


def mark_front(rows: list[Row]) -> None:
    """Set `front` of every row."""
    for row in rows:
        row["front"] = not any(_beats(other, row) for other in rows)


def _beats(a: Row, b: Row) -> bool:
    sides = [(a[key], b[key]) for key in ("weight_bytes", "bits_per_byte")]
    return all(x <= y for x, y in sides) and any(x < y for x, y in sides)


def advise(rows: list[Row], loss: float) -> dict[str, dict[str, str]]:
    """{phone, laptop, server: {choice, because}}."""
    fit = [row for row in rows if row["change_high"] <= loss] or rows[:1]
    allowed = f"within {loss:.0%} more bits per byte"
    smallest = min(fit, key=lambda row: row["weight_bytes"])
    alone = max(fit, key=lambda row: row["decode_tokens_per_second"])
    together = max(fit, key=lambda row: row["batched_tokens_per_second"])

    def cost(row: Row) -> str:
        return f"{row['bits_per_byte_change']:+.2%} bits per byte, at most {row['change_high']:+.2%}"

    return {
        "phone": {
            "choice": smallest["name"],
            "because": f"the smallest file {allowed}: {human_bytes(smallest['weight_bytes'])}, {cost(smallest)}",
        },
        "laptop": {
            "choice": alone["name"],
            "because": f"the fastest single answer {allowed}: "
            f"{alone['decode_tokens_per_second']:.0f} tokens/s, {cost(alone)}",
        },
        "server": {
            "choice": together["name"],
            "because": f"the most tokens of several answers at once {allowed}: "
            f"{together['batched_tokens_per_second']:.0f} tokens/s, {cost(together)}",
        },
    }
