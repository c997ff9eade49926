"""From stored values to displayed grey: the DICOM grey-scale pipeline as one lookup table per image.

Modality step (PS3.3 C.11.1), VOI step (C.11.2), padding, then MONOCHROME1, in this order. All of it depends on the
stored value alone, so it is computed once for each possible value and applied in a single pass. The result is scaled by
the output range of the VOI step, never by an image's own extremes: equal windows give equal grey in every image.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging.header import Header, LookupTable


@dataclass(frozen=True)
class GreyTable:
    """values: (256,) or (65536,) uint8 or uint16, indexed by the stored bits read as unsigned.

    window: what was applied, for the ledger's JSON (function, center, width, index, low, high of the grey range).
    """

    values: NDArray[np.unsignedinteger]
    window: dict[str, Any]
    flags: tuple[str, ...] = ()

    def apply(self, pixels: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """Displayed grey of stored pixels of the same depth, any 2-D shape, contiguous or not."""
        return apply_table(as_index(pixels), self.values)


def as_index(pixels: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """The same bits read as unsigned (a view)."""
    return pixels.view(f"u{pixels.dtype.itemsize}")


def apply_table(index: NDArray[np.unsignedinteger], table: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """``table[index]``; five times as fast through OpenCV, which learned 16-bit tables in 4.13."""
    try:
        return cv2.LUT(index, table)
    except cv2.error:
        return table[index]


def stored_values(header: Header, itemsize: int) -> NDArray[np.int32]:
    """The stored value that each bit pattern stands for, shape (256**itemsize,)."""
    values = np.arange(1 << 8 * itemsize, dtype=np.int32)
    bits = header.bits_stored
    if header.signed:
        values &= (1 << bits) - 1
        values[values >= 1 << bits - 1] -= 1 << bits
    elif header.mask_unused_bits:
        values &= (1 << bits) - 1
    return values


def image_facts(pixels: NDArray[np.integer], header: Header) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Smallest and largest stored value as the table reads them, and flags about them.

    constant_image: all pixels are equal.  unused_bits_masked: bits above BitsStored were set and are ignored.
    exceeds_bits_stored: a compressed stream holds values beyond BitsStored; they are kept, and clip in the window.
    """
    low, high = int(pixels.min()), int(pixels.max())
    first, last = header.stored_range
    flags = []
    if low < first or high > last:
        flags.append("unused_bits_masked" if header.mask_unused_bits or header.signed else "exceeds_bits_stored")
        if header.mask_unused_bits or header.signed:
            values = stored_values(header, pixels.dtype.itemsize)[as_index(pixels[::8, ::8])]
            low, high = int(values.min()), int(values.max())
    if low == high:
        flags.append("constant_image")
    return (low, high), tuple(flags)


def window_table(
    header: Header,
    itemsize: int,
    rule: IntensityRule,
    bits: int,
    window_index: int = 0,
    extremes: tuple[int, int] | None = None,
) -> GreyTable:
    """The grey table of one image.

    bits: 8 or 16 of the output.  extremes: smallest and largest stored value of the image; they never scale anything,
    they only show that a window of the header misses the image altogether (all of it black or all white). The range
    0..2**bits_stored-1 is used then, as where there is no window.
    Flags: window_index_clipped, window_misses_image.
    """
    return window_tables(header, itemsize, rule, (bits,), window_index, extremes)[0]


def window_tables(
    header: Header,
    itemsize: int,
    rule: IntensityRule,
    depths: tuple[int, ...],
    window_index: int = 0,
    extremes: tuple[int, int] | None = None,
) -> list[GreyTable]:
    """:func:`window_table` for several depths of output at the price of one."""
    values = stored_values(header, itemsize)
    grey, (low, high) = _modality(values, header) if rule.rescale else (values.astype(np.float64), header.stored_range)
    flags: list[str] = []
    shown, window = _full_range(grey, low, high)
    if rule.voi and (header.voi_luts or header.windows):
        candidate, description = _voi(grey, header, window_index, flags)
        if extremes is not None and _is_flat(candidate, extremes, itemsize) and not _is_flat(shown, extremes, itemsize):
            flags.append("window_misses_image")
        else:
            shown, window = candidate, description
    if header.photometric == "MONOCHROME1" and rule.invert_monochrome1:
        shown = 1.0 - shown
        window["inverted"] = True
    if header.padding is not None:
        shown[(values >= header.padding[0]) & (values <= header.padding[1])] = 0.0
    return [
        GreyTable(np.rint(shown * ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16), window, tuple(flags))
        for bits in depths
    ]


def raw_table(header: Header, itemsize: int) -> GreyTable:
    """Stored values as 16-bit numbers, nothing else: no window, no inversion, padding kept.

    PNG knows no sign, so signed values are shifted up by half their range (``offset`` of ``window``, flag raw_offset).
    """
    values = stored_values(header, itemsize)
    offset = -header.stored_range[0]
    table = np.clip(values + offset, 0, 0xFFFF).astype(np.uint16)
    return GreyTable(table, {"function": "raw", "offset": offset}, ("raw_offset",) if offset else ())


def _modality(values: NDArray[np.int32], header: Header) -> tuple[NDArray[np.float64], tuple[float, float]]:
    if header.modality_lut is not None:
        return _lookup(values, header.modality_lut), (0.0, float(header.modality_lut.top))
    ends = [end * header.slope + header.intercept for end in header.stored_range]
    return values * header.slope + header.intercept, (min(ends), max(ends))


def _full_range(grey: NDArray[np.float64], low: float, high: float) -> tuple[NDArray[np.float64], dict[str, Any]]:
    shown = np.clip((grey - low) / max(high - low, 1e-12), 0.0, 1.0)
    return shown, {"function": "full_range", "low": float(low), "high": float(high)}


def _voi(
    grey: NDArray[np.float64], header: Header, index: int, flags: list[str]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Output 0..1. Where a header offers tables and windows, the tables win, as in pydicom's apply_voi_lut."""
    offered = header.voi_luts or header.windows
    if index >= len(offered):
        flags.append("window_index_clipped")
        index = len(offered) - 1
    if header.voi_luts:
        table = header.voi_luts[index]
        return _lookup(grey, table) / table.top, {"function": "LUT", "index": index, "low": 0, "high": table.top}
    center, width = header.windows[index]
    shown = apply_window(grey, center, width, header.voi_function)
    return shown, {"function": header.voi_function, "center": center, "width": width, "index": index}


def apply_window(
    grey: NDArray[np.float64], center: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT) with output range 0..1."""
    if function == "SIGMOID":
        # exp overflows beyond 709; the sigmoid is 0 or 1 to 16 digits long before.
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (grey - center) / width, -700.0, 700.0)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width <= 0:  # LINEAR of width 1 is a threshold
        return (grey > center).astype(np.float64)
    return np.clip((grey - center) / width + 0.5, 0.0, 1.0)


def _lookup(values: NDArray[Any], table: LookupTable) -> NDArray[np.float64]:
    index = np.clip(np.rint(values) - table.first, 0, len(table.entries) - 1).astype(np.int64)
    return table.entries[index].astype(np.float64)


def _is_flat(shown: NDArray[np.float64], extremes: tuple[int, int], itemsize: int) -> bool:
    # Every VOI function is monotone, so its ends tell. Less than one grey step of 8 bits apart: nothing can be seen.
    low, high = (shown[extreme % (1 << 8 * itemsize)] for extreme in extremes)
    return bool(abs(high - low) < 1 / 255)
