"""Read one stored image: its pixels as they were stored, what its header says, and who decoded it.

Nothing here changes a grey value: the modality and VOI steps are in :mod:`mammoflow.imaging.intensity`.
"""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mammoflow.imaging import header as headers
from mammoflow.imaging import isolated, pictures, plugins, trace
from mammoflow.imaging.codestream import check_frame
from mammoflow.imaging.errors import (
    CorruptHeader,
    CorruptPixelData,
    DecodeError,
    MissingPixelData,
    TooLarge,
    TruncatedPixelData,
    UnknownFormat,
    UnreadableFile,
)
from mammoflow.imaging.layout import MAX_BYTES, check_inflated, check_size, frame_index, pick_frame

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"P5": "pgm",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"\xff\xd8\xff\xc3": "ljpeg",  # lossless JPEG (SOF3) without any application segment: PVRG's files
    b"\xff\xd8\xff": "jpeg",
}

# Pseudonymised archives carry UIDs and values that break the standard's rules (VinDr-Mammo: MD5 digests as UIDs).
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom(\.|$)")


@dataclass(frozen=True)
class Source:
    """Key of the bytes that were read: size in bytes, time of change in ns, SHA-256 in hex."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class StoredImage:
    """One image. pixels: (rows, columns) uint8, int8, uint16 or int16 in native byte order, maybe read-only."""

    pixels: NDArray[np.integer]
    header: headers.Header
    decoder: str
    transfer_syntax: str | None
    source: Source
    flags: tuple[str, ...] = ()


def read_listed(image: Mapping[str, Any], root: Path) -> StoredImage:
    """Read the image that one row of an ``images`` table names (None for NA). Raises as :func:`read_image`."""
    film = pictures.Film(*(image[name] for name in ("height", "width", "bits_stored", "machine")))
    return read_image(root / image["path"], image["file_format"], image["member"], film)


def read_image(
    path: Path, file_format: str | None = None, member: str | int | None = None, film: pictures.Film | None = None
) -> StoredImage:
    """Read ``path``. The content decides the format; ``file_format`` (``tables.FORMATS``) only where it does not.

    member: number of the frame or page, counted from 1; needed where there are several.
    film: needed for DDSM's lossless JPEG.
    Raises a subclass of DecodeError, and nothing else, for whatever is wrong with the file.
    """
    data, source = read_bytes(path)
    kind = sniff_format(data) or file_format
    trace.step(f"the reader of {kind}")
    try:
        if kind == "dicom":
            return _read_dicom(data, source, frame_index(member))
        if kind == "tiff":
            pixels, facts, decoder = pictures.read_tiff(data, frame_index(member))
        elif kind in ("png", "jpeg"):
            pixels, facts, decoder = pictures.read_picture(data)
        elif kind == "pgm":
            pixels, facts, decoder = pictures.read_pgm(data)
        elif kind == "ljpeg":
            pixels, facts, decoder = pictures.read_ljpeg(data, film)
        else:
            raise UnknownFormat(f"{Path(path).name} is none of dicom, pgm, png, tiff, jpeg, ljpeg")
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        # Parsers meet broken bytes with any exception there is; all of them mean that this one file is unusable.
        raise CorruptPixelData(
            f"{Path(path).name}: the {kind} cannot be read ({type(error).__name__}: {error})"
        ) from error
    return StoredImage(np.ascontiguousarray(pixels), facts, decoder, None, source)


def read_bytes(path: Path) -> tuple[bytes, Source]:
    """The whole file, and the key of just these bytes. Raises UnreadableFile, TooLarge."""
    name = Path(path).name
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise UnreadableFile(f"{name}: not a file but a directory, a pipe or a device")
        with open(path, "rb") as handle:
            found = os.fstat(handle.fileno())
            if found.st_size > MAX_BYTES:
                raise TooLarge(f"{name} has {found.st_size} bytes, more than any mammogram")
            data = handle.read()
    except OSError as error:
        raise UnreadableFile(f"{name}: {error.strerror or error}") from error
    if not data:
        raise UnreadableFile(f"{name}: the file is empty")
    return data, Source(len(data), found.st_mtime_ns, hashlib.sha256(data).hexdigest())


def sniff_format(data: bytes) -> str | None:
    """Format by the first bytes; None where they do not tell (DICOM without a preamble, PVRG JPEG)."""
    if data[128:132] == b"DICM":
        return "dicom"
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)


def _read_dicom(data: bytes, source: Source, frame: int | None) -> StoredImage:
    try:
        _check_deflated(data)
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        syntax = transfer_syntax(ds)
        if "PixelData" not in ds:
            # pydicom drops what the file's end cuts off, the header with it: the tag is in the bytes all the same.
            if b"\xe0\x7f\x10\x00" in data or b"\x7f\xe0\x00\x10" in data:
                if data[128:132] == b"DICM":
                    raise TruncatedPixelData("the file ends inside its pixel data")
                raise CorruptHeader("the elements before the pixel data cannot be parsed")
            raise MissingPixelData("the object holds no pixel data")
        if not ds.PixelData:
            raise MissingPixelData("the pixel data is empty")
        facts = headers.from_dataset(ds, syntax.is_compressed)
        # What the header reader assumed, which pydicom's decoders demand.
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, facts.photometric
        ds.BitsStored, ds.PixelRepresentation = facts.bits_stored, int(facts.signed)
        count = int(ds.get("NumberOfFrames") or 1)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise CorruptHeader(f"the header cannot be parsed ({type(error).__name__}: {error})") from error
    check_size(facts.rows, facts.columns)
    index = pick_frame(frame, count)
    if not syntax.is_encapsulated:
        needed = (index + 1) * facts.rows * facts.columns * (ds.BitsAllocated // 8)
        if len(ds.PixelData) < needed:
            raise TruncatedPixelData(f"{len(ds.PixelData)} bytes of pixels, the header needs {needed}")
        names: tuple[str, ...] = ("",)
    else:
        names = plugins.plugins_for(syntax)
        _check_codestream(ds, syntax, index, count)
    pixels, decoder = _decode(data, ds, syntax, index, names)
    second = syntax.is_encapsulated and decoder != plugins.PREFERENCE[syntax][0]
    flags = (*facts.flags, *(("decoder_fallback",) if second else ()))
    return StoredImage(pixels, replace(facts, flags=()), decoder, str(syntax), source, flags)


def _check_deflated(data: bytes) -> None:
    """pydicom inflates a deflated data set (PS3.5 A.5) whole, however long it becomes."""
    if data[128:132] == b"DICM" and DeflatedExplicitVRLittleEndian.encode() in data[:2048]:
        group = data[132:144]  # (0002,0000) UL, the length of the file meta group behind it
        check_inflated(memoryview(data)[144 + int.from_bytes(group[8:12], "little") :])


def transfer_syntax(ds: pydicom.Dataset) -> UID:
    """The one of the file meta group or, where that is lost, what the parser found the encoding to be."""
    named = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    if named:
        return UID(named)
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_codestream(ds: pydicom.Dataset, syntax: UID, index: int, count: int) -> None:
    try:
        frame = get_frame(ds.PixelData, index, number_of_frames=count)
    except Exception as error:
        raise CorruptPixelData(f"the compressed frame cannot be cut out: {error}") from error
    check_frame(frame, syntax, ds.Rows, ds.Columns)


def _decode(
    data: bytes, ds: pydicom.Dataset, syntax: UID, index: int, names: tuple[str, ...]
) -> tuple[NDArray[np.integer], str]:
    """Pixels, and the first of the plugins ``names`` that could decode them."""
    reasons = []
    for name in names:
        trace.step(name or plugins.NATIVE)
        try:
            if name in plugins.CRASHING:
                return isolated.decode(data, name, index), name
            return decode_frame(ds, syntax, index, name), name or plugins.NATIVE
        except BaseException as error:  # each decoder has exceptions of its own; those of Rust are no Exception
            if isinstance(error, MemoryError) or "Unable to allocate" in str(error):
                raise MemoryError(str(error)) from error  # numpy's, of which pydicom hands on the text alone
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = (str(error).rpartition("by all available plugins:")[2] or str(error)).strip()
            reasons.append(f"{name or plugins.NATIVE}: {reason.removeprefix(f'{name}: ')}")
    raise CorruptPixelData("; ".join(reasons))


def decode_frame(ds: pydicom.Dataset, syntax: UID, index: int, plugin: str) -> NDArray[np.integer]:
    """Stored pixels of one frame, in native byte order, by one plugin of pydicom (``""``: no compression)."""
    # Unused bits are masked by the grey-scale table, for free; here it would cost two passes and a copy.
    pixels, _ = pydicom.pixels.get_decoder(syntax).as_array(
        ds, index=index, raw=True, decoding_plugin=plugin, correct_unused_bits=False, view_only=True
    )
    if pixels.dtype.itemsize > 2 or pixels.ndim != 2:
        raise ValueError(f"decoded to {pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
