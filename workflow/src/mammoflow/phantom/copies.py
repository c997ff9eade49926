"""Copies of a film as archives hold them by mistake: the same exposure saved anew, mirrored, rescaled or cropped.

Planted under another patient's name they are what the search for near-duplicates must find.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Film = NDArray[np.uint8]  # (height, width)


def reencode(film: Film) -> Film:
    """Through a JPEG of quality 60."""
    return cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


def flip(film: Film) -> Film:
    """The mirror image."""
    return cv2.flip(film, 1)


def rescale(film: Film) -> Film:
    """At 60 % of height and width."""
    return cv2.resize(film, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


def crop(film: Film) -> Film:
    """70 % of the breast's height and width, from its upper part: the chest wall and the lower breast are cut off."""
    rows, columns = np.nonzero(film > 20)
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top, columns.max() - left
    return film[top + int(0.1 * height) : top + int(0.8 * height), left + int(0.15 * width) : left + int(0.85 * width)]


def regrade(film: Film) -> Film:
    """Another grey scale: gamma 0.6."""
    return (255 * (film / 255) ** 0.6).astype(np.uint8)


def everything(film: Film) -> Film:
    """Cropped, mirrored, rescaled and saved anew."""
    return reencode(rescale(flip(crop(film))))


CHANGES = [reencode, flip, rescale, crop, regrade, everything]
