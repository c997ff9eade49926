"""Drawn views whose lesions come with their outlines, for the archives that mark lesions by contours."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.phantom.anatomy import Lesion, Woman, draw_breast, place_lesion
from mammoflow.phantom.exam import Planned


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
    """Draw one view of a breast with the ``planned`` lesions; every view but CC as an MLO."""
    outline = "CC" if view == "CC" else "MLO"
    lesions: list[Lesion] = []
    for plan in planned:
        x, y, radius = place_lesion(rng, shape, laterality, outline, woman=woman, depth=plan.depth, avoid=lesions)
        lesions.append(Lesion(plan.kind, plan.malignant, x, y, radius, plan.contrast))
    text = f"{laterality} {view}" if marker else None
    drawn = draw_breast(shape, laterality, outline, woman.density, lesions, rng, woman=woman, marker=text)
    return Outlined(drawn.pixels, [border(mask) for mask in drawn.lesion_masks])


def border(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Border pixels of the largest part of a mask, int (N, 2) columns and rows, each a neighbour of the one before."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=len).reshape(-1, 2).astype(np.int64)
