"""fast_j2k: fewer resolution levels, the same working size and place, flagged; whatever does not fit is left whole."""

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from made_images import breast_picture, dicom, save
from mammoflow import settings
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging import codestream, reduced
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.header import Header
from mammoflow.imaging.working import level_choice, make_working_image

RULE = IntensityRule()


def smooth(height, width, side="L"):
    """A breast whose texture is coarser than a few pixels, as mammograms are."""
    rows, columns = np.mgrid[:height, :width]
    wave = 200 * np.sin(rows / 9) * np.cos(columns / 11)
    picture = breast_picture(height, width, side)
    flat = np.where(picture > 0, 2000 + wave - columns, 0)
    return flat.astype(np.uint16)


def convert(path, **section):
    """The stored image as it was read, and the working image."""
    values = settings.resolve_section("convert", {"bits": 8, "long_side": 256, **section})
    image = read_image(path, levels=level_choice(values, RULE))
    return image, make_working_image(image, values, RULE, "L", table_spacing=0.1)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEG2000])
@pytest.mark.parametrize(("height", "width", "levels"), [(1400, 1100, 2), (701, 555, 1), (1357, 1033, 1)])
@pytest.mark.parametrize("crop", [True, False])
def test_the_working_image_is_nearly_the_same_at_the_same_size_and_place(tmp_path, syntax, height, width, levels, crop):
    path = save(dicom(smooth(height, width), syntax, BitsStored=12), tmp_path / "a.dcm")
    _, plain = convert(path, crop=crop)
    image, fast = convert(path, crop=crop, fast_j2k=True)
    assert (image.decoder, image.levels) == (f"pillow 1:{2**levels}", levels)
    assert set(fast.flags) ^ set(plain.flags) == {"fast_j2k"}
    assert max(fast.pixels.shape) == 256
    assert max(image.pixels.shape) >= 256
    box = np.array([[0.1 * width, 0.3 * height, 0.4 * width, 0.7 * height]])
    np.testing.assert_allclose(fast.geometry.forward(box), plain.geometry.forward(box), atol=1.5)
    if not crop:
        assert fast.geometry == plain.geometry
        difference = np.abs(fast.pixels.astype(int) - plain.pixels)
        inside = plain.pixels > 0
        assert difference[inside].mean() < 2.5
        assert difference[~inside].mean() < 2.5
    assert fast.geometry.stored_height == height


@pytest.mark.parametrize(
    ("section", "dtype"),
    [
        ({"long_side": None}, np.uint16),  # native size needs every level
        ({"long_side": 400}, np.uint16),  # half of 700 would be too small
        ({"fast_j2k": False}, np.uint16),
        ({"pixel_spacing_mm": 0.2}, np.uint16),  # the frame's size does not tell what is needed
        ({}, np.int16),
    ],
)
def test_what_needs_the_whole_frame_is_decoded_whole(tmp_path, section, dtype):
    pixels = smooth(700, 500).astype(dtype)
    path = save(dicom(pixels, uid.JPEG2000Lossless, BitsStored=16), tmp_path / "a.dcm")
    image, working = convert(path, **{"fast_j2k": True, **section})
    assert (image.decoder, image.levels) == ("imagecodecs", 0)
    assert "fast_j2k" not in working.flags
    np.testing.assert_array_equal(image.pixels, pixels)


def test_other_syntaxes_are_never_reduced(tmp_path):
    path = save(dicom(smooth(1400, 1000), uid.JPEGLSLossless, BitsStored=12), tmp_path / "a.dcm")
    assert convert(path, fast_j2k=True)[0].levels == 0


def test_a_small_breast_in_a_large_frame_keeps_the_levels_it_needs(tmp_path):
    picture = np.zeros((1600, 1200), np.uint16)
    picture[500:1100, :400] = smooth(600, 400)
    path = save(dicom(picture, uid.JPEG2000Lossless, BitsStored=12), tmp_path / "a.dcm")
    image, working = convert(path, fast_j2k=True, margin_px=0)
    assert image.levels <= 1
    assert max(working.pixels.shape) == 256
    assert working.geometry.scale_y <= 0.5**image.levels
    assert convert(path, fast_j2k=True, crop=False)[0].levels == 2


def test_a_damaged_stream_is_left_to_the_decoders_that_name_what_is_wrong(tmp_path, monkeypatch):
    pixels = smooth(1400, 1000)
    path = save(dicom(pixels, uid.JPEG2000Lossless, BitsStored=12), tmp_path / "a.dcm")

    def refuse(*_):
        raise OSError("broken data stream")

    monkeypatch.setattr(reduced, "decode", refuse)
    image, _ = convert(path, fast_j2k=True)
    assert (image.decoder, image.levels) == ("imagecodecs", 0)
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_reduced_pixels_keep_their_depth(bits):
    pixels = np.full((64, 48), (1 << bits) - 1, np.uint8 if bits == 8 else np.uint16)
    frame = imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, bitspersample=bits)
    assert codestream.jpeg2000_coding(frame) == (bits, False, 2)
    small = reduced.decode(frame, 2)
    assert small.shape == (16, 12)
    assert (small == pixels[0, 0]).all()


def test_the_thumbnail_is_never_asked_for_where_no_level_can_go(monkeypatch):
    frame = imagecodecs.jpeg2k_encode(smooth(700, 500), codecformat="J2K", reversible=True, bitspersample=12)
    monkeypatch.setattr(reduced, "decode", None)
    choice = level_choice(settings.resolve_section("convert", {"fast_j2k": True, "long_side": 400}), RULE)
    assert reduced.read(frame, Header(700, 500, 12), choice) is None


def test_the_option_is_part_of_the_recipe():
    plain, fast = (settings.resolve_section("convert", {"fast_j2k": value}) for value in (False, True))
    assert settings.convert_recipe("rsna", plain) != settings.convert_recipe("rsna", fast)
