"""The loss curve as a picture.

A hand-written SVG of some ten kilobytes. It is part of an artifact, and an artifact must be the same bytes wherever
the same inputs are run: a plotting library would bring its version, its fonts and the date into the file. Numbers are
written with fixed decimals for the same reason.

x is the step, y the mean cross-entropy in nats per token. The training loss of single batches is noisy, so it is drawn
faintly, with its running mean above it and the validation points on top; the band of past runs, where there is one,
stands at the right end as a bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 40, 44
MAX_POINTS = 600  # more would not be visible

INK, FAINT, GRID, TRAIN, VALID, BAND = "#222222", "#777777", "#e4e4e4", "#3b6ea8", "#c2542d", "#4d9f5b"


def loss_curve(
    steps: Sequence[Sequence[float]],
    validation: Sequence[Sequence[float]] = (),
    *,
    title: str = "loss",
    band: tuple[float, float] | None = None,
) -> str:
    """SVG text of rows [step, tokens, loss]. Works with any number of rows, none included."""
    points = [(row[0], row[2]) for row in thin(steps) if math.isfinite(row[2])]
    checks = [(row[0], row[2]) for row in validation if math.isfinite(row[2])]
    values = [y for _, y in points + checks] + list(band or ())
    x_end = max([x for x, _ in points + checks], default=1.0)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    y_ticks = ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / max(x_end, 1e-9),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / max(high - low, 1e-9),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for tick in y_ticks:
        _, y = at(0, tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{FAINT}">{tick:g}</text>')
    for tick in ticks(0, x_end):
        if tick <= x_end:
            x, _ = at(tick, low)
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="{FAINT}">{tick:g}</text>'
            )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="{FAINT}">step</text>')
    if band is not None:
        (x, top), (_, bottom) = at(x_end, band[1]), at(x_end, band[0])
        parts.append(
            f'<rect x="{x - 6:.1f}" y="{top:.1f}" width="12" height="{max(bottom - top, 1):.1f}" '
            f'fill="{BAND}" fill-opacity="0.45"/>'
        )
    parts.append(_line([at(*p) for p in points], TRAIN, 1, 0.35))
    parts.append(_line([at(*p) for p in running_mean(points)], TRAIN, 2, 1.0))
    parts.append(_line([at(*p) for p in checks], VALID, 1.5, 1.0))
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{VALID}"/>' for x, y in (at(*p) for p in checks)]
    legend = [("training", TRAIN)] + ([("validation", VALID)] if checks else [])
    legend += [("past runs", BAND)] if band is not None else []
    for i, (name, colour) in enumerate(legend):
        x = WIDTH - RIGHT - 90 * (len(legend) - i)
        parts.append(f'<rect x="{x}" y="14" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="23">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def thin(rows: Sequence[Sequence[float]], limit: int = MAX_POINTS) -> list[Sequence[float]]:
    """At most ``limit`` rows, evenly spaced, the last one among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def running_mean(points: Sequence[tuple[float, float]], share: float = 0.05) -> list[tuple[float, float]]:
    """Mean over a window of neighbours on both sides: a trailing mean would draw the curve too far right."""
    half = max(1, int(len(points) * share / 2))
    means = []
    for i, (x, _) in enumerate(points):
        window = points[max(0, i - half) : i + half + 1]
        means.append((x, sum(y for _, y in window) / len(window)))
    return means


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(1.3, 8.4)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / target))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= target)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, opacity: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}"/>'
    )
