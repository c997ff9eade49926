"""Made images for the tests of decoding and conversion: a breast-like picture, and DICOM objects around pixels."""

from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID


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
    """An MG object around ``pixels`` (rows, columns) of 8 or 16 bits. ``tags`` are set last and may be None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=["the same in each run"])
    meta.TransferSyntaxUID = syntax
    ds = Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = ds.BitsAllocated
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.HighBit = ds.BitsStored - 1
    if not syntax.is_encapsulated:
        order = "<" if syntax.is_little_endian else ">"
        ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    else:
        compress(ds, pixels, syntax)
    return ds


def compress(ds: Dataset, pixels: NDArray[np.integer], syntax: UID) -> None:
    """Encode ``pixels`` losslessly (JPEG baseline: with loss) into ``ds``."""
    bits = int(ds.BitsStored)
    if syntax == uid.RLELossless:
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.compress(uid.RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)  # gdcm aborts on 8 bits
        return
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        frame = imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=bits)
    elif syntax == uid.JPEGBaseline8Bit:
        frame = imagecodecs.jpeg8_encode(unsigned, level=95)
    elif syntax == uid.JPEGExtended12Bit:
        frame = imagecodecs.jpeg8_encode(unsigned, level=95, bitspersample=12)
    elif syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        frame = imagecodecs.jpegls_encode(unsigned)
    elif syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        frame = imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", reversible=True, bitspersample=bits)
    elif syntax == uid.HTJ2KLossless:
        frame = imagecodecs.htj2k_encode(unsigned)
    else:
        raise ValueError(f"no encoder for {syntax.name}")
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True


def save(ds: Dataset, path: Path) -> Path:
    """Write ``ds`` as a DICOM file. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
