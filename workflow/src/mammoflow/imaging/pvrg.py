"""Lossless JPEG streams of Stanford's PVRG codec: the pixels of the original DDSM archive.

PVRG codec 1.2 (``jpeg.c``, ``JpegLosslessDecodeScan``) departs from ITU-T T.81 Annex H in the first row: T.81 demands
predictor 1 (left neighbour) there, PVRG applies the predictor of the scan, with the missing line above taken as
``2 ** (precision - 1)``. Decoders that follow the standard therefore return wrong pixels for predictors 2, 3, 6 and 7,
and DDSM uses 7. The cure needs no extra decoder: with the header's precision set to 16 and its predictor to 1, any
standard decoder becomes a plain entropy decoder, whose result gives the coded differences back; the image is then
rebuilt from them by PVRG's own rule.
"""

import gzip
import io
import zlib
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.errors import CorruptHeader, CorruptPixelData, TooLarge, TruncatedPixelData, UnknownFormat
from mammoflow.imaging.layout import MAX_INFLATED_BYTES
from mammoflow.imaging.pvrg_rebuild import REBUILD

MAX_PIXELS = 1 << 28  # the largest DDSM film has 2.7e7: what lies above is not a film but a damaged header
_SOF3, _DHT, _SOS, _DRI = 0xC3, 0xC4, 0xDA, 0xDD
# Category (SSSS) of each difference modulo 2**16: the bit length of its absolute value (T.81 table H.2).
CATEGORY = np.frexp(np.abs(np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)))[1].astype(np.uint8)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Header:
    """What the frame and scan headers say.

    ``precision_at``, ``predictor_at`` and ``scan_at`` (first byte of entropy-coded data) are offsets into the stream.
    ``code_lengths[s]`` is the number of bits of the Huffman code for category ``s`` (0: no such code).
    """

    lines: int
    samples: int
    precision: int
    predictor: int
    precision_at: int
    predictor_at: int
    scan_at: int
    code_lengths: tuple[int, ...]


def decode(data: bytes, rows: int | None = None, columns: int | None = None) -> NDArray[np.uint16]:
    """Pixels of a PVRG lossless JPEG stream (plain or gzip-compressed), shape ``(rows, columns)``, dtype uint16.

    ``rows`` and ``columns`` are LINES and PIXELS_PER_LINE of the case's ``.ics`` file: many DDSM streams carry them
    swapped in the JPEG header, while the samples run in the order of the ``.ics``. Without them the header is believed.
    Raises a subclass of DecodeError for what is not such a stream, is damaged, or has another number of pixels.
    """
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data)
    header = read_header(data)
    shape = (rows or header.lines, columns or header.samples)
    if shape[0] * shape[1] != header.lines * header.samples:
        raise CorruptHeader(
            f"the stream holds {header.lines} x {header.samples} pixels where {shape[0]} x {shape[1]} are expected"
        )
    differences = _entropy_decode(data, header)
    return REBUILD[header.predictor](differences, 1 << (header.precision - 1)).reshape(shape)


def read_header(data: bytes) -> Header:
    """Parse the marker segments up to the scan. Raises UnknownFormat, CorruptHeader or TooLarge where there is none."""
    if data[:2] != b"\xff\xd8":
        raise UnknownFormat("not a JPEG stream: it does not start with the SOI marker")
    frame, tables, at = None, {}, 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise CorruptHeader(f"damaged JPEG header: no marker at byte {at}")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if length < 2 or len(body) != length - 2:
            break
        if marker in _FRAMES:
            frame = (at + 4, body) if marker == _SOF3 and len(body) == 9 else None
            if frame is None:
                raise UnknownFormat("not a one-component lossless JPEG (SOF3) stream")
        elif marker == _DHT:
            tables.update(_huffman_lengths(body))
        elif marker == _DRI and any(body):
            raise UnknownFormat("a JPEG stream with restart intervals, which PVRG streams of DDSM do not have")
        elif marker == _SOS:
            return _scan_header(frame, tables, at + 4, body)
        at += 2 + length
    raise CorruptHeader("damaged JPEG header: it ends before the scan")


def _huffman_lengths(body: bytes) -> dict[int, tuple[int, ...]]:
    """Tables of one DHT segment (T.81 B.2.4.2): class and identifier -> code length of each category 0..16."""
    tables, at = {}, 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        categories = body[at + 17 : at + 17 + sum(counts)]
        if len(counts) != 16 or len(categories) != sum(counts) or max(categories, default=0) > 16:
            raise CorruptHeader("damaged JPEG header: the Huffman table is not one of a lossless stream")
        lengths = [0] * 17
        for category, length in zip(categories, np.repeat(np.arange(1, 17), list(counts)), strict=True):
            lengths[category] = int(length)
        tables[body[at]] = tuple(lengths)
        at += 17 + len(categories)
    return tables


def _scan_header(frame: tuple[int, bytes] | None, tables: dict[int, tuple[int, ...]], at: int, body: bytes) -> Header:
    if frame is None or len(body) != 6 or body[2] >> 4 not in tables:
        raise CorruptHeader("damaged JPEG header: the scan has no one-component lossless frame or no Huffman table")
    frame_at, fields = frame
    precision, lines, samples = fields[0], int.from_bytes(fields[1:3], "big"), int.from_bytes(fields[3:5], "big")
    predictor, point_transform = body[3], body[5] & 15
    if not 2 <= precision <= 16 or not 1 <= predictor <= 7 or point_transform:
        raise CorruptHeader(
            f"damaged JPEG header: precision {precision}, predictor {predictor}, point transform {point_transform}"
        )
    if not 0 < lines * samples <= MAX_PIXELS:
        raise TooLarge(f"{lines} x {samples} pixels are announced, more than any film has")
    return Header(lines, samples, precision, predictor, frame_at, at + 3, at + 6, tables[body[2] >> 4])


def _gunzip(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(MAX_INFLATED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptPixelData(f"damaged gzip file: {error}") from None
    if len(content) > MAX_INFLATED_BYTES:
        raise TooLarge(f"{len(data)} compressed bytes become more than any film has")
    return content


def _entropy_decode(data: bytes, header: Header) -> NDArray[np.uint16]:
    """The coded differences modulo 2**16, shape (lines, samples).

    Annex H with predictor 1 sums the differences along each row, and the first of each row onto the pixel above; the
    sums are undone here. The precision is raised to 16 so that no decoder masks or refuses large differences.
    """
    end = data.rfind(b"\xff\xd9", header.scan_at)
    if end < 0:
        raise TruncatedPixelData("truncated stream: it has no end marker")
    scan_bits = 8 * (end - header.scan_at - data.count(b"\xff\x00", header.scan_at, end))  # each 0xFF is stuffed
    if header.lines * header.samples > scan_bits:  # a pixel takes a bit at least: do not allocate for a false header
        raise TruncatedPixelData(f"truncated stream: {scan_bits} bits for {header.lines} x {header.samples} pixels")
    patched = bytearray(data)
    patched[header.precision_at], patched[header.predictor_at] = 16, 1
    try:
        sums = imagecodecs.ljpeg_decode(bytes(patched))
    except (imagecodecs.LjpegError, ValueError) as error:
        raise CorruptPixelData(f"damaged lossless JPEG stream: {error}") from None
    sums = sums.reshape(header.lines, header.samples)
    differences = np.empty_like(sums)
    np.subtract(sums[:, 1:], sums[:, :-1], out=differences[:, 1:])
    np.subtract(sums[1:, 0], sums[:-1, 0], out=differences[1:, 0])
    differences[:1, 0] = sums[:1, 0] - np.uint16(1 << 15)
    # A decoder that runs out of data goes on with invented bits, so count what the image needs.
    if _coded_bits(differences, header.code_lengths) > scan_bits:
        raise TruncatedPixelData("truncated stream: it ends before the last pixel")
    return differences


def _coded_bits(differences: NDArray[np.uint16], code_lengths: tuple[int, ...]) -> int:
    """Bits that the differences take in the stream: each has a Huffman code and as many bits as its category."""
    bits = np.array(code_lengths)[CATEGORY] + np.where(CATEGORY < 16, CATEGORY, 0)
    blocks = np.array_split(differences, max(1, len(differences) // 256))  # bincount copies to eight bytes per pixel
    return int(sum(np.bincount(block.reshape(-1), minlength=1 << 16) @ bits for block in blocks))
