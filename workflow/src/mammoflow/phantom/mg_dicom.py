"""Write DICOM files as archives hold them, irregular ones included. The same arguments give the same bytes."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)

from mammoflow.files import replacing
from mammoflow.imaging import pvrg_encode

PRESENTATION = DigitalMammographyXRayImageStorageForPresentation
VIEW_CODES = {"CC": ("399162004", "cranio-caudal"), "MLO": ("399368009", "medio-lateral oblique")}
# Rows run to the front of the body or to its back, columns from the outer or upper side inwards or down.
ORIENTATION = {("L", "CC"): ["A", "R"], ("L", "MLO"): ["A", "FR"], ("R", "CC"): ["P", "L"], ("R", "MLO"): ["P", "FL"]}


def uid_of(*source: object) -> UID:
    """A valid UID, a function of its arguments."""
    return generate_uid(entropy_srcs=[repr(part) for part in source])


def view_code(view: str) -> list[Dataset]:
    """ViewCodeSequence with the SNOMED CT code of CID 4014 for CC or MLO."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = VIEW_CODES[view]
    item.CodingSchemeDesignator = "SCT"
    return [item]


def write(
    path: Path,
    elements: dict[str, Any],
    pixels: np.ndarray | None,
    bits_stored: int = 16,
    syntax: UID = ExplicitVRLittleEndian,
    media_class: str | None = None,
) -> None:
    """Write one file atomically.

    elements: DICOM keyword -> value, SOPInstanceUID among them; a value is written as given, valid or not.  pixels:
    uint8 or uint16 (rows, columns), or None for an object without; values beyond ``bits_stored`` are kept, as in broken
    archives.  syntax: Explicit VR Little Endian, JPEG 2000 lossless (.90) or JPEG lossless (.70).  media_class:
    Media Storage SOP Class UID, where it is not the SOPClassUID.
    Raises ValueError for another transfer syntax.
    """
    with config.disable_value_validation():
        ds = Dataset()
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = media_class or elements["SOPClassUID"]
        ds.file_meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
        ds.file_meta.TransferSyntaxUID = syntax
        ds.file_meta.ImplementationClassUID = uid_of("mammoflow phantom")
        if pixels is not None:
            _add_pixels(ds, pixels, bits_stored, syntax)
        ds.preamble = b"\0" * 128
        with replacing(path) as handle:
            dcmwrite(handle, ds, enforce_file_format=False)


def _add_pixels(ds: Dataset, pixels: np.ndarray, bits_stored: int, syntax: UID) -> None:
    bits = pixels.dtype.itemsize * 8
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel = 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits_stored, bits_stored - 1
    ds.PixelRepresentation = 0
    if "PhotometricInterpretation" not in ds:
        ds.PhotometricInterpretation = "MONOCHROME2"
    # A stream must hold every value there is, also those that the header denies.
    depth = max(bits_stored, int(pixels.max()).bit_length())
    if syntax == ExplicitVRLittleEndian:
        raw = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        ds.add_new("PixelData", "OB" if bits == 8 else "OW", raw + b"\0" * (len(raw) % 2))
        return
    if syntax == JPEG2000Lossless:
        stream = imagecodecs.jpeg2k_encode(
            pixels, level=0, codecformat="j2k", reversible=True, bitspersample=depth, numthreads=1
        )
    elif syntax == JPEGLosslessSV1:
        # PVRG's predictor 1 is the standard's selection value 1.
        stream = pvrg_encode.encode(pixels.astype(np.uint16), precision=depth, predictor=1)
    else:
        raise ValueError(f"the phantom writes no {syntax.name}")
    ds.add_new("PixelData", "OB", encapsulate([stream]))
    ds["PixelData"].is_undefined_length = True
