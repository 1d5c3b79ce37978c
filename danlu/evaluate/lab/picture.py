"""Two plots side by side, as SVG: file size, and speed of a single answer, against what was lost.

All axes are logarithmic, with as many of 1, 2, 5, 10, ... marked as have room. Losses begin at a hundredth of a
percent: what lies below is drawn at the edge. A name stands beside its point, or on the first free place around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from danlu.evaluate.lab.advice import front, size, slowness

Row = dict[str, Any]
Box = tuple[float, float, float, float]  # left, top, right, bottom
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 620, 480, 64, 34, 24, 66
MOST_TICKS = 8  # whose names stand side by side
LEAST = 1e-4  # of the losses that are told apart
LETTER, LINE = 6.6, 12  # width of a letter and height of a line: a guess that suits most fonts at 12 px
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#444}.title{font-weight:600;fill:#222}.axis{stroke:#999;fill:none}"
    ".grid{stroke:#e4e4e4}.point{fill:#9ab}.front{fill:#c2542d}.line{stroke:#c2542d;fill:none;stroke-dasharray:4 3}"
    ".to{stroke:#bbb}"
)


def picture(rows: list[Row]) -> str:
    """The SVG of a lab's rows."""
    drawn = _plot(0, rows, lambda row: size(row) / 1e6, size, "size, MB (smaller is to the left)", "smaller")
    title = "speed of one answer, tokens/s (faster is to the right)"
    drawn += _plot(1, rows, lambda row: 1 / slowness(row), slowness, title, "faster")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" role="img" '
        f'aria-label="size and speed of {len(rows)} versions of a model against what they lost">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>\n'
    )


def _plot(
    number: int,
    rows: list[Row],
    value: Callable[[Row], float],
    cost: Callable[[Row], float],
    title: str,
    better: str,
) -> str:
    """One plot: `value` to the right, the loss upward, a line along the front of `cost`: those that none is `better`
    than and loses less."""
    left, top = number * WIDTH + LEFT, TOP
    right, bottom = left + WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM
    values, losses = [value(row) for row in rows], [max(row["bits_per_byte_change"], LEAST) for row in rows]
    x = _scale(min(values) * 0.85, max(values) * 1.25, left, right)
    y = _scale(LEAST, max(*losses, 10 * LEAST) * 1.6, bottom, top)

    parts = [f'<text class="title" x="{left}" y="{top - 14}">{escape(title)}</text>']
    for tick in _decades(LEAST, max(*losses, 10 * LEAST) * 1.6, (1,)):
        name = ("≤ " if tick <= LEAST * 1.001 else "") + f"{100 * tick:.3g}%"
        parts.append(f'<path class="grid" d="M{left} {y(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{name}</text>')
    for tick in _ticks(min(values) * 0.85, max(values) * 1.25):
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:,.9g}</text>')
    parts.append(f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>')
    told = "the higher, the more is lost: bits per byte of held-out text, more than the original's"
    parts.append(f'<text x="{left}" y="{bottom + 36}">{told}</text>')
    parts.append(f'<circle class="front" cx="{left + 4}" cy="{bottom + 50}" r="4"/>')
    parts.append(f'<text x="{left + 14}" y="{bottom + 54}">none is both {better} and better</text>')

    places = {row["name"]: (x(v), y(loss)) for row, v, loss in zip(rows, values, losses, strict=True)}
    best = [row["name"] for row in front(rows, cost)]
    parts.append('<path class="line" d="M' + "L".join("{:.1f} {:.1f}".format(*places[name]) for name in best) + '"/>')
    for name, (px, py) in places.items():
        kind = "front" if name in best else "point"
        parts.append(f'<circle class="{kind}" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
    return "".join([*parts, *_names(places, best, (left, top - 10, right, bottom))])


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """low .. high to begin .. end, by ratios."""
    return lambda value: begin + math.log(value / low) / math.log(high / low) * (end - begin)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, as many as have room."""
    found: list[float] = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = list(_decades(low, high, factors))
        if len(found) <= MOST_TICKS:
            return found
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def _decades(low: float, high: float, factors: tuple[int, ...]) -> Iterator[float]:
    """Factors of powers of ten from low to high."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (tick for factor in factors if low * 0.999 <= (tick := factor * 10.0**power) <= high)


def _names(places: dict[str, tuple[float, float]], first: list[str], inside: Box) -> Iterator[str]:
    """The names beside their points, those of `first` first; a thread leads to one that had to move away."""
    taken: list[Box] = [(px - 4, py - 4, px + 4, py + 4) for px, py in places.values()]
    for name in sorted(places, key=lambda name: name not in first):
        px, py = places[name]
        width = LETTER * len(name)
        boxes = [_box(px, py, dx, dy, width) for dy in _steps() for dx in (9, -9 - width, 30, -30 - width)]
        free = (b for b in boxes if _within(b, inside) and not any(_overlap(b, other) for other in taken))
        box = next(free, boxes[0])
        taken.append(box)
        middle = (box[1] + box[3]) / 2
        if abs(middle - py) > LINE or not box[0] - 12 < px < box[2] + 12:
            near = box[0] - 2 if box[0] > px else box[2] + 2
            yield f'<path class="to" d="M{px:.1f} {py:.1f}L{near:.1f} {middle:.1f}"/>'
        yield f'<text x="{box[0]:.1f}" y="{box[3] - 2:.1f}">{escape(name)}</text>'


def _steps() -> Iterator[float]:
    """0, then down and up in growing steps."""
    yield 0
    for step in range(1, 50):
        yield from (step * LINE / 2, -step * LINE / 2)


def _box(px: float, py: float, dx: float, dy: float, width: float) -> Box:
    return px + dx, py + dy - LINE / 2, px + dx + width, py + dy + LINE / 2


def _within(box: Box, outer: Box) -> bool:
    return outer[0] <= box[0] and outer[1] <= box[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
