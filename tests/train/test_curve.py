"""The picture is valid XML, the same bytes each time, and survives odd input."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from danlu.train.curve import MAX_POINTS, loss_curve, running_mean, thin, ticks


@pytest.mark.parametrize("n", [0, 1, 2, 5000])
def test_draws_any_length(n: int) -> None:
    rows = [[i + 1, i * 10, 5.0 / (i + 1)] for i in range(n)]
    svg = loss_curve(rows, rows[::500], title="a < b & c", band=(0.1, 0.2))
    assert svg == loss_curve(rows, rows[::500], title="a < b & c", band=(0.1, 0.2))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and "a < b & c" in "".join(root.itertext())
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 720 and 0 <= y <= 360


def test_not_finite_is_left_out() -> None:
    assert "nan" not in loss_curve([[1, 1, math.nan], [2, 2, 3.0]])


def test_thin_keeps_first_and_last() -> None:
    rows = [[i, i, 0.0] for i in range(10_000)]
    kept = thin(rows)
    assert len(kept) == MAX_POINTS and kept[0] == rows[0] and kept[-1] == rows[-1]


def test_ticks_and_mean() -> None:
    assert ticks(1.3, 8.4) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert running_mean([(0, 0.0), (1, 3.0), (2, 0.0)]) == [(0, 1.5), (1, 1.0), (2, 1.5)]
