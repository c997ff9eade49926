"""Boxes survive the way to the working image and back."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow import tables
from mammoflow.imaging.geometry import Geometry


@st.composite
def geometries(draw) -> Geometry:
    height, width = draw(st.integers(8, 6000)), draw(st.integers(8, 6000))
    x0, y0 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    x1, y1 = draw(st.integers(x0 + 4, width)), draw(st.integers(y0 + 4, height))
    out_height, out_width = draw(st.integers(1, y1 - y0)), draw(st.integers(1, x1 - x0))
    left, top = draw(st.integers(0, 300)), draw(st.integers(0, 300))
    return Geometry(
        stored_height=height,
        stored_width=width,
        crop_x0=x0,
        crop_y0=y0,
        crop_x1=x1,
        crop_y1=y1,
        flip=draw(st.booleans()),
        scale_x=out_width / (x1 - x0),
        scale_y=out_height / (y1 - y0),
        pad_left=left,
        pad_top=top,
        out_height=out_height + top,
        out_width=out_width + left,
    )


@st.composite
def boxes(draw) -> np.ndarray:
    coordinate = st.floats(-100, 7000)
    rows = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=5))
    array = np.array(rows, dtype=float).reshape(-1, 4)
    return np.column_stack([array[:, :2], array[:, :2] + np.abs(array[:, 2:])])


@given(geometries(), boxes())
def test_boxes_come_back_within_half_a_pixel(geometry, stored):
    out = geometry.forward(stored)
    np.testing.assert_allclose(geometry.inverse(out), stored, atol=0.5)
    assert (out[:, 2] >= out[:, 0]).all()
    assert (out[:, 3] >= out[:, 1]).all()


@given(geometries())
def test_the_crop_fills_the_working_image(geometry):
    crop = [[geometry.crop_x0, geometry.crop_y0, geometry.crop_x1, geometry.crop_y1]]
    filled = [[geometry.pad_left, geometry.pad_top, geometry.out_width, geometry.out_height]]
    np.testing.assert_allclose(geometry.forward(crop), filled, atol=1e-6)


@given(geometries())
def test_a_row_gives_the_geometry_back(geometry):
    assert Geometry.from_row(geometry.as_row()) == geometry
    assert list(geometry.as_row()) == list(tables.GEOMETRY)
    assert Geometry.from_row(pd.Series(geometry.as_row(), dtype=object)) == geometry


def test_a_marked_rectangle_is_found_where_forward_says():
    """Against pixels, not against the formula: mark a box, crop, mirror, shrink, pad, and look for it."""
    stored = np.zeros((400, 300), dtype=np.uint8)
    stored[120:200, 60:140] = 255
    geometry = Geometry(400, 300, 20, 40, 260, 380, True, 0.5, 0.5, 7, 3, 173, 127)
    crop = cv2.flip(stored[40:380, 20:260], 1)
    small = cv2.resize(crop, (120, 170), interpolation=cv2.INTER_AREA)
    working = np.pad(small, ((3, 0), (7, 0)))
    x, y, width, height = cv2.boundingRect((working > 127).astype(np.uint8))
    np.testing.assert_allclose(geometry.forward([[60, 120, 140, 200]]), [[x, y, x + width, y + height]], atol=0.5)


def test_resized_and_padded_follow_each_other():
    geometry = Geometry.identity(100, 50).resized(50, 25).padded(3, 4, 60, 40)
    np.testing.assert_allclose(geometry.forward([[0, 0, 50, 100]]), [[3, 4, 28, 54]])
    with pytest.raises(ValueError, match="before padding"):
        geometry.resized(10, 10)


def test_nan_stays_nan_and_a_wrong_shape_is_refused():
    geometry = Geometry.identity(10, 10)
    assert np.isnan(geometry.forward([[np.nan] * 4])).all()
    with pytest.raises(ValueError, match="expected"):
        geometry.forward([1.0, 2.0, 3.0, 4.0])


def test_a_row_without_geometry_says_which_field_is_empty():
    row = Geometry.identity(10, 10).as_row() | {"scale_x": None}
    with pytest.raises(ValueError, match="scale_x"):
        Geometry.from_row(row)
    with pytest.raises(ValueError, match="scale_x"):
        Geometry.from_row(pd.Series(row | {"scale_x": pd.NA}, dtype=object))
