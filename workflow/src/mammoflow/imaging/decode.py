"""Read one stored image: its pixels as they were stored, what its header says, and who decoded it.

Nothing here changes a grey value: the modality and VOI steps are in :mod:`mammoflow.imaging.intensity`.
"""

from mammoflow.imaging import lean  # noqa: F401 - before anything that imports pydicom

# isort: split
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
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from mammoflow.imaging import header as headers
from mammoflow.imaging import isolated, pictures, plugins, reduced, trace
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

_DEFERRED = 1 << 20  # bytes; beyond any element that is looked at here, but for the pixels

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
    """One image. pixels: (rows, columns) uint8, int8, uint16 or int16 in native byte order, maybe read-only.

    levels: doublings of size that were left out (``fast_j2k``): a pixel stands for 2**levels stored ones a side, and
    the size as stored is the header's.
    """

    pixels: NDArray[np.integer]
    header: headers.Header
    decoder: str
    transfer_syntax: str | None
    source: Source
    flags: tuple[str, ...] = ()
    levels: int = 0


def read_listed(image: Mapping[str, Any], root: Path, levels: reduced.Choice | None = None) -> StoredImage:
    """Read the image that one row of an ``images`` table names (None for NA). Raises as :func:`read_image`."""
    film = pictures.Film(*(image[name] for name in ("height", "width", "bits_stored", "machine")))
    return read_image(root / image["path"], image["file_format"], image["member"], film, levels)


def read_image(
    path: Path,
    file_format: str | None = None,
    member: str | int | None = None,
    film: pictures.Film | None = None,
    levels: reduced.Choice | None = None,
) -> StoredImage:
    """Read ``path``. The content decides the format; ``file_format`` (``tables.FORMATS``) only where it does not.

    member: number of the frame or page, counted from 1; needed where there are several.
    film: needed for DDSM's lossless JPEG.
    levels: asked how many resolution levels of JPEG 2000 may be left out (flag fast_j2k); None: none.
    Raises a subclass of DecodeError, and nothing else, for whatever is wrong with the file.
    """
    data, source = read_bytes(path)
    kind = sniff_format(data) or file_format
    trace.step(f"the reader of {kind}")
    try:
        if kind == "dicom":
            return _read_dicom(data, source, frame_index(member), levels)
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


def _read_dicom(data: bytes, source: Source, frame: int | None, levels: reduced.Choice | None) -> StoredImage:
    try:
        _check_deflated(data)
        ds, syntax, place = _parse(data)
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
        present = place[1] - place[0] if place else len(ds.PixelData)
        if present < needed:
            raise TruncatedPixelData(f"{present} bytes of pixels, the header needs {needed}")
        if place:
            pixels = _uncompressed(data, place[0], facts, ds.BitsAllocated // 8, index)
            return StoredImage(pixels, replace(facts, flags=()), plugins.NATIVE, str(syntax), source, facts.flags)
        names: tuple[str, ...] = ("",)
    else:
        names = plugins.plugins_for(syntax)
        stream = _codestream(ds, syntax, index, count)
        if levels is not None and syntax in (JPEG2000Lossless, JPEG2000):
            small = _reduced(stream, facts, levels)
            if small is not None:
                pixels, left_out = small
                flags = (*facts.flags, "fast_j2k")
                decoder = f"{reduced.DECODER} 1:{1 << left_out}"
                return StoredImage(pixels, replace(facts, flags=()), decoder, str(syntax), source, flags, left_out)
        del stream  # as large as the file; decoding takes memory enough
    pixels, decoder = _decode(data, ds, syntax, index, names)
    second = syntax.is_encapsulated and decoder != plugins.PREFERENCE[syntax][0]
    flags = (*facts.flags, *(("decoder_fallback",) if second else ()))
    return StoredImage(pixels, replace(facts, flags=()), decoder, str(syntax), source, flags)


def _check_deflated(data: bytes) -> None:
    """pydicom inflates a deflated data set (PS3.5 A.5) whole, however long it becomes."""
    if data[128:132] == b"DICM" and DeflatedExplicitVRLittleEndian.encode() in data[:2048]:
        group = data[132:144]  # (0002,0000) UL, the length of the file meta group behind it
        check_inflated(memoryview(data)[144 + int.from_bytes(group[8:12], "little") :])


def _parse(data: bytes) -> tuple[pydicom.Dataset, UID, tuple[int, int] | None]:
    """The object, its syntax and, where they are plain little-endian samples, from where to where the pixels lie.

    pydicom would copy them, which takes a tenth of the time of an uncompressed image, and as much memory again.
    """
    ds = pydicom.dcmread(io.BytesIO(data), force=True, defer_size=_DEFERRED)
    syntax = transfer_syntax(ds)
    # `values` shows the elements as they were parsed; every other way of asking reads a deferred one.
    element = next((element for element in ds.values() if element.tag == 0x7FE00010), None)
    if element is None or element.value is not None:
        return ds, syntax, None
    if syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        return ds, syntax, (element.value_tell, min(element.value_tell + element.length, len(data)))
    return pydicom.dcmread(io.BytesIO(data), force=True), syntax, None


def _uncompressed(data: bytes, start: int, facts: headers.Header, itemsize: int, index: int) -> NDArray[np.integer]:
    """A view of frame ``index`` in the file's own bytes (PS3.5 8.1.1, A.1, A.2)."""
    size = facts.rows * facts.columns
    kind = np.dtype(f"<{'i' if facts.signed else 'u'}{itemsize}")
    pixels = np.frombuffer(data, kind, size, start + index * size * itemsize).reshape(facts.rows, facts.columns)
    # A copy only on a big-endian machine, or where broken elements before it put the pixels at an odd address.
    return np.require(pixels, dtype=kind.newbyteorder("="), requirements="A")


def transfer_syntax(ds: pydicom.Dataset) -> UID:
    """The one of the file meta group or, where that is lost, what the parser found the encoding to be."""
    named = ds.file_meta.get("TransferSyntaxUID") if hasattr(ds, "file_meta") else None
    if named:
        return UID(named)
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _codestream(ds: pydicom.Dataset, syntax: UID, index: int, count: int) -> bytes:
    try:
        frame = get_frame(ds.PixelData, index, number_of_frames=count)
    except Exception as error:
        raise CorruptPixelData(f"the compressed frame cannot be cut out: {error}") from error
    check_frame(frame, syntax, ds.Rows, ds.Columns)
    return frame


def _reduced(
    stream: bytes, facts: headers.Header, choice: reduced.Choice
) -> tuple[NDArray[np.unsignedinteger], int] | None:
    trace.step(reduced.DECODER)
    try:
        return reduced.read(stream, facts, choice)
    except Exception:
        return None  # the decoders of whole frames say what is wrong with it, if they cannot read it either


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
    decoder = pydicom.pixels.get_decoder(syntax)
    if plugin == plugins.NAME or syntax == RLELossless:
        # pydicom's array would be a copy of the plugin's: with the largest films, the peak of the memory. It would
        # differ where signs need correction, which this plugin does by itself and which RLE never needs.
        buffer, facts = decoder.as_buffer(ds, index=index, decoding_plugin=plugin)
        order = "<" if syntax == RLELossless else "="  # pydicom's decoders write RLE as DICOM does, imagecodecs as C
        kind = np.dtype(f"{order}{'ui'[facts['pixel_representation']]}{facts['bits_allocated'] // 8}")
        pixels = np.frombuffer(buffer, kind).reshape(facts["rows"], facts["columns"])
        return np.ascontiguousarray(pixels, dtype=kind.newbyteorder("="))
    # Unused bits are masked by the grey-scale table, for free; here it would cost two passes and a copy.
    pixels, _ = decoder.as_array(
        ds, index=index, raw=True, decoding_plugin=plugin, correct_unused_bits=False, view_only=True
    )
    if pixels.dtype.itemsize > 2 or pixels.ndim != 2:
        raise ValueError(f"decoded to {pixels.dtype} of shape {pixels.shape}")
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
