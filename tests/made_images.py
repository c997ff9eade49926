"""Made images for the tests of decoding and conversion: a breast-like picture, and DICOM objects around pixels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mammoflow.imaging import encode


def breast_picture(
    height: int = 320,
    width: int = 256,
    side: str = "L",
    top: int = 4095,
    background: int = 0,
    seed: int = 0,
) -> NDArray[np.uint16]:
    """A half ellipse with texture on an even background; its chest wall stands on ``side``. Values 0..top."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (0.4 * height)) ** 2 + (x / (0.6 * width)) ** 2 < 1
    picture = np.full((height, width), background, dtype=np.float64)
    picture[inside] = top * (0.35 + 0.25 * (1 - x[inside] / width) + 0.1 * rng.standard_normal(int(inside.sum())))
    picture = np.clip(picture, 0, top).astype(np.uint16)
    return picture if side == "L" else np.ascontiguousarray(picture[:, ::-1])


def dicom(pixels: NDArray[np.integer], syntax: UID = uid.ExplicitVRLittleEndian, **tags: object) -> Dataset:
    """An MG object around ``pixels`` (see :func:`mammoflow.imaging.encode.dataset`)."""
    return encode.dataset(pixels, syntax, **tags)


def save(ds: Dataset, path: Path) -> Path:
    """Write ``ds`` as a DICOM file. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
