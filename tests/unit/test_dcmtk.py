"""The grey scale beside dcmtk's, pixel by pixel: dcm2pnm, dcmj2pnm (JPEG) and dcml2pnm (JPEG-LS) of the Debian package.

Both follow PS3.3 C.11. What differs, and why, as these tests state it:

- dcmtk cuts fractions off where we round to the nearest grey: ours is the same or one more.
- Without a window, and through a LUT of fewer bits, dcmtk shifts values up to 16 bits (4095 becomes 65520); we spread
  them over the whole range (65535).
- dcmtk keeps the modality step's output in whole numbers; we keep its fractions.
- dcmtk does not know LINEAR_EXACT and takes it for LINEAR.
- dcmtk shows padding like any other pixel; we show it black.
- dcmtk applies no window unless told so (``+Wi n``, ``+Wl n``), and can scale by an image's own extremes (``+Wm``); we
  never do that.
- 3.6.7 decodes no JPEG 2000.
"""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from made_images import breast_picture, dicom, save
from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging import intensity
from mammoflow.imaging.decode import read_image
from mammoflow.imaging.errors import DecodeError

REAL = Path(os.environ.get("MAMMOFLOW_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data") / "dicom-codecs"
pytestmark = pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="no dcmtk (apt-get install dcmtk)")
VALUES = np.arange(4096, dtype=np.uint16).reshape(64, 64)  # every 12-bit value once
TWO_WINDOWS = {"BitsStored": 12, "WindowCenter": [2000, 1000], "WindowWidth": [3000, 500]}


def dcmtk(path: Path, *options: str, bits: int = 16) -> np.ndarray:
    """The picture that dcmtk makes, as int64. Skips the test where no tool of it reads the file."""
    out = path.parent / "dcmtk.png"
    for tool in ("dcm2pnm", "dcmj2pnm", "dcml2pnm"):
        kind = "+on2" if bits == 16 else "+on"
        done = subprocess.run([tool, "-q", "-O", *options, kind, path, out], capture_output=True, check=False)
        if done.returncode == 0:
            return cv2.imread(str(out), cv2.IMREAD_UNCHANGED).astype(np.int64)
    pytest.skip(f"dcmtk does not read {path.name}")


def ours(path: Path, bits: int = 16, index: int = 0) -> np.ndarray:
    image = read_image(path, "dicom")
    extremes, _ = intensity.image_facts(image.pixels, image.header)
    itemsize = image.pixels.dtype.itemsize
    table = intensity.window_table(image.header, itemsize, IntensityRule(), bits, index, extremes)
    return table.apply(image.pixels).astype(np.int64)


def assert_cut_fractions(mine: np.ndarray, theirs: np.ndarray) -> None:
    """The same, or one more: rounded instead of cut off."""
    assert set(np.unique(mine - theirs)) <= {0, 1}


def lut(first: int, bits: int, entries: list[int]) -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return item


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("tags", "index"),
    [
        ({}, 0),
        ({}, 1),
        ({"VOILUTFunction": ""}, 0),
        ({"VOILUTFunction": "SIGMOID"}, 0),
        ({"VOILUTFunction": "SIGMOID"}, 1),
        ({"PhotometricInterpretation": "MONOCHROME1"}, 0),
        ({"PhotometricInterpretation": "MONOCHROME1", "VOILUTFunction": "SIGMOID"}, 1),
        ({"RescaleSlope": 2, "RescaleIntercept": -1024, "RescaleType": "US"}, 0),
        ({"WindowCenter": 100, "WindowWidth": 1}, 0),
        ({"WindowCenter": 2000.25, "WindowWidth": 700.5}, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("signed", [False, True])
def test_windows(tmp_path, tags, index, bits, signed):
    pixels = (VALUES.astype(int) - 2048).astype(np.int16) if signed else VALUES
    path = save(dicom(pixels, **{**TWO_WINDOWS, **tags}), tmp_path / "a.dcm")
    assert_cut_fractions(ours(path, bits, index), dcmtk(path, "+Wi", str(index + 1), bits=bits))


def test_linear_exact_is_linear_to_dcmtk(tmp_path):
    exact = save(dicom(VALUES, **TWO_WINDOWS, VOILUTFunction="LINEAR_EXACT"), tmp_path / "exact.dcm")
    linear = save(dicom(VALUES, **TWO_WINDOWS), tmp_path / "linear.dcm")
    theirs = dcmtk(exact, "+Wi", "1")
    assert_cut_fractions(ours(linear), theirs)
    # Half a stored value of 3000 aside, and a width of 3000 instead of 2999.
    assert 0 < np.abs(ours(exact) - theirs).max() <= 65535 / 2999 + 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_no_window(tmp_path, photometric):
    path = save(dicom(VALUES, BitsStored=12, PhotometricInterpretation=photometric), tmp_path / "a.dcm")
    inverted = photometric == "MONOCHROME1"
    stored = 4095 - VALUES.astype(int) if inverted else VALUES.astype(int)
    np.testing.assert_array_equal(ours(path), np.rint(stored / 4095 * 65535))
    theirs = dcmtk(path, "-W")
    assert np.abs(theirs - theirs.min() - (stored << 4)).max() <= inverted  # its inversion costs it a grey at times
    assert np.abs(dcmtk(path, "-W", bits=8) - (stored >> 4)).max() <= inverted
    np.testing.assert_array_equal(ours(path, 8), np.rint(stored / 4095 * 255))


def test_voi_lut_sequence(tmp_path):
    sixteen = save(dicom(VALUES, BitsStored=12, VOILUTSequence=[lut(500, 16, [20 * n for n in range(3000)])]),
                   tmp_path / "a.dcm")  # fmt: skip
    theirs = dcmtk(sixteen, "+Wl", "1")
    np.testing.assert_array_equal(ours(sixteen) * 59980 // 65535 // 20, theirs * 59980 // 65535 // 20)
    twelve = save(dicom(VALUES, BitsStored=12, VOILUTSequence=[lut(0, 12, [n * n // 4095 for n in range(4096)])]),
                  tmp_path / "b.dcm")  # fmt: skip
    entries = dcmtk(twelve, "+Wl", "1") >> 4
    np.testing.assert_array_equal(ours(twelve), np.rint(entries / 4095 * 65535))


def test_modality_lut(tmp_path):
    path = save(dicom(VALUES, BitsStored=12, ModalityLUTSequence=[lut(0, 16, [65535 - 16 * n for n in range(4096)])]),
                tmp_path / "a.dcm")  # fmt: skip
    np.testing.assert_array_equal(ours(path), dcmtk(path, "-W"))


def test_padding_is_black_here_and_a_pixel_like_others_there(tmp_path):
    path = save(dicom(VALUES, **TWO_WINDOWS, PixelPaddingValue=4000), tmp_path / "a.dcm")
    mine, theirs, padded = ours(path), dcmtk(path, "+Wi", "1"), VALUES == 4000
    assert (mine[padded], theirs[padded]) == (0, 65535)
    assert_cut_fractions(mine[~padded], theirs[~padded])


def test_an_image_s_own_extremes_are_never_used(tmp_path):
    wide = {"BitsStored": 12, "WindowCenter": 4096, "WindowWidth": 8192}
    path = save(dicom(breast_picture(64, 48), **wide), tmp_path / "a.dcm")
    assert dcmtk(path, "+Wm").max() >= 65500
    assert_cut_fractions(ours(path), dcmtk(path, "+Wi", "1"))
    assert ours(path).max() < 40000


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGLSLossless, uid.RLELossless,
                                    uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian])  # fmt: skip
def test_a_phantom_mammogram_in_each_syntax_that_dcmtk_reads(tmp_path, syntax):
    path = save(dicom(breast_picture(120, 96), syntax, **TWO_WINDOWS), tmp_path / "a.dcm")
    assert_cut_fractions(ours(path), dcmtk(path, "+Wi", "1"))


# Lossy JPEG: two decoders of the cosine transform may differ by a stored value or two.
LOSSY = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL} (set MAMMOFLOW_REAL_DATA)")
def test_real_files(tmp_path):
    compared = []
    for source in sorted(REAL.rglob("*")):
        if not source.is_file() or source.suffix in (".txt", ".rst", ".zst") or source.name == "LICENSE":
            continue
        try:
            image = read_image(source, "dicom")
        except DecodeError:
            continue
        header = image.header
        (tmp_path / "a.dcm").unlink(missing_ok=True)
        (tmp_path / "a.dcm").symlink_to(source)
        option = ["+Wl", "1"] if header.voi_luts else ["+Wi", "1"] if header.windows else ["-W"]
        try:
            theirs = dcmtk(tmp_path / "a.dcm", *option)
        except pytest.skip.Exception:
            continue
        mine = ours(source)
        keep = np.ones(mine.shape, bool)
        if header.padding is not None:
            values = intensity.stored_values(header, image.pixels.dtype.itemsize)[intensity.as_index(image.pixels)]
            keep = (values < header.padding[0]) | (values > header.padding[1])
        difference = np.abs(mine - theirs)[keep]
        window = header.windows and not header.voi_luts
        unit = 65535 / max(header.windows[0][1] - 1, 1) if window else 65535 / ((1 << header.bits_stored) - 1)
        if image.transfer_syntax in LOSSY:
            assert (difference > 2 * unit + 1).mean() < 1e-4, source.name
        elif not window:
            assert difference.max() <= (1 << 16 - header.bits_stored), source.name
        elif header.slope % 1:
            assert difference.max() <= unit + 1.5, source.name
        else:
            assert difference.max() <= 1, source.name
        compared.append(source.name)
    assert len(compared) >= 24
