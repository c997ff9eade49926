"""What an expert drew round a lesion, as rings of points, and the pixels inside them.

An outline is a list of closed rings, each (n, 2) float x, y. A pixel lies inside where it is inside an odd number of
rings, so that a mask of several parts, or with a hole, is one outline.
"""

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.geometry import Geometry

Rings = list[NDArray[np.float64]]
DRAWN = ("polygon", "circle", "mask")
FINER = 8  # OpenCV fills every pixel that an outline touches, so shares of pixels are counted on a finer grid
MASK_TOLERANCE_PX = 0.5  # of a stored pixel: how far a mask's simplified outline may lie from its border
_CIRCLE = np.linspace(0, 2 * np.pi, 48, endpoint=False)


def mask_points(marked: NDArray[np.bool_]) -> list[list[list[float]]]:
    """Rings round the marked pixels of (H, W), as plain lists for the column ``points``; empty for an empty mask.

    Positions, not indices: a single pixel at the origin gives a ring round (0.5, 0.5).
    """
    x, y, width, height = cv2.boundingRect(marked.astype(np.uint8))
    # On twice the pixels: OpenCV traces the centres of border pixels, which then lie near the border itself.
    doubled = marked[y : y + height, x : x + width].astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    kept = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, 2 * MASK_TOLERANCE_PX, True)
        ring = simple if len(simple) > 2 else contour
        if len(ring) > 2:
            kept.append(((ring.reshape(-1, 2) + 0.5) / 2 + [x, y]).tolist())
    return kept


def rings(finding: dict[str, Any], geometry: Geometry) -> Rings | None:
    """The outline of a finding (a row with None for NA) in pixels of the working image; None where none was drawn."""
    if finding["points"] is None or finding["geometry"] not in DRAWN:
        return None
    points = json.loads(finding["points"])
    if finding["geometry"] == "circle":
        (x, y), (radius,) = points
        points = [np.stack([x + radius * np.cos(_CIRCLE), y + radius * np.sin(_CIRCLE)], axis=1)]
    elif finding["geometry"] == "polygon":
        points = [points]
    frame = [geometry.out_width, geometry.out_height]
    moved = [geometry.forward(np.tile(np.asarray(ring, np.float64), 2))[:, :2] for ring in points]
    return [np.clip(ring, 0, frame) for ring in moved] or None


def fill(shape: tuple[int, int], outline: Sequence[NDArray[np.floating]]) -> tuple[tuple[slice, slice], NDArray]:
    """Where an outline lies in a frame of ``shape`` (H, W), and the share of each pixel there that is inside (0..1).

    The slices are empty where nothing of it lies in the frame.
    """
    points = np.concatenate(list(outline))
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int), [shape[1], shape[0]])
    if x1 <= x0 or y1 <= y0:
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
    fine = np.zeros(((y1 - y0) * FINER, (x1 - x0) * FINER), np.uint8)
    cv2.fillPoly(fine, [np.round((ring - [x0, y0]) * FINER - 0.5).astype(np.int32) for ring in outline], 255)
    share = cv2.resize(fine, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return (slice(y0, y1), slice(x0, x1)), share.astype(np.float32) / 255


def box_ring(box: Sequence[float]) -> NDArray[np.float64]:
    """The corners of xmin, ymin, xmax, ymax as a ring."""
    xmin, ymin, xmax, ymax = box
    return np.array([[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]], np.float64)


def area(outline: Sequence[NDArray[np.floating]]) -> float:
    """Area in square pixels, by the shoelace formula; holes run against their ring and are taken off."""
    total = 0.0
    for x, y in (ring.T for ring in outline):
        total += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)
