"""From a stored image to the working image: grey scale, breast box, orientation, size."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.datasets.catalog import IntensityRule
from mammoflow.imaging import breast, intensity, quality, reduced
from mammoflow.imaging.decode import StoredImage
from mammoflow.imaging.errors import NoSpacing
from mammoflow.imaging.geometry import Geometry
from mammoflow.imaging.header import Header
from mammoflow.imaging.layout import check_size


@dataclass(frozen=True)
class WorkingImage:
    """pixels: (height, width) uint8 or uint16, chest wall at the left edge.  window: what made the grey.

    measures: the numbers behind the flags.  spacing: mm between stored rows and columns, None where nobody knows.
    """

    pixels: NDArray[np.unsignedinteger]
    geometry: Geometry
    window: dict[str, Any]
    flags: tuple[str, ...]
    measures: quality.Measures
    spacing: tuple[float, float] | None


def make_working_image(
    image: StoredImage,
    settings: dict[str, Any],
    rule: IntensityRule,
    laterality: str | None = None,
    table_spacing: float | None = None,
) -> WorkingImage:
    """Apply the section ``convert`` of the configuration to one image.

    laterality: L or R of the table. Where the pixels contradict it they win, and the image is flagged; where they do
    not tell, it decides.
    table_spacing: mm per pixel by the archive's table, for images whose header does not say.
    Flags: see :data:`mammoflow.imaging.flags.FLAGS`. Raises NoSpacing where ``pixel_spacing_mm`` is set and
    nothing tells the spacing.
    """
    itemsize = image.pixels.dtype.itemsize
    extremes, facts = intensity.image_facts(image.pixels, image.header)
    depths = 8, settings["bits"]
    display, table = intensity.window_tables(image.header, itemsize, rule, depths, settings["window_index"], extremes)
    if settings["intensity"] == "raw":
        table = intensity.raw_table(image.header, itemsize)
    levels = image.levels
    found = breast.find(display.apply, image.pixels, -(-settings["margin_px"] >> levels))
    flip, orientation = orient(found, laterality)
    rows, columns = (image.header.rows, image.header.columns) if levels else image.pixels.shape
    whole = (0, 0, image.pixels.shape[1], image.pixels.shape[0])
    x0, y0, x1, y1 = found.box if found.box and settings["crop"] else whole
    pixels = table.apply(image.pixels[y0:y1, x0:x1])
    x0, y0, x1, y1 = x0 << levels, y0 << levels, min(x1 << levels, columns), min(y1 << levels, rows)
    spacing = image.header.spacing or (table_spacing and (table_spacing, table_spacing)) or None
    if settings["pixel_spacing_mm"] is None:
        height, width = working_size(y1 - y0, x1 - x0, settings["long_side"])
    else:
        height, width = size_at(y1 - y0, x1 - x0, spacing, settings["pixel_spacing_mm"])
    enlarged = height > y1 - y0 or width > x1 - x0
    if (height, width) != pixels.shape:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA)
    if flip:
        pixels = cv2.flip(pixels, 1)  # after the resize, which is symmetric: fewer pixels to move
    geometry = Geometry(
        stored_height=rows,
        stored_width=columns,
        crop_x0=x0,
        crop_y0=y0,
        crop_x1=x1,
        crop_y1=y1,
        flip=flip,
        scale_x=width / (x1 - x0),
        scale_y=height / (y1 - y0),
        pad_left=0,
        pad_top=0,
        out_height=height,
        out_width=width,
    )
    measures = quality.measure(found)
    flags = (*image.flags, *facts, *table.flags, *orientation, *quality.flags_of(measures))
    return WorkingImage(
        pixels, geometry, table.window, (*flags, *(("enlarged",) if enlarged else ())), measures, spacing
    )


def level_choice(settings: dict[str, Any], rule: IntensityRule) -> reduced.Choice | None:
    """With ``fast_j2k``: how many levels leave the breast's box (or the frame) at least ``long_side`` pixels long."""
    long_side = settings["long_side"]
    if not settings["fast_j2k"] or long_side is None or settings["pixel_spacing_mm"] is not None:
        return None

    def choose(header: Header, small: NDArray[np.unsignedinteger] | None, levels: int) -> int:
        longer = max(header.rows, header.columns)
        if settings["crop"] and small is not None:
            extremes, _ = intensity.image_facts(small, header)
            index = settings["window_index"]
            table = intensity.window_table(header, small.dtype.itemsize, rule, 8, index, extremes)
            box = breast.find(table.apply, small, 0).box
            if box is not None:
                # Without the pixels by which the search widens a box: the larger image's may be smaller by as many.
                longer = max(box[2] - box[0], box[3] - box[1]) - 4 << levels
        return max(longer // long_side, 1).bit_length() - 1

    return choose


def grey_table(
    image: StoredImage, settings: dict[str, Any], rule: IntensityRule, extremes: tuple[int, int]
) -> intensity.GreyTable:
    """The table that ``settings`` (intensity, bits, window_index) ask for. ``raw`` always gives 16 bits."""
    itemsize = image.pixels.dtype.itemsize
    if settings["intensity"] == "raw":
        return intensity.raw_table(image.header, itemsize)
    return intensity.window_table(image.header, itemsize, rule, settings["bits"], settings["window_index"], extremes)


def orient(found: breast.Breast, laterality: str | None) -> tuple[bool, tuple[str, ...]]:
    """Whether to mirror so that the chest wall comes to the left, and flags.

    In the usual orientation the left breast has its chest wall at the left edge of the picture, the right one at the
    right.
    """
    flags = []
    side = found.chest_wall
    if found.box is None:
        flags.append("no_breast_found")
    elif not found.certain:
        flags.append("orientation_uncertain")
    if laterality is not None:
        if found.box is None or not found.certain:
            side = laterality
        elif side != laterality:
            flags.append("laterality_disagrees")
    return side == "R", tuple(flags)


def working_size(height: int, width: int, long_side: int | None) -> tuple[int, int]:
    """Size after shrinking the longer side to ``long_side``; never larger than the crop, never below one pixel."""
    longer = max(height, width)
    if long_side is None or longer <= long_side:
        return height, width
    return max(1, round(height * long_side / longer)), max(1, round(width * long_side / longer))


def size_at(height: int, width: int, spacing: tuple[float, float] | None, wanted: float) -> tuple[int, int]:
    """Size at ``wanted`` mm per pixel, rounded to whole pixels (the geometry keeps the exact scales).

    spacing: mm between stored rows and columns. Raises NoSpacing without it, TooLarge for a size beyond any image.
    """
    if spacing is None:
        raise NoSpacing(
            "neither header nor table gives the pixel spacing: set convert.pixel_spacing_mm to null for this archive"
        )
    size = max(1, round(height * spacing[0] / wanted)), max(1, round(width * spacing[1] / wanted))
    check_size(*size)
    return size
