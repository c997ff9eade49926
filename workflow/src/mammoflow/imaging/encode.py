"""DICOM objects around given pixels, in every transfer syntax that is read here.

For checking decoders (``mammoflow self-test``), for benchmarks and for tests: what comes back must be what went in.
"""

from mammoflow.imaging import lean  # noqa: F401 - before anything that imports pydicom

# isort: split
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import UID

from mammoflow.imaging import pvrg_encode

# Every syntax that `frame` and `dataset` can write; without loss but for the two of JPEG's discrete cosine transform.
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
SYNTAXES = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    *LOSSY,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
)


def dataset(pixels: NDArray[np.integer], syntax: UID = uid.ExplicitVRLittleEndian, **tags: object) -> Dataset:
    """A mammography object around ``pixels`` (rows, columns) of 8 or 16 bits. ``tags`` are set last and may be None.

    The same arguments give the same bytes. Raises ValueError for a syntax that is not in ``SYNTAXES``.
    """
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
    if syntax.is_encapsulated:
        ds.PixelData = encapsulate([frame(pixels, syntax, int(ds.BitsStored))])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    else:
        order = "<" if syntax.is_little_endian else ">"
        ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    return ds


def frame(pixels: NDArray[np.integer], syntax: UID, bits: int) -> bytes:
    """``pixels`` (rows, columns) as one compressed frame of ``bits`` per sample."""
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        predictor = 1 if syntax == uid.JPEGLosslessSV1 else 6
        return imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits)
    if syntax == uid.JPEGBaseline8Bit:
        return imagecodecs.jpeg8_encode(unsigned, level=95)
    if syntax == uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_encode(unsigned, level=95, bitspersample=12)
    if syntax in uid.JPEGLSTransferSyntaxes:
        return imagecodecs.jpegls_encode(unsigned)
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        return imagecodecs.jpeg2k_encode(
            pixels, level=0, codecformat="J2K", reversible=True, bitspersample=bits, numthreads=1
        )
    if syntax in (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K):
        return imagecodecs.htj2k_encode(unsigned)
    if syntax == uid.RLELossless:
        return get_encoder(syntax).encode(
            np.ascontiguousarray(pixels),
            encoding_plugin="pylibjpeg",  # gdcm ends the process for 8 bits
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=8 * pixels.dtype.itemsize,
            bits_stored=bits,
            pixel_representation=int(pixels.dtype.kind == "i"),
            photometric_interpretation="MONOCHROME2",
        )
    raise ValueError(f"no encoder for {syntax.name}")


def wrapping_frame(pixels: NDArray[np.unsignedinteger], bits: int, seed: int = 0) -> bytes:
    """``pixels`` as lossless JPEG whose differences rely on arithmetic modulo 2**16 (T.81 H.1.2.1).

    Philips' and Samsung's encoders write such streams (pylibjpeg-libjpeg issue 90). Every sample stands for one of two
    numbers that agree in their last ``bits`` (8 to 15), at random. Decoders that clamp the sum lose the picture.
    """
    top = 1 << bits
    carry = np.random.default_rng(seed).integers(0, 2, pixels.shape, dtype=np.uint16) * np.uint16(top)
    # The first prediction is half the range: 2**15 for the encoder, which is told 16 bits, 2**(bits - 1) for a decoder.
    shifted = (pixels.astype(np.uint16) + np.uint16(top // 2)) & np.uint16(top - 1)
    stream = bytearray(pvrg_encode.encode(shifted + carry, precision=16, predictor=1))
    stream[stream.index(b"\xff\xc3") + 4] = bits
    return bytes(stream)
