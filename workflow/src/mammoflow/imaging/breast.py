"""Where the breast is, and on which side its chest wall stands.

Works on a small copy (every n-th pixel, at most about 512 a side): the box agrees with the full-size one within n
pixels, which the search widens it by. Nothing is assumed of the background: film has a grey base, scratches, bright
edges, tape and labels, and scanners pad with black; digital images carry burnt-in labels and paddles.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

SMALL = 512  # pixels: longer side of the searched copy
_WHITE = 240  # grey of labels and bare film
_SMALLEST = 0.01  # share of the frame below which nothing is a breast


@dataclass(frozen=True)
class Breast:
    """box: x0, y0, x1, y1 in stored pixels, half-open; None where no breast was found.

    chest_wall: L or R, the side of the stored image on which the chest wall stands.
    certain: the two sides differ clearly.
    lopsided: share of the breast on the left half of its box minus that on the right half, -1..1.
    small: the searched copy in displayed grey; mask: the breast in it as 0/1, None where there is none.
    """

    box: tuple[int, int, int, int] | None
    chest_wall: str
    certain: bool
    lopsided: float = 0.0
    small: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((1, 1), np.uint8), repr=False, compare=False)
    mask: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)


def find(grey: Callable[[NDArray], NDArray[np.uint8]], pixels: NDArray[np.integer], margin: int) -> Breast:
    """Find the breast in stored ``pixels`` (rows, columns). ``grey`` turns stored values into displayed 8-bit grey.

    margin: pixels of the stored image kept around the breast on each side.
    """
    step = max(1, -(-max(pixels.shape) // SMALL))
    small = grey(np.ascontiguousarray(pixels[::step, ::step]))
    mask = breast_mask(small)
    if mask is None:
        return Breast(None, "L", False, small=small)
    x, y, width, height = cv2.boundingRect(mask)
    reach = step + margin
    rows, columns = pixels.shape
    box = (
        max(x * step - reach, 0),
        max(y * step - reach, 0),
        min((x + width - 1) * step + 1 + reach, columns),
        min((y + height - 1) * step + 1 + reach, rows),
    )
    lopsided = side_score(mask)
    # Below a twentieth the outline does not tell.
    return Breast(box, "L" if lopsided >= 0 else "R", abs(lopsided) > 0.05, lopsided, small, mask)


def breast_mask(small: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The breast as 0/1 in a small 8-bit image; None where nothing stands out from the background."""
    smooth = cv2.medianBlur(small, 5)
    if has_bright_background(smooth):
        smooth = 255 - smooth
    threshold = background_threshold(smooth)
    if threshold is None:
        return None
    above = (smooth > threshold).astype(np.uint8)
    # Film edges and tape are thin; labels touch the breast by a bridge at most.
    size = max(3, round(max(small.shape) / 40)) | 1
    square = np.ones((size, size), np.uint8)  # separable: five times as fast as a disc
    # Outside the frame counts as background, or a strip along the edge would survive at half the width.
    opened = cv2.morphologyEx(above, cv2.MORPH_OPEN, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    count, labels = cv2.connectedComponents(opened, connectivity=4)
    if count < 2:
        return None
    # OpenCV's statistics take twice the time of the labelling; mostly there is one component, which needs none.
    areas = np.bincount(labels.ravel()) if count > 2 else (0, cv2.countNonZero(opened))
    large = [label for label in range(1, count) if areas[label] >= _SMALLEST * small.size]
    if not large:
        return None
    # Bare film beside the breast is evenly white; it is taken only where there is nothing else.
    best = large[0]
    if len(large) > 1:
        best = max(large, key=lambda label: (not _is_blank(smooth[labels == label]), areas[label]))
    return (labels == best).astype(np.uint8)


def has_bright_background(smooth: NDArray[np.uint8]) -> bool:
    """Unprocessed exposures show air white: much of the frame at the brightest grey, and little at the darkest."""
    brightest = np.count_nonzero(smooth >= int(smooth.max()) - 3)
    darkest = np.count_nonzero(smooth <= int(smooth.min()) + 3)
    return brightest > 0.3 * smooth.size and brightest > 3 * darkest


def _is_blank(values: NDArray[np.uint8]) -> bool:
    return np.count_nonzero(values > _WHITE) > 0.8 * values.size


def background_threshold(smooth: NDArray[np.uint8]) -> float | None:
    """Grey above which a pixel is tissue; None for an image of one grey.

    Otsu's threshold falls between fat and gland as often as between air and skin, so it only tells the dark class; the
    threshold lies nearer to that class's commonest grey, which is the film's base or the digital zero (tissue is spread
    over many greys). Labels and bare film are white and would draw Otsu's threshold above the tissue: left out.
    """
    if smooth.min() == smooth.max():
        return None
    counts = np.bincount(smooth.ravel(), minlength=256)
    dark = smooth[smooth < _WHITE] if np.count_nonzero(counts[:_WHITE]) > 1 else smooth.ravel()
    otsu, _ = cv2.threshold(dark.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    base = int(np.argmax(counts[: int(otsu) + 1]))
    return base + 0.3 * (otsu - base)


def side_score(mask: NDArray[np.uint8]) -> float:
    """How lopsided the breast is in its box: 1 all left, -1 all right. It is tallest at the chest wall and tapers
    towards the nipple, so the sign tells the side of the chest wall."""
    x, _, width, _ = cv2.boundingRect(mask)
    heights = mask[:, x : x + width].sum(axis=0, dtype=np.int64)
    left, right = int(heights[: width // 2].sum()), int(heights[width - width // 2 :].sum())
    return (left - right) / max(left + right, 1)
