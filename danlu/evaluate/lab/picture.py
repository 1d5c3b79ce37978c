"""Two plots side by side, as SVG: file size, and speed of a single answer, against what was lost.

Loss is on a logarithmic axis, from a hundredth of a percent: what lies below is drawn at the edge. Names are set beside
their points, and moved down where they would lie on each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any

Row = dict[str, Any]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 420, 64, 34, 110, 46
LEAST = 1e-4  # of the losses that are told apart
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-weight:600;fill:#222}.axis{stroke:#999;fill:none}"
    ".grid{stroke:#e4e4e4}.point{fill:#9ab}.front{fill:#c2542d}.line{stroke:#c2542d;fill:none;stroke-dasharray:4 3}"
)


def picture(rows: list[Row]) -> str:
    """The SVG of a lab's rows."""
    plots = [
        _plot(rows, lambda row: row["weight_bytes"] / 1e6, "size, MB", "smaller is to the left", 0, True),
        _plot(
            rows,
            lambda row: row["decode_tokens_per_second"],
            "one answer, tokens/s",
            "faster is to the right",
            1,
            False,
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" role="img" '
        f'aria-label="size and speed of {len(rows)} versions of a model against what they lost">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>' + "".join(plots) + "</svg>\n"
    )


def _plot(rows: list[Row], value: Callable[[Row], float], label: str, hint: str, number: int, smaller: bool) -> str:
    values = [value(row) for row in rows]
    most = max(values) * 1.05
    losses = [max(row["bits_per_byte_change"], LEAST) for row in rows]
    top = 10 ** math.ceil(math.log10(max(max(losses), 10 * LEAST)))
    x0, y0, w, h = number * WIDTH + LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(v: float) -> float:
        return x0 + v / most * w

    def y(loss: float) -> float:
        return y0 + h - math.log10(max(loss, LEAST) / LEAST) / math.log10(top / LEAST) * h

    parts = [f'<text class="title" x="{x0}" y="{y0 - 14}">{escape(label)} ({escape(hint)})</text>']
    decade = LEAST
    while decade <= top * 1.001:
        name = f"{decade:.0%}" if decade >= 0.01 else f"{decade:.2%}"
        parts.append(f'<line class="grid" x1="{x0}" x2="{x0 + w}" y1="{y(decade):.1f}" y2="{y(decade):.1f}"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y(decade) + 4:.1f}" text-anchor="end">{name}</text>')
        decade *= 10
    step = _step(most)
    for tick in range(int(most / step) + 1):
        parts.append(
            f'<line class="grid" x1="{x(tick * step):.1f}" x2="{x(tick * step):.1f}" y1="{y0}" y2="{y0 + h}"/>'
        )
        parts.append(f'<text x="{x(tick * step):.1f}" y="{y0 + h + 16}" text-anchor="middle">{tick * step:g}</text>')
    parts.append(f'<path class="axis" d="M{x0} {y0}V{y0 + h}H{x0 + w}"/>')
    parts.append(f'<text x="{x0}" y="{y0 + h + 36}">up: more bits per byte than the original</text>')
    places = sorted(
        ((x(v), y(loss), row) for v, loss, row in zip(values, losses, rows, strict=True)), key=lambda p: p[1]
    )
    front = _front(places, smaller)
    if len(front) > 1:
        parts.append('<path class="line" d="M' + "L".join(f"{px:.1f} {py:.1f}" for px, py, _ in front) + '"/>')
    last = -math.inf
    for px, py, row in places:
        kind = "front" if any(row is other for _, _, other in front) else "point"
        last = max(py + 4, last + 12)
        parts.append(f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
        parts.append(f'<text x="{px + 8:.1f}" y="{last:.1f}">{escape(row["name"])}</text>')
    return "".join(parts)


def _front(places: list[tuple[float, float, Row]], smaller: bool) -> list[tuple[float, float, Row]]:
    """Those that no other beats in both; from left to right. Lower on the page (larger y) is less lost."""
    sign = 1 if smaller else -1

    def beaten(p: tuple[float, float, Row]) -> bool:
        return any(sign * q[0] <= sign * p[0] and q[1] >= p[1] and (q[0], q[1]) != (p[0], p[1]) for q in places)

    return sorted((p for p in places if not beaten(p)), key=lambda p: p[0])


def _step(most: float) -> float:
    rough = most / 5
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
