"""Working images at a fixed pixel size: the size, the geometry, and what happens where the spacing is unknown."""

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_images import dicom, save
from mammoflow import convert, settings, tables
from mammoflow.imaging.errors import NoSpacing, TooLarge
from mammoflow.imaging.geometry import Geometry
from mammoflow.imaging.working import size_at
from mammoflow.rows import from_frame

SQUARES = [(40, 60, 64, 84), (30, 200, 42, 260), (110, 130, 140, 146)]  # x0, y0, x1, y1 in stored pixels


def marked_breast(side="L"):
    """A grey half disc with three white squares in it, 320 x 256; and the squares."""
    y, x = np.mgrid[:320, :256]
    picture = np.where(((y - 160) / 140) ** 2 + (x / 180) ** 2 < 1, 1200, 0).astype(np.uint16)
    boxes = np.array(SQUARES, dtype=float)
    for x0, y0, x1, y1 in SQUARES:
        picture[y0:y1, x0:x1] = 4095
    if side == "R":
        return np.ascontiguousarray(picture[:, ::-1]), np.column_stack([256 - boxes[:, 2], boxes[:, 1],
                                                                        256 - boxes[:, 0], boxes[:, 3]])  # fmt: skip
    return picture, boxes


def converted(tmp_path, pixels, table_spacing=None, side="L", section=None, **tags):
    save(dicom(pixels, BitsStored=12, **tags), tmp_path / "raw" / "a.dcm")
    images = pd.DataFrame([
        {"dataset": "dicom_folder", "image_id": "a", "study_id": "s", "patient_id": "p", "group_id": "g",
         "path": "a.dcm", "file_format": "dicom", "laterality": side, "use": "labelled",
         "pixel_spacing_mm": table_spacing},
    ])  # fmt: skip
    values = settings.resolve_section("convert", section or {})
    rows = convert.convert_images(
        "dicom_folder", from_frame(tables.finish("images", images)), tmp_path / "raw", tmp_path / "store", values
    )
    row = tables.finish("convert_ledger", pd.DataFrame(rows)).iloc[0]
    if row["status"] != "ok":
        return row, None
    return row, cv2.imread(str(tmp_path / "store" / row["path"]), cv2.IMREAD_UNCHANGED)


def white_box(pixels, guess):
    """Extent of the white square near ``guess``, to a fraction of a pixel: by areas, so that blurred edges count."""
    x0, y0, x1, y1 = guess
    window = (slice(max(int(y0) - 3, 0), int(y1) + 4), slice(max(int(x0) - 3, 0), int(x1) + 4))
    white = np.clip((pixels[window].astype(float) / 65535 - 1200 / 4095) / (1 - 1200 / 4095), 0, 1)
    height, width = white.sum(axis=0).max(), white.sum(axis=1).max()
    y, x = np.mgrid[window]
    centre_x, centre_y = (np.average(axis + 0.5, weights=white) for axis in (x, y))
    return np.array([centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2])


@pytest.mark.parametrize("side", ["L", "R"])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize(
    ("tags", "table", "wanted"),
    [
        ({"ImagerPixelSpacing": [0.1, 0.1]}, None, 0.23),
        ({"ImagerPixelSpacing": [0.1, 0.14]}, None, 0.2),  # pixels that are no squares become squares
        ({"ImagerPixelSpacing": [0.1, 0.1], "PixelSpacing": [0.5, 0.5]}, 0.3, 0.17),  # the detector's wins
        ({"PixelSpacing": [0.2, 0.2]}, None, 0.13),  # enlarged
        ({"ImagerPixelSpacing": [0, 0]}, 0.1, 0.3),  # nonsense in the header: the table
    ],
)
def test_a_fixed_pixel_size_and_its_geometry(tmp_path, side, crop, tags, table, wanted):
    picture, boxes = marked_breast(side)
    section = {"pixel_spacing_mm": wanted, "crop": crop}
    row, pixels = converted(tmp_path, picture, table, side, section, **tags)
    down, across = next((tags[name] for name in ("ImagerPixelSpacing", "PixelSpacing") if tags.get(name, [0])[0]),
                        (table, table))  # fmt: skip
    geometry = Geometry.from_row(row)
    assert pixels.shape == (
        round((row["crop_y1"] - row["crop_y0"]) * down / wanted),
        round((row["crop_x1"] - row["crop_x0"]) * across / wanted),
    )
    assert ("enlarged" in (row["flags"] or "")) == (wanted < down)
    for stored_box, expected in zip(boxes, geometry.forward(boxes), strict=True):
        assert np.abs(white_box(pixels, expected) - expected).max() < 0.5
        assert np.abs(geometry.inverse(expected[None])[0] - stored_box).max() < 1e-6


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("long_side", [None, 300, 97])
def test_the_geometry_of_a_long_side(tmp_path, crop, long_side):
    picture, boxes = marked_breast("R")
    row, pixels = converted(tmp_path, picture, side="R", section={"long_side": long_side, "crop": crop})
    for expected in Geometry.from_row(row).forward(boxes):
        assert np.abs(white_box(pixels, expected) - expected).max() < 0.5


def test_without_a_known_spacing_the_row_says_so(tmp_path):
    row, _ = converted(tmp_path, marked_breast()[0], section={"pixel_spacing_mm": 0.2})
    assert row["status"] == "failed"
    assert row["error"].startswith("NoSpacing: neither header nor table gives the pixel spacing")
    row, _ = converted(tmp_path, marked_breast()[0])
    assert row["status"] == "ok"


def test_the_header_s_spacing_reaches_the_ledger(tmp_path):
    row, _ = converted(tmp_path, marked_breast()[0], table_spacing=0.3, ImagerPixelSpacing=[0.07, 0.07])
    assert row["header_spacing_mm"] == 0.07
    row, _ = converted(tmp_path, marked_breast()[0], table_spacing=0.3)
    assert pd.isna(row["header_spacing_mm"])


@given(st.integers(1, 6000), st.integers(1, 5000), st.floats(0.02, 0.5), st.floats(0.05, 2))
def test_the_size_differs_by_less_than_a_pixel_from_the_exact_one(height, width, spacing, wanted):
    try:
        size = size_at(height, width, (spacing, spacing), wanted)
    except TooLarge:
        assert height * width * (spacing / wanted) ** 2 > 1e8
        return
    exact = np.array([height, width]) * spacing / wanted
    assert np.abs(np.maximum(exact, 1) - size).max() <= 0.5001


def test_a_size_needs_a_spacing():
    with pytest.raises(NoSpacing):
        size_at(10, 10, None, 0.1)


def test_eight_bits_raw_and_crop_switches_go_together(tmp_path):
    picture, _ = marked_breast()
    for section, kind in [({"bits": 8}, np.uint8), ({"bits": 8, "intensity": "raw"}, np.uint16)]:
        row, pixels = converted(tmp_path, picture, section={**section, "crop": False, "long_side": None})
        assert (pixels.dtype, pixels.shape) == (kind, picture.shape)
        assert tuple(row[["crop_x0", "crop_y0", "crop_x1", "crop_y1"]]) == (0, 0, 256, 320)
    np.testing.assert_array_equal(pixels, picture)
