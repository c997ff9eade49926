"""Outlines as columns of ``findings``: half-open boxes, clipped to the frame."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow.datasets import outlines

SQUARE = [[10, 20], [12, 20], [12, 25], [10, 25]]


def box(found):
    return [found[name] for name in ("xmin", "ymin", "xmax", "ymax")]


def test_pixel_indices_are_a_pixel_wide():
    found = outlines.place(SQUARE, 100, 100, extent=1)
    assert box(found) == [10, 20, 13, 26]
    assert json.loads(found["points"]) == SQUARE
    assert found["geometry"] == "polygon"


def test_positions_have_no_width():
    assert box(outlines.place(np.array(SQUARE, float), 100, 100, extent=0)) == [10, 20, 12, 25]


def test_a_mark_gets_a_margin():
    found = outlines.place([[3.0, 50.0]], 100, 55, extent=0, margin=8, geometry="point")
    assert box(found) == [0, 42, 11, 55]
    assert found["geometry"] == "point"


@pytest.mark.parametrize("unknown", [None, pd.NA, float("nan")])
def test_an_unknown_frame_clips_at_zero_only(unknown):
    assert box(outlines.place([[-5, 5], [9000, 7]], unknown, unknown, extent=1)) == [0, 5, 9001, 8]


@pytest.mark.parametrize("points", [[], [[-9, 5], [-2, 8]], [[100, 5], [120, 8]], [[5.0, -3.0], [7.0, -1.0]]])
def test_nothing_inside_is_nowhere(points):
    assert outlines.place(points, 100, 100, extent=0) == outlines.NOWHERE


@given(
    st.lists(st.tuples(st.integers(-50, 150), st.integers(-50, 150)), min_size=1, max_size=20),
    st.integers(1, 100),
    st.integers(1, 100),
)
def test_box_and_points_stay_in_the_frame(points, width, height):
    found = outlines.place(points, width, height, extent=1)
    if found == outlines.NOWHERE:
        return
    xmin, ymin, xmax, ymax = box(found)
    assert 0 <= xmin < xmax <= width
    assert 0 <= ymin < ymax <= height
    assert all(0 <= x < width and 0 <= y < height for x, y in json.loads(found["points"]))
