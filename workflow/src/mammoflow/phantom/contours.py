"""Drawn views whose lesions come with their outlines, for the archives that mark lesions by contours."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import Planned, draw_planned


class Outlined(NamedTuple):
    """pixels float32 (H, W) in 0..1, bright is dense; outlines: per lesion int (N, 2) of columns and rows.

    An outline runs along the lesion's border from pixel to neighbouring pixel (8-connected), origin top left.
    """

    pixels: NDArray[np.float32]
    outlines: list[NDArray[np.int64]]


def draw_outlined(
    shape: tuple[int, int],
    laterality: str,
    view: str,
    woman: Woman,
    planned: Sequence[Planned],
    rng: np.random.Generator,
    marker: bool = False,
) -> Outlined:
    """As :func:`mammoflow.phantom.exam.draw_planned`, with the lesions' outlines."""
    drawn = draw_planned(shape, laterality, view, woman, planned, rng, marker)
    return Outlined(drawn.pixels, [border(mask) for mask in drawn.lesion_masks])


def border(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Border pixels of the largest part of a mask, int (N, 2) columns and rows, each a neighbour of the one before."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=len).reshape(-1, 2).astype(np.int64)
