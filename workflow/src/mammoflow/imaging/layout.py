"""Checks that come before any pixel is allocated: size, and which of several frames."""

import zlib

from mammoflow.imaging.errors import CorruptHeader, MultiFrame, TooLarge

# The largest mammograms are film scans of about 45 million pixels; a header that announces more than this is broken,
# and must not make the process allocate.
MAX_PIXELS = 1 << 27
# Bytes of a file, and of what a deflated one becomes: twice the largest image that is read, with room for the rest.
MAX_BYTES = 1 << 32
MAX_INFLATED_BYTES = 1 << 30
_STEP = 1 << 24


def check_size(rows: int, columns: int) -> None:
    """Raise CorruptHeader or TooLarge for a size that no image can have."""
    if rows < 1 or columns < 1:
        raise CorruptHeader(f"{rows} x {columns} pixels")
    if rows * columns > MAX_PIXELS:
        raise TooLarge(f"{rows} x {columns} pixels are announced, more than any mammogram has")


def check_inflated(deflated: bytes | memoryview) -> None:
    """Raise TooLarge where raw deflate data (RFC 1951) becomes too long. Damage is left to whoever inflates it."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, deflated
    try:
        while step := inflate.decompress(rest, _STEP):
            size, rest = size + len(step), inflate.unconsumed_tail
            if size > MAX_INFLATED_BYTES:
                raise TooLarge(f"{len(deflated)} deflated bytes become more than any mammogram has")
    except zlib.error:
        return


def frame_index(member: str | int | None) -> int | None:
    """Index, from 0, of the table's frame number, from 1; None where the table names none. Raises MultiFrame."""
    if member is None:
        return None
    try:
        index = int(member) - 1
    except ValueError:
        index = -1
    if index < 0:
        raise MultiFrame(f"member {member!r} is not a frame number (counted from 1)")
    return index


def pick_frame(index: int | None, count: int) -> int:
    """The index to read among ``count`` frames. Raises MultiFrame where it is absent, or none is named among many."""
    if index is None and count > 1:
        raise MultiFrame(f"{count} frames, and the table names none of them")
    if (index or 0) >= count:
        raise MultiFrame(f"frame {(index or 0) + 1} is asked for, there are {count}")
    return index or 0
