"""Decode a JPEG 2000 frame at a half, a quarter ... of its size (the option ``fast_j2k``).

The wavelet transform stores an image as a small one and what each doubling of its size adds (T.800 annex F). Leaving
out the last doubling saves three quarters of the time. What remains is not the average of 2 x 2 pixels that resizing
would give: its pixels are the filter's low band, centred on every second stored pixel, half a stored pixel up and left
of where an average lies ((2**levels - 1) / 2 in general), and slightly sharper. Hence an option, never the default.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.codestream import jpeg2000_coding, jpeg2000_size
from mammoflow.imaging.header import Header

DECODER = "pillow"
# Called with the header, a small copy (rows, columns), and the levels that the copy left out; answers how many levels
# the working image can do without. Without a copy (None, 0) it answers how many these could be at most.
Choice = Callable[[Header, NDArray[np.unsignedinteger] | None, int], int]

_THUMBNAIL = 256  # pixels: the small copy's longer side is at least this; it costs one or two hundredths of the whole


def read(frame: bytes, header: Header, choice: Choice) -> tuple[NDArray[np.unsignedinteger], int] | None:
    """(pixels, levels left out) of a frame, or None where it must be decoded whole.

    pixels: (ceil(rows / 2**levels), ceil(columns / 2**levels)) uint8 or uint16.
    """
    coding = jpeg2000_coding(frame)
    if header.signed or coding.signed or coding.bits > 16:
        return None  # Pillow shifts signed samples
    if not choice(header, None, 0):
        return None
    possible = [n for n in range(1, coding.levels + 1) if _agrees(header, n)]
    small = [n for n in possible if max(header.rows, header.columns) >> n >= _THUMBNAIL]
    if not small:
        return None
    wanted = choice(header, decode(frame, small[-1]), small[-1])
    levels = max((n for n in possible if n <= wanted), default=0)
    return (decode(frame, levels), levels) if levels else None


def _agrees(header: Header, levels: int) -> bool:
    # Pillow rounds the size of the reduced image where the standard takes the next larger one, and then cannot read it.
    power = 1 << levels
    return all((side + power // 2) // power == -(-side // power) for side in (header.rows, header.columns))


def decode(frame: bytes, levels: int) -> NDArray[np.unsignedinteger]:
    """The frame without its last ``levels`` doublings. Raises what Pillow raises for a damaged stream."""
    from PIL import Image  # only this option pays for its import

    coding = jpeg2000_coding(frame)
    rows, columns = jpeg2000_size(frame)
    with Image.open(io.BytesIO(frame)) as picture:
        picture.reduce = levels
        picture.load()
        pixels = np.asarray(picture)
    expected = -(-rows // (1 << levels)), -(-columns // (1 << levels))
    if pixels.shape != expected or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"Pillow decoded {pixels.dtype} of shape {pixels.shape}, expected {expected}")
    # Pillow moves samples to the top of their 8 or 16 bits.
    return np.ascontiguousarray(pixels) >> (8 * pixels.dtype.itemsize - coding.bits)
