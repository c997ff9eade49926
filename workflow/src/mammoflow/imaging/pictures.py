"""Pixels of the formats that carry no DICOM header: PGM, PNG, JPEG, TIFF, and DDSM's lossless JPEG.

Each reader takes the bytes of a file and returns the pixels, (rows, columns) of 8 or 16 bit integers, a header that
says how to read them, and the name of the decoder. Each checks the announced size first. They raise subclasses of
DecodeError, and whatever their library raises for broken bytes.
"""

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging import od, pvrg
from mammoflow.imaging.errors import (
    ColourImage,
    CorruptHeader,
    CorruptPixelData,
    TruncatedPixelData,
    UnknownFormat,
)
from mammoflow.imaging.header import Header, LookupTable
from mammoflow.imaging.layout import check_size, pick_frame

Decoded = tuple[NDArray[np.integer], Header, str]


@dataclass(frozen=True)
class Film:
    """What a scanned film's file does not say itself: its size in pixels, its depth and the scanner's curve."""

    rows: int | None
    columns: int | None
    bits: int | None
    scanner: str | None  # one of od.SCANNERS


def read_pgm(data: bytes) -> Decoded:
    """Binary PGM (netpbm's pgm(5)): 16-bit samples are big-endian."""
    match = re.match(rb"P5(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s", data[:4096])
    if not match:
        raise CorruptHeader("the PGM header cannot be parsed")
    columns, rows, top = (int(group) for group in match.groups())
    if not 0 < top < 1 << 16:
        raise CorruptHeader(f"the PGM's largest value is {top}")
    check_size(rows, columns)
    kind = np.dtype("u1" if top < 256 else ">u2")
    if len(data) - match.end() < rows * columns * kind.itemsize:
        raise TruncatedPixelData(f"{len(data) - match.end()} bytes of pixels for {rows} x {columns} of {kind.itemsize}")
    pixels = np.frombuffer(data, kind, rows * columns, match.end()).reshape(rows, columns)
    return pixels.astype(kind.newbyteorder("="), copy=False), Header(rows, columns, top.bit_length()), "numpy"


def read_picture(data: bytes) -> Decoded:
    """PNG or JPEG, grey, 8 or 16 bits, through Pillow."""
    from PIL import Image, UnidentifiedImageError  # only archives of pictures pay for its import

    Image.MAX_IMAGE_PIXELS = None  # check_size is as strict, and the same for every format
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise CorruptHeader("the header of the picture cannot be parsed") from None
    with opened as picture:
        check_size(picture.height, picture.width)
        if picture.mode not in ("L", "I;16", "I;16B"):
            raise ColourImage(f"a picture of mode {picture.mode}; grey of 8 or 16 bits is needed")
        try:
            pixels = np.asarray(picture)
        except OSError as error:
            kind = TruncatedPixelData if "truncated" in str(error) else CorruptPixelData
            raise kind(str(error)) from error
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return pixels, Header(*pixels.shape, bits_stored=8 * pixels.dtype.itemsize), "pillow"


def read_tiff(data: bytes, frame: int | None) -> Decoded:
    """Grey TIFF of 8 or 16 bits. WhiteIsZero (TIFF 6.0 section 4) is DICOM's MONOCHROME1."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[pick_frame(frame, len(file.pages))]
        if not isinstance(page.imagelength, int) or not isinstance(page.imagewidth, int):
            raise CorruptHeader(f"the TIFF's size is no number of pixels: {page.imagelength} x {page.imagewidth}")
        check_size(page.imagelength, page.imagewidth)
        if page.samplesperpixel != 1 or page.photometric not in (0, 1):
            raise ColourImage(f"a TIFF with {page.samplesperpixel} samples per pixel, photometric {page.photometric}")
        if page.dtype is None or page.dtype.kind not in "iu" or page.dtype.itemsize > 2:
            raise CorruptHeader(f"a TIFF of {page.dtype}; 8 or 16 bit integers can be read")
        pixels = page.asarray(maxworkers=1)
        facts = Header(
            *pixels.shape,
            bits_stored=page.bitspersample,
            signed=page.dtype.kind == "i",
            photometric="MONOCHROME1" if page.photometric == 0 else "MONOCHROME2",
        )
    return pixels, facts, "tifffile"


def read_ljpeg(data: bytes, film: Film | None) -> Decoded:
    """DDSM film. Its modality step is the curve from grey level to optical density of the scanner."""
    if film is None or film.bits is None or film.scanner is None:
        raise UnknownFormat("a DDSM film can only be read with the size, depth and scanner of its .ics file")
    curve = LookupTable(first=0, top=0xFFFF, entries=od.od_lut(film.scanner, film.bits))
    pixels = pvrg.decode(data, film.rows, film.columns)
    return pixels, Header(*pixels.shape, film.bits, modality_lut=curve, presentation="film"), "pvrg"
