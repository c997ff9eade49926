"""The pixels of a pseudonymised image: corners blanked beside the breast, written without loss."""

from dataclasses import dataclass, replace

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLosslessSV1

from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging import breast, intensity, quality
from mammoflow.imaging.decode import StoredImage

BLANKS = ("corners", "outside", "none")
_REMAINS = 3  # strokes; specks and film edges have as many
_CLEARANCE = 7  # pixels of the small copy, about 1 % of the frame: the skin line is kept whole


class Refused(Exception):  # noqa: N818 - a fact about one image, as the words of its message are
    """This image cannot be pseudonymised safely; the message's first word is the reason in the counts."""


@dataclass(frozen=True)
class Blanking:
    """What to blank: ``corners`` (four rectangles of ``width`` x ``height``, shares of the frame), ``outside`` (all but
    the breast) or ``none``. The breast itself is never blanked.

    By default the corners meet: lines of a name and a date are longer than they look, and half a name is a name.
    """

    mode: str = "corners"
    width: float = 0.5
    height: float = 0.15


def find_breast(image: StoredImage) -> breast.Breast:
    """The breast as a reader of the stored image sees it."""
    extremes, _ = intensity.image_facts(image.pixels, image.header)
    display = intensity.window_table(image.header, image.pixels.dtype.itemsize, IntensityRule(), 8, extremes=extremes)
    return breast.find(display.apply, image.pixels, 0)


def blank_area(found: breast.Breast, shape: tuple[int, int], blanking: Blanking) -> NDArray[np.bool_]:
    """True for each stored pixel, (rows, columns), to blank. Raises Refused where no breast tells what must stay."""
    rows, columns = shape
    if blanking.mode == "none":
        return np.zeros(shape, bool)
    if found.mask is None:
        raise Refused("no_breast_found: what is breast and what is writing cannot be told apart")
    step = max(1, -(-max(shape) // breast.SMALL))
    kept = cv2.dilate(found.mask, np.ones((_CLEARANCE, _CLEARANCE), np.uint8))
    full = cv2.resize(kept, None, fx=step, fy=step, interpolation=cv2.INTER_NEAREST)[:rows, :columns]
    if blanking.mode == "outside":
        return full == 0
    area = np.zeros(shape, bool)
    high, wide = round(rows * blanking.height), round(columns * blanking.width)
    for down in (slice(0, high), slice(rows - high, rows)):
        for across in (slice(0, wide), slice(columns - wide, columns)):
            area[down, across] = True
    return area & (full == 0)


def check_lesions(area: NDArray[np.bool_], boxes: list[tuple[float, float, float, float]]) -> None:
    """Raise Refused where a pixel to blank lies in a marked lesion. boxes: xmin, ymin, xmax, ymax, half-open."""
    for xmin, ymin, xmax, ymax in boxes:
        part = area[max(int(ymin), 0) : max(int(np.ceil(ymax)), 0), max(int(xmin), 0) : max(int(np.ceil(xmax)), 0)]
        if part.any():
            raise Refused(f"lesion_under_blank: {int(part.sum())} pixels of a marked lesion would be blanked")


def stored_values(image: StoredImage) -> NDArray[np.integer]:
    """The stored values without anything in the unused bits, where older files hide overlays (PS3.5 8.1.2).

    Raises Refused where values lie beyond BitsStored: which bits are the image's is then unknown.
    """
    header, itemsize = image.header, image.pixels.dtype.itemsize
    values = intensity.stored_values(header, itemsize)[intensity.as_index(image.pixels)]
    low, high = header.stored_range
    if int(values.min()) < low or int(values.max()) > high:
        raise Refused("exceeds_bits_stored: the pixels hold values beyond BitsStored")
    return values.astype(f"{'i' if header.signed else 'u'}{itemsize}")


def blanked(image: StoredImage, area: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The stored values with ``area`` at the darkest displayed value that the image holds."""
    values = stored_values(image)
    if area.any():
        values[area] = values.max() if image.header.photometric == "MONOCHROME1" else values.min()
    return values


def still_written(image: StoredImage) -> bool:
    """Whether there still seems to be writing beside the breast, be it a side marker alone: a person must look."""
    return quality.measure(find_breast(image)).text_score > _REMAINS


def add_pixels(ds: Dataset, values: NDArray[np.integer], bits_stored: int, compress: bool) -> UID:
    """Put the pixels and their layout into ``ds``. Returns the transfer syntax: Explicit VR Little Endian, or with
    ``compress`` JPEG Lossless (process 14, selection value 1), which all viewers read."""
    bits = 8 * values.dtype.itemsize
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    if compress and values.dtype.kind == "u":  # the codec knows no sign
        stream = imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=bits_stored)
        ds.add_new("PixelData", "OB", encapsulate([stream]))
        ds["PixelData"].is_undefined_length = True
        return JPEGLosslessSV1
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", raw + b"\0" * (len(raw) % 2))
    return ExplicitVRLittleEndian


def with_values(image: StoredImage, values: NDArray[np.integer]) -> StoredImage:
    """The same image with other stored values."""
    return replace(image, pixels=values)
