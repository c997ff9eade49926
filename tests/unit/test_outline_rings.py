"""Outlines: a mask's rings give its pixels back, holes and parts included, and follow the image's geometry."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mammoflow import outlines
from mammoflow.imaging.geometry import Geometry


def blobs(seed, size=(120, 90)):
    generator = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(generator.normal(size=size), (0, 0), 7)
    return noise > np.quantile(noise, 0.8)


def drawn(points, shape):
    found = np.zeros(shape, bool)
    place, share = outlines.fill(shape, [np.asarray(ring) for ring in points])
    found[place] = share >= 0.5
    return found


@given(st.integers(0, 200))
def test_rings_give_the_mask_back(seed):
    mask = blobs(seed)
    mask[50:54, 40:45] = False  # a hole, more often than not
    again = drawn(outlines.mask_points(mask), mask.shape)
    overlap = (mask & again).sum() / (mask | again).sum()
    assert overlap > 0.95
    wrong = mask ^ again
    border = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) - cv2.erode(mask.astype(np.uint8), np.ones((3, 3)))
    assert (wrong & (border == 0)).sum() <= 1  # the simplified ring of a narrow bridge may miss its middle
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) - cv2.erode(mask.astype(np.uint8), np.ones((5, 5)))
    assert not (wrong & (near == 0)).any()


def test_a_hole_is_no_part_of_the_lesion():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    mask[20:40, 20:40] = False
    points = outlines.mask_points(mask)
    assert len(points) == 2
    assert (drawn(points, mask.shape) == mask).all()
    assert outlines.area([np.asarray(ring) for ring in points]) == pytest.approx(40**2 - 20**2, rel=0.06)


def test_two_parts_are_one_outline():
    mask = np.zeros((60, 60), bool)
    mask[5:15, 5:15] = mask[40:50, 30:55] = True
    assert (drawn(outlines.mask_points(mask), mask.shape) == mask).all()


@given(st.integers(0, 50), st.booleans())
def test_rings_follow_the_geometry(seed, flip):
    """A mask that is cropped, mirrored and scaled as its picture is what its moved rings fill."""
    mask = blobs(seed, (240, 180))
    geometry = Geometry(240, 180, 12, 20, 172, 220, flip, 0.5, 0.5, 3, 4, 110, 90)
    finding = {"geometry": "mask", "points": json.dumps(outlines.mask_points(mask))}
    cut = mask[20:220, 12:172].astype(np.float32)
    cut = cut[:, ::-1] if flip else cut
    expected = np.zeros((110, 90), bool)
    expected[4:104, 3:83] = cv2.resize(cut, (80, 100), interpolation=cv2.INTER_AREA) >= 0.5
    found = drawn(outlines.rings(finding, geometry), (110, 90))
    # What lies outside of the crop is clipped to the padded frame: compare the picture itself.
    inside = np.zeros((110, 90), bool)
    inside[5:103, 4:82] = True
    assert (found & expected & inside).sum() > 0.92 * ((found | expected) & inside).sum()


def test_shares_of_pixels():
    place, share = outlines.fill((10, 10), [outlines.box_ring((2.5, 3, 5, 4.25))])
    assert place == (slice(3, 5), slice(2, 5))
    np.testing.assert_allclose(share, [[0.5, 1, 1], [0.125, 0.25, 0.25]], atol=0.15)
    place, share = outlines.fill((10, 10), [outlines.box_ring((20, 20, 30, 30))])
    assert share.size == 0


def test_a_box_has_no_rings():
    geometry = Geometry.identity(10, 10)
    assert outlines.rings({"geometry": "bbox", "points": None}, geometry) is None
    assert outlines.rings({"geometry": "mask", "points": None}, geometry) is None
    (circle,) = outlines.rings({"geometry": "circle", "points": "[[5,5],[2]]"}, geometry)
    assert np.hypot(*(circle - 5).T) == pytest.approx(2)
