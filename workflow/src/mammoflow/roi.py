"""Boxes of lesions, and the windows that are cut round them. Pure functions; all coordinates in stored pixels."""

import json
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.errors import EmptyMask, NoBox

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax, half-open

# A marked point has no extent. About 1 to 3 mm at the pixel sizes of film scans and digital units (42 to 200 um).
POINT_BOX_PX = 16


def roi_window(box: Box, shape: tuple[int, int], margin: float, min_size: int) -> tuple[int, int, int, int]:
    """The window x0, y0, x1, y1 (half-open, whole pixels) to cut round ``box``.

    shape: (height, width) of the image.  margin: border on each side as a share of the box's longer side.
    min_size: smallest side in pixels; the window grows about its centre. Where it would leave the frame it is moved
    inward, and cut only where the frame itself is smaller. It always contains the part of ``box`` inside the frame.
    """
    xmin, ymin, xmax, ymax = box
    border = margin * max(xmax - xmin, ymax - ymin)
    x0, x1 = _span(xmin - border, xmax + border, min_size, shape[1])
    y0, y1 = _span(ymin - border, ymax + border, min_size, shape[0])
    return x0, y0, x1, y1


def _span(low: float, high: float, min_size: int, size: int) -> tuple[int, int]:
    first, last = math.floor(low), math.ceil(high)
    lacking = min_size - (last - first)
    if lacking > 0:
        first -= lacking // 2
        last = first + min_size
    length = min(last - first, size)
    if first < 0 and last > size:
        return 0, size
    first = min(max(first, 0), size - length)
    return first, first + length


def fixed_window(
    box: Box, shape: tuple[int, int], height: int, width: int
) -> tuple[tuple[int, int, int, int], tuple[str, ...]]:
    """The window of ``height`` x ``width`` pixels about the centre of ``box``, moved inward at the frame's edges.

    Returns it as x0, y0, x1, y1 and flags: roi_smaller_than_asked where the frame is smaller than the window,
    lesion_exceeds_roi where the box does not fit into it.
    """
    x0, x1 = _about((box[0] + box[2]) / 2, width, shape[1])
    y0, y1 = _about((box[1] + box[3]) / 2, height, shape[0])
    flags = []
    if x1 - x0 < width or y1 - y0 < height:
        flags.append("roi_smaller_than_asked")
    if box[0] < x0 or box[1] < y0 or box[2] > x1 or box[3] > y1:
        flags.append("lesion_exceeds_roi")
    return (x0, y0, x1, y1), tuple(flags)


def _about(centre: float, length: int, size: int) -> tuple[int, int]:
    length = min(length, size)
    first = min(max(math.floor(centre - length / 2 + 0.5), 0), size - length)
    return first, first + length


def outline_mask(
    finding: dict[str, Any], box: Box, window: tuple[int, int, int, int], marked: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """The lesion inside ``window`` as 0/255, (y1 - y0, x1 - x0).

    marked: the archive's mask in the size of the stored image, for findings given as a mask. Else the polygon is filled
    (its outline counts as inside), the disc of a circle, or the whole ``box``: a pixel belongs to them by its centre.
    """
    x0, y0, x1, y1 = window
    if marked is not None:
        return np.where(marked[y0:y1, x0:x1] > 0, 255, 0).astype(np.uint8)
    points = json.loads(finding["points"]) if finding["points"] is not None else None
    if finding["geometry"] == "polygon" and points is not None and len(points) > 2:
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        # OpenCV's coordinates are those of pixel centres; four bits of fraction.
        corners = np.rint((np.asarray(points, dtype=np.float64) - (x0 + 0.5, y0 + 0.5)) * 16).astype(np.int32)
        return cv2.fillPoly(inside, [corners], 255, shift=4)
    y, x = np.arange(y0, y1)[:, None] + 0.5, np.arange(x0, x1)[None, :] + 0.5
    if finding["geometry"] == "circle" and points is not None:
        (cx, cy), (radius,) = points
        inside = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    else:
        inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    return np.where(inside, 255, 0).astype(np.uint8)


def clip_box(box: Box, shape: tuple[int, int]) -> tuple[Box, bool]:
    """``box`` cut to the frame, and whether that changed it. Raises NoBox where nothing of it lies inside."""
    xmin, ymin, xmax, ymax = box
    if not (xmin <= xmax and ymin <= ymax):  # written so that NaN is caught, too
        raise NoBox(f"the box {box} is inverted or not a number")
    clipped = (max(xmin, 0.0), max(ymin, 0.0), min(xmax, float(shape[1])), min(ymax, float(shape[0])))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise NoBox(f"the box {box} lies outside the image of {shape[0]} x {shape[1]} pixels")
    return clipped, clipped != box


def table_box(finding: dict[str, Any]) -> tuple[Box, tuple[str, ...]]:
    """Box of a finding from its columns (a dict with None for NA), and flags (point_box).

    The columns xmin..ymax win; else the polygon, circle or point of ``points``. Raises NoBox where there is neither.
    """
    corners = [finding[name] for name in ("xmin", "ymin", "xmax", "ymax")]
    if None not in corners:
        box = tuple(float(value) for value in corners)
    elif finding["points"] is not None:
        box = _points_box(finding["geometry"], finding["points"])
    else:
        raise NoBox(f"a finding of geometry {finding['geometry']} without a box, points or a mask")
    if box[2] == box[0] or box[3] == box[1]:
        x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, POINT_BOX_PX / 2
        return (x - half, y - half, x + half, y + half), ("point_box",)
    return box, ("point_box",) if finding["geometry"] == "point" else ()


def _points_box(geometry: str, text: str) -> Box:
    try:
        points = json.loads(text)
        if geometry == "circle":
            (x, y), (radius,) = points
            return float(x - radius), float(y - radius), float(x + radius), float(y + radius)
        xs, ys = zip(*points, strict=True)
        return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
    except (TypeError, ValueError):
        raise NoBox(f"the points of a {geometry} cannot be read: {text[:60]}") from None


def marked_pixels(
    mask: NDArray[np.integer], shape: tuple[int, int], lossy: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """A mask file's pixels as 0/1 in the size of an image of ``shape``, and flags (mask_resized).

    lossy: the mask went through JPEG, whose ringing leaves small values round the outline; half of the range counts.
    """
    marked = (mask > (np.iinfo(mask.dtype).max // 2 if lossy else 0)).astype(np.uint8)
    if marked.shape == shape:
        return marked, ()
    return cv2.resize(marked, shape[::-1], interpolation=cv2.INTER_NEAREST), ("mask_resized",)


def mask_box(marked: NDArray[np.uint8]) -> Box:
    """Bounding rectangle of the marked pixels. Raises EmptyMask where nothing is marked."""
    x, y, width, height = cv2.boundingRect(marked)
    if width == 0:
        raise EmptyMask(f"no pixel of the mask ({marked.shape[0]} x {marked.shape[1]}) is marked")
    return float(x), float(y), float(x + width), float(y + height)
