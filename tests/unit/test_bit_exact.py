"""What lies in the PNG, to the bit, for every transfer syntax and every decoder that conversion may use.

``raw`` is pydicom's array; ``window`` is the formula of PS3.3 C.11.2.1.2, rounded.
"""

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import uid

from made_images import breast_picture, dicom, save
from mammoflow import settings
from mammoflow.convert_file import convert_file
from mammoflow.imaging import decode, encode, plugins

NATIVE = {"crop": False, "long_side": None}
CENTER, WIDTH = 1800.0, 2500.0
PAIRS = [
    (syntax, name)
    for syntax in encode.SYNTAXES
    if syntax not in encode.LOSSY
    for name in (plugins.PREFERENCE[syntax] if syntax.is_encapsulated else ("",))
]


@pytest.mark.parametrize(("syntax", "name"), PAIRS, ids=lambda part: getattr(part, "keyword", part))
def test_the_png_is_exact(tmp_path, monkeypatch, syntax, name):
    pixels = breast_picture(211, 173)
    pixels[3] = np.random.default_rng(1).integers(0, 4096, 173)
    ds = dicom(pixels, syntax, BitsStored=12, WindowCenter=CENTER, WindowWidth=WIDTH)
    path = save(ds, tmp_path / "a.dcm")
    if name:
        monkeypatch.setattr(decode.plugins, "plugins_for", lambda _: (name,))
    written = {}
    for intensity in ("raw", "window"):
        section = settings.resolve_section("convert", {**NATIVE, "intensity": intensity})
        row = convert_file(path, tmp_path / f"{intensity}.png", section)
        assert (row["status"], row["decoder"]) == ("ok", name or "pydicom")
        assert not row["flip"]
        written[intensity] = cv2.imread(str(tmp_path / f"{intensity}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written["raw"], pixels)
    np.testing.assert_array_equal(written["raw"], _pydicom_s_own(path, syntax))
    shown = np.clip((pixels - (CENTER - 0.5)) / (WIDTH - 1) + 0.5, 0, 1)
    np.testing.assert_array_equal(written["window"], np.rint(shown * 65535))


def _pydicom_s_own(path, syntax):
    """Decoded by a plugin that pydicom brings itself."""
    ds = pydicom.dcmread(path)
    if syntax.is_encapsulated:
        ds.pixel_array_options(decoding_plugin="pydicom" if syntax == uid.RLELossless else "pylibjpeg")
    return ds.pixel_array
