"""Our PNG files are ordinary PNG files, with a row inside."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mammoflow.imaging import png

PICTURES = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: arrays(dtype, st.tuples(st.integers(1, 40), st.integers(1, 40)))
)


@given(PICTURES)
@settings(deadline=None)
def test_opencv_and_pillow_read_the_same_pixels(pixels):
    data = png.encode(pixels, {"a": 1})
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()  # also checks every chunk's checksum
        np.testing.assert_array_equal(np.asarray(picture), pixels)
        assert picture.text["mammoflow"] == '{"a":1}'


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("strip", [1, 200, 5000])
def test_strips_leave_no_seam(monkeypatch, dtype, strip):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (37, 50), dtype)
    whole = png.encode(pixels)
    monkeypatch.setattr(png, "_STRIP", strip)
    for data in (whole, png.encode(pixels)):
        np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)


def test_a_crop_of_a_larger_array_is_written_as_it_looks(tmp_path):
    frame = np.arange(100 * 80, dtype=np.uint16).reshape(100, 80)
    png.write(tmp_path / "a.png", frame[10:50, 5:33])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), frame[10:50, 5:33])


def test_the_row_comes_back(tmp_path):
    row = {"image_id": "Ärzte-1", "flags": None, "seconds": 0.25, "flip": True}
    png.write(tmp_path / "a.png", np.zeros((3, 4), np.uint8), row)
    assert png.read_row(tmp_path / "a.png") == row


def test_what_is_not_ours_has_no_row(tmp_path):
    pixels = np.full((5, 5), 7, np.uint8)
    cv2.imwrite(str(tmp_path / "foreign.png"), pixels)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    png.write(tmp_path / "rowless.png", pixels)
    for name in ("foreign", "text", "empty", "rowless", "absent"):
        assert png.read_row(tmp_path / f"{name}.png") is None


def test_a_cut_or_damaged_file_has_no_row(tmp_path):
    path = tmp_path / "a.png"
    data = png.encode(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8), {"image_id": "x"})
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert png.read_row(path) is None, length
    damaged = bytearray(data)
    damaged[data.index(b'"x"') + 1] ^= 1  # still JSON, but the checksum knows
    path.write_bytes(bytes(damaged))
    assert png.read_row(path) is None


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match="uint8 or uint16"):
        png.encode(pixels)


def test_writing_replaces_an_older_file_and_leaves_no_other(tmp_path):
    for value in (1, 2):
        png.write(tmp_path / "a.png", np.full((4, 4), value, np.uint8), {"value": value})
    assert png.read_row(tmp_path / "a.png") == {"value": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
