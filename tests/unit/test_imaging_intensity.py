"""The grey-scale table against pydicom's own pipeline and against the formulas of PS3.3 C.11.2."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from made_images import dicom
from mammoflow.datasets.catalog import FINISHED, IntensityRule
from mammoflow.imaging import header, intensity

RULE = IntensityRule()
PLAIN = np.zeros((2, 2), np.uint16)


def facts(pixels=PLAIN, compressed=False, **tags) -> header.Header:
    return header.from_dataset(dicom(pixels, **tags), compressed)


def expected(ds: Dataset, bits: int = 16) -> np.ndarray:
    """pydicom's modality and VOI steps, scaled by the VOI step's output range, for all stored values of ``ds``."""
    low = 0 if ds.PixelRepresentation == 0 else -(2 ** (ds.BitsStored - 1))
    stored = np.arange(low, 2**ds.BitsStored + low)
    modality = apply_modality_lut(stored, ds)
    ends = sorted(float(end) for end in apply_modality_lut(np.array([stored[0], stored[-1]]), ds))
    shown = (apply_voi_lut(modality, ds) - ends[0]) / (ends[1] - ends[0])
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return shown * (2**bits - 1)


def table_over(ds: Dataset, bits: int = 16) -> np.ndarray:
    """Our table at the same stored values."""
    itemsize = ds.BitsAllocated // 8
    low = 0 if ds.PixelRepresentation == 0 else -(2 ** (ds.BitsStored - 1))
    index = np.arange(low, 2**ds.BitsStored + low) % 256**itemsize
    return intensity.window_table(header.from_dataset(ds, False), itemsize, RULE, bits).values[index]


@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    bits=st.integers(8, 16),
    signed=st.booleans(),
    center=st.floats(-3000, 30000),
    width=st.floats(2, 40000),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    slope=st.sampled_from([1.0, 2.0, 0.5]),
    intercept=st.sampled_from([0.0, -1024.0]),
    out=st.sampled_from([8, 16]),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in the reference
@settings(deadline=None, max_examples=60)
def test_windows_agree_with_pydicom(function, bits, signed, center, width, photometric, slope, intercept, out):
    ds = dicom(
        PLAIN.view(np.int16) if signed else PLAIN,
        BitsStored=bits,
        PhotometricInterpretation=photometric,
        WindowCenter=round(center, 2),
        WindowWidth=round(width, 2),
        VOILUTFunction=function,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    np.testing.assert_allclose(table_over(ds, out), expected(ds, out), atol=0.5 + 1e-6)


def test_linear_formula_as_written_in_the_standard():
    """PS3.3 C.11.2.1.2.1's example: center 2048, width 4096 over 12 bits is the identity, rounded."""
    table = intensity.window_table(facts(BitsStored=12, WindowCenter=2048, WindowWidth=4096), 2, RULE, 16)
    np.testing.assert_array_equal(table.values[:4096], np.rint(np.arange(4096) / 4095 * 65535))
    assert table.window == {"function": "LINEAR", "center": 2048.0, "width": 4096.0, "index": 0}


def test_linear_of_width_one_is_a_threshold():
    values = intensity.window_table(facts(BitsStored=12, WindowCenter=100, WindowWidth=1), 2, RULE, 8).values
    assert values[99] == 0
    assert values[100] == 255
    assert set(values[:4096]) == {0, 255}


def test_linear_exact_and_linear_differ_by_half_a_value():
    tags = {"BitsStored": 12, "WindowCenter": 8, "WindowWidth": 16}
    linear = intensity.window_table(facts(**tags), 2, RULE, 16).values
    exact = intensity.window_table(facts(**tags, VOILUTFunction="LINEAR_EXACT"), 2, RULE, 16).values
    assert linear[15] == 65535  # c - 0.5 + (w - 1) / 2
    assert exact[8] == 32768  # the middle of the range at the center itself
    assert exact[15] < 65535


def test_sigmoid_is_half_at_the_center_and_never_overflows():
    header_ = facts(BitsStored=16, WindowCenter=1000, WindowWidth=1, VOILUTFunction="SIGMOID")
    with np.errstate(all="raise"):
        values = intensity.window_table(header_, 2, RULE, 16).values
    assert values[1000] == 32768
    assert (values[0], values[65535]) == (0, 65535)


@pytest.mark.parametrize("function", ["", None, "linear", " LINEAR "])
def test_an_empty_or_lower_case_function_is_linear(function):
    tags = {"BitsStored": 12, "WindowCenter": 300, "WindowWidth": 200}
    plain = intensity.window_table(facts(**tags), 2, RULE, 16)
    other = intensity.window_table(facts(**tags, VOILUTFunction=function), 2, RULE, 16)
    np.testing.assert_array_equal(plain.values, other.values)
    assert other.window["function"] == "LINEAR"


def test_an_unknown_function_is_flagged():
    assert "unknown_voi_function" in facts(VOILUTFunction="CURVE").flags


def test_the_chosen_window_is_used_and_an_absent_one_clipped():
    tags = {"BitsStored": 12, "WindowCenter": [100, 2000], "WindowWidth": [50, 1000]}
    first, second, third = (intensity.window_table(facts(**tags), 2, RULE, 8, index) for index in range(3))
    assert (first.window["center"], second.window["center"], third.window["center"]) == (100.0, 2000.0, 2000.0)
    assert third.flags == ("window_index_clipped",)
    assert first.flags == second.flags == ()


@pytest.mark.parametrize(
    ("center", "width"), [(100, 0), (100, -5), ("", ""), (float("nan"), 10), ([100, 200], [0, -1]), (None, 30)]
)
def test_a_forbidden_window_gives_the_full_range_and_a_flag(center, width):
    ds = dicom(PLAIN, BitsStored=12)
    ds.WindowCenter, ds.WindowWidth = "" if center is None else center, width
    found = header.from_dataset(ds, False)
    assert found.windows == ()
    assert intensity.window_table(found, 2, RULE, 8).window["function"] == "full_range"
    assert ("invalid_window" in found.flags) == (center != "")


def test_without_a_window_the_range_is_that_of_bits_stored_not_of_the_image():
    pixels = np.array([[100, 200], [300, 400]], np.uint16)
    table = intensity.window_table(facts(pixels, BitsStored=12), 2, RULE, 16, extremes=(100, 400))
    np.testing.assert_array_equal(table.apply(pixels), np.rint(pixels / 4095 * 65535))
    assert table.window == {"function": "full_range", "low": 0.0, "high": 4095.0}


def test_finished_pictures_ignore_window_and_rescale():
    tags = {"BitsStored": 8, "WindowCenter": 128, "WindowWidth": 256, "VOILUTFunction": "SIGMOID", "RescaleSlope": 3}
    table = intensity.window_table(facts(PLAIN.astype(np.uint8), **tags), 1, FINISHED, 8)
    np.testing.assert_array_equal(table.values, np.arange(256))


def test_monochrome1_is_inverted_after_the_window():
    tags = {"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 500}
    plain = intensity.window_table(facts(**tags), 2, RULE, 16).values
    inverted = intensity.window_table(facts(**tags, PhotometricInterpretation="MONOCHROME1"), 2, RULE, 16)
    np.testing.assert_array_equal(inverted.values, 65535 - plain)
    assert inverted.window["inverted"] is True


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_in_both_photometrics(photometric):
    tags = {"BitsStored": 12, "PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}
    values = intensity.window_table(facts(**tags, PhotometricInterpretation=photometric), 2, RULE, 8).values
    assert not values[4000:4096].any()
    assert values[[1000, 3000]].all()


def test_a_negative_padding_read_as_unsigned_is_still_found():
    signed = np.zeros((2, 2), np.int16)
    found = facts(signed, BitsStored=16)
    ds = dicom(signed, BitsStored=16)
    ds.add_new("PixelPaddingValue", "US", 63536)
    assert header.from_dataset(ds, False).padding == (-2000, -2000)
    assert found.padding is None


def test_voi_lut_sequence_wins_over_windows_and_scales_by_its_depth():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 100, 12], [min(16 * n, 4095) for n in range(256)]
    ds = dicom(PLAIN, BitsStored=12, WindowCenter=5, WindowWidth=5, VOILUTSequence=[item])
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    table = intensity.window_table(header.from_dataset(ds, False), 2, RULE, 16)
    stored = np.arange(4096)
    np.testing.assert_array_equal(table.values[:4096], np.rint(apply_voi_lut(stored, ds) / 4095 * 65535))
    assert table.window == {"function": "LUT", "index": 0, "low": 0, "high": 4095}


def test_an_overstated_lut_depth_does_not_darken_the_image():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], list(range(256))
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    found = facts(PLAIN.astype(np.uint8), VOILUTSequence=[item])
    np.testing.assert_array_equal(intensity.window_table(found, 1, RULE, 8).values, np.arange(256))


def test_an_emptied_lut_is_passed_over():
    found = facts(BitsStored=12, VOILUTSequence=[Dataset()])
    assert found.voi_luts == ()
    assert found.flags == ("invalid_lut",)


def test_modality_lut_comes_first():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], [65535 - 16 * n for n in range(4096)]
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    table = intensity.window_table(facts(BitsStored=12, ModalityLUTSequence=[item]), 2, RULE, 16)
    np.testing.assert_array_equal(table.values[:4096], 65535 - 16 * np.arange(4096))


def test_unused_high_bits_are_masked_where_uncompressed_and_kept_where_compressed():
    pixels = np.array([[0x8123, 0x0123]], np.uint16)
    native, coded = facts(pixels, BitsStored=12), facts(pixels, compressed=True, BitsStored=12)
    assert intensity.image_facts(pixels, native)[1][0] == "unused_bits_masked"
    assert intensity.image_facts(pixels, coded)[1] == ("exceeds_bits_stored",)
    masked = intensity.window_table(native, 2, RULE, 16).apply(pixels)
    kept = intensity.window_table(coded, 2, RULE, 16).apply(pixels)
    assert masked[0, 0] == masked[0, 1]
    assert kept[0, 0] == 65535  # beyond the range: white, not wrapped round


def test_signed_values_of_twelve_bits_are_extended():
    pixels = np.array([[-2048, -1], [0, 2047]], np.int16)
    unextended = (pixels & 0x0FFF).astype(np.int16)
    table = intensity.window_table(facts(pixels, BitsStored=12), 2, RULE, 16)
    np.testing.assert_array_equal(table.apply(pixels), table.apply(unextended))
    np.testing.assert_array_equal(table.apply(pixels), np.rint((pixels.astype(int) + 2048) / 4095 * 65535))


def test_a_window_that_misses_the_image_is_left_out():
    tags = {"BitsStored": 12, "WindowCenter": 40000, "WindowWidth": 100}
    table = intensity.window_table(facts(**tags), 2, RULE, 8, extremes=(100, 900))
    assert table.flags == ("window_misses_image",)
    assert table.window["function"] == "full_range"
    constant = intensity.window_table(facts(**tags), 2, RULE, 8, extremes=(7, 7))
    assert constant.flags == ()  # nothing to see either way


def test_raw_keeps_stored_values_and_shifts_signed_ones():
    pixels = np.array([[0, 17], [4095, 65535]], np.uint16)
    np.testing.assert_array_equal(intensity.raw_table(facts(pixels), 2).apply(pixels), pixels)
    signed = np.array([[-32768, -5], [0, 32767]], np.int16)
    table = intensity.raw_table(facts(signed), 2)
    np.testing.assert_array_equal(table.apply(signed), signed.astype(int) + 32768)
    assert table.flags == ("raw_offset",)
    assert table.window == {"function": "raw", "offset": 32768}


def test_eight_bit_pixels_use_a_table_of_256():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    table = intensity.window_table(facts(pixels), 1, RULE, 16)
    assert table.values.shape == (256,)
    np.testing.assert_array_equal(table.apply(pixels), np.rint(pixels / 255 * 65535))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_fast_path_equals_indexing(dtype, bits, monkeypatch):
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    pixels = rng.integers(info.min, info.max, (64, 48), dtype=dtype, endpoint=True)
    pixels.setflags(write=False)
    table = rng.integers(0, 2**bits, 256**pixels.dtype.itemsize).astype(f"u{bits // 8}")
    view = pixels[3:40, 5:31]
    fast = intensity.apply_table(intensity.as_index(view), table)
    np.testing.assert_array_equal(fast, table[intensity.as_index(view)])

    def refuse(*_):
        raise cv2.error("an OpenCV before 4.13")

    monkeypatch.setattr(cv2, "LUT", refuse)
    np.testing.assert_array_equal(intensity.apply_table(intensity.as_index(view), table), fast)


def test_colour_and_odd_depths_are_refused_by_the_header():
    with pytest.raises(header.ColourImage):
        facts(SamplesPerPixel=3, PhotometricInterpretation="RGB")
    with pytest.raises(header.ColourImage):
        facts(PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(header.CorruptHeader, match="32 bits"):
        facts(BitsAllocated=32)
    with pytest.raises(header.CorruptHeader, match="BitsStored"):
        facts(BitsStored=17)


def test_for_processing_is_flagged_not_refused():
    found = facts(PresentationIntentType="FOR PROCESSING")
    assert found.flags == ("for_processing",)
    assert found.presentation == "processing"


def test_the_syntax_of_the_object_does_not_matter_for_the_header():
    big = dicom(PLAIN, uid.ExplicitVRBigEndian, BitsStored=12, WindowCenter=7, WindowWidth=9)
    assert header.from_dataset(big, False) == facts(BitsStored=12, WindowCenter=7, WindowWidth=9)
