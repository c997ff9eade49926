"""The size that a compressed frame itself announces, and whether it is whole. Looked at before any decoder sees it.

Decoders allocate what the stream asks for, so a damaged size can take minutes and all memory; and JPEG decoders fill
what is missing at the end with grey and only warn.
"""

from mammoflow.imaging import lean  # noqa: F401 - before anything that imports pydicom

# isort: split
import struct
from typing import NamedTuple

from pydicom import uid
from pydicom.uid import UID

from mammoflow.imaging.errors import CorruptPixelData, TruncatedPixelData

_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment (ITU-T T.81 table B.1)
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}  # DHT, JPG, DAC lie among the SOF codes
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - _NOT_FRAMES  # SOF0 to SOF15, and SOF55 of JPEG-LS (T.87)


def check_frame(frame: bytes, syntax: UID, rows: int, columns: int) -> None:
    """Check a compressed frame against its object's header.

    Raises CorruptPixelData where the stream announces another size, TruncatedPixelData where a JPEG has no end marker.
    Nothing is known of run-length encoding, which has no header of its own.
    """
    if syntax in uid.JPEG2000TransferSyntaxes:
        size = jpeg2000_size(frame)
    elif syntax in uid.JPEGTransferSyntaxes or syntax in uid.JPEGLSTransferSyntaxes:
        size = jpeg_size(frame)
        if b"\xff\xd9" not in frame[-16:]:
            raise TruncatedPixelData("the compressed frame has no end-of-image marker")
    else:
        return
    if size != (rows, columns):
        raise CorruptPixelData(f"the stream announces {size[0]} x {size[1]} pixels, the header {rows} x {columns}")


def jpeg_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG or JPEG-LS stream (T.81 B.2.2). Raises CorruptPixelData where there is no frame."""
    rows, columns = struct.unpack_from(">HH", frame, _frame_header(frame) + 5)
    return rows, columns


def jpeg_precision(frame: bytes) -> int:
    """Bits per sample of a JPEG or JPEG-LS stream. Raises CorruptPixelData where there is no frame."""
    return frame[_frame_header(frame) + 4]


def _frame_header(frame: bytes) -> int:
    """Position of the start-of-frame marker."""
    position = 2
    while position + 9 <= len(frame):
        if frame[position] != 0xFF:
            break
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _FRAMES:
            return position
        else:
            (length,) = struct.unpack_from(">H", frame, position + 2)
            position += 2 + length
    raise CorruptPixelData("the stream has no JPEG frame header")


def jpeg2000_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG 2000 or HTJ2K stream (T.800 A.5.1), bare or wrapped in a JP2 file.

    Raises CorruptPixelData where there is no such header, or it announces more than one component.
    """
    start = frame[:512].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 42:
        raise CorruptPixelData("the stream has no JPEG 2000 header")
    x1, y1, x0, y0, tile_width, tile_height = struct.unpack_from(">6I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    tiles = -(-(x1 - x0) // max(tile_width, 1)) * -(-(y1 - y0) // max(tile_height, 1))
    if components != 1 or not 0 < tiles <= 65535:
        raise CorruptPixelData(f"the JPEG 2000 header announces {components} components and {tiles} tiles")
    return y1 - y0, x1 - x0


class Coding(NamedTuple):
    """How a JPEG 2000 stream codes its first component. levels: doublings of size that can be left out."""

    bits: int
    signed: bool
    levels: int


def jpeg2000_coding(frame: bytes) -> Coding:
    """Depth and number of decomposition levels (T.800 A.5.1, A.6.1). Raises CorruptPixelData where they are missing."""
    start = frame[:512].find(b"\xff\x4f\xff\x51")
    position = start + 4
    try:
        depth = frame[position + 38]  # Ssiz of component 0
        while (marker := frame[position - 2 : position]) != b"\xff\x52":  # COD
            if start < 0 or marker[:1] != b"\xff" or marker == b"\xff\x90":  # the first tile: COD must come before
                raise CorruptPixelData("the JPEG 2000 stream says nothing of its coding")
            position += 2 + struct.unpack_from(">H", frame, position)[0]
        return Coding((depth & 0x7F) + 1, bool(depth & 0x80), frame[position + 7])
    except (IndexError, struct.error):
        raise CorruptPixelData("the JPEG 2000 header is cut off") from None
