"""A perceptual hash of a picture that survives re-encoding, mirroring, rescaling and cropping.

:func:`fingerprint` takes the SIFT keypoints (Lowe, IJCV 2004) of a small copy, describes each without rotation, and
hashes it into a few codes by random projections (locality-sensitive hashing; Charikar, STOC 2002). Local patches
survive a crop, which a hash of the whole picture does not. Two images are :func:`candidates` where enough patches agree
on one shift and one scale; :mod:`mammoflow.neardup` then looks at the pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 192  # pixels: longer side of the copy that is hashed and compared
KEYPOINTS = 150  # strongest per image
BANDS, BITS = 6, 32  # codes per keypoint, bits per code; two patches meet where one whole code is equal
MAX_BUCKET = 32  # keypoints; a code that more share is a corner of every frame or a letter, and tells nothing
MIN_PATCHES = 9  # that agree on shift and scale. Unrelated films reach 7, copies cropped to 60 % start at 13
_SCALES = np.arange(-2, 2.01, 0.25)  # log2 of the scale between two copies
_SCALE_REACH, _SHIFT_REACH = 0.3, 12.0  # log2, and pixels of the small copy

_PROJECTIONS = np.random.default_rng(0).standard_normal((128, BANDS * BITS)).astype(np.float32)
_WEIGHTS = (np.uint32(1) << np.arange(BITS, dtype=np.uint32)).astype(np.uint32)
# A SIFT descriptor is 4 rows x 4 columns x 8 directions: the mirror image's has columns and directions reversed.
_MIRROR = np.arange(128).reshape(4, 4, 8)[:, ::-1, (4 - np.arange(8)) % 8].reshape(-1)


class Fingerprint(NamedTuple):
    """points: (n, 2) float32 x, y and sizes: (n,) float32, in pixels of the small copy, ``width`` wide.

    codes, mirrored: (n, BANDS) uint32 of the image and of its mirror image.
    """

    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    codes: NDArray[np.uint32]
    mirrored: NDArray[np.uint32]
    width: int

    def flipped(self) -> "Fingerprint":
        """The fingerprint of the mirror image."""
        points = self.points * np.float32([-1, 1]) + np.float32([self.width - 1, 0])
        return Fingerprint(points, self.sizes, self.mirrored, self.codes, self.width)


def shrink(image: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """The small copy, 8 bits, of a (height, width) uint8 or uint16 image. It is never enlarged."""
    height, width = image.shape
    scale = SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.convertScaleAbs(image, alpha=1 / 257) if image.dtype == np.uint16 else image


def fingerprint(small: NDArray[np.uint8]) -> Fingerprint:
    """Hash a small copy (see :func:`shrink`)."""
    # Mammograms are smooth: the usual contrast threshold would leave some without any keypoint.
    sift = cv2.SIFT_create(nfeatures=KEYPOINTS, contrastThreshold=0.003, edgeThreshold=20)
    found = {(point.pt, point.size): point for point in sift.detect(small, None)}
    for point in found.values():
        point.angle = 0  # copies are not turned, and upright patches tell more
    points, descriptors = sift.compute(small, list(found.values())) if found else ([], None)
    if not points:
        empty = np.zeros((0, BANDS), np.uint32)
        return Fingerprint(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), empty, empty, small.shape[1])
    return Fingerprint(
        np.float32([point.pt for point in points]),
        np.float32([point.size for point in points]),
        _codes(descriptors),
        _codes(descriptors[:, _MIRROR]),
        small.shape[1],
    )


def _codes(descriptors: NDArray[np.float32]) -> NDArray[np.uint32]:
    # The square root makes the large gradients of the skin line count less (Arandjelovic and Zisserman, CVPR 2012).
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    bits = (roots - roots.mean(axis=1, keepdims=True)) @ _PROJECTIONS > 0
    return bits.reshape(len(bits), BANDS, BITS).astype(np.uint32) @ _WEIGHTS


def candidates(prints: Sequence[Fingerprint], groups: NDArray[np.integer]) -> list[tuple[int, int, bool]]:
    """Pairs of images of which enough patches agree; the cost grows with the number of images, not of pairs.

    groups: (n_images,) what may look alike, such as a patient; pairs inside a group are not looked at.
    Returns ``(first, second, one of them is mirrored)``, first < second, sorted.
    """
    owner = np.repeat(np.arange(len(prints), dtype=np.int64), [len(one.points) for one in prints])
    if not len(owner):
        return []
    # Every image takes part as it is and as its mirror image.
    codes = np.concatenate([one.codes for one in prints] + [one.mirrored for one in prints])
    owner = np.concatenate([owner, owner])
    mirrored = np.arange(len(owner)) >= len(owner) // 2
    keys = [_meetings(codes[:, band], owner, mirrored, groups) for band in range(BANDS)]
    key, votes = np.unique(np.concatenate(keys), return_counts=True)
    found = []
    for value in key[votes >= MIN_PATCHES].tolist():
        first, second = divmod(value >> 1, len(prints))
        flip = bool(value & 1)
        if len(agreeing(prints[first], prints[second].flipped() if flip else prints[second])[0]):
            found.append((first, second, flip))
    return found


def _meetings(codes: NDArray, owner: NDArray, mirrored: NDArray, groups: NDArray) -> NDArray[np.int64]:
    """One number for each two patches of different groups with the same code.

    The number is (first image * n_images + second image) * 2 + mirrored.
    """
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    sizes = np.diff(np.r_[starts, len(codes)])
    order = order[np.repeat((sizes > 1) & (sizes <= MAX_BUCKET), sizes)]
    run = np.repeat(np.arange(len(sizes)), sizes)[np.repeat((sizes > 1) & (sizes <= MAX_BUCKET), sizes)]
    found = [np.zeros(0, np.int64)]
    for step in range(1, MAX_BUCKET):
        near = np.flatnonzero(run[step:] == run[:-step])
        if not len(near):
            break
        one, other = order[near], order[near + step]
        swap = owner[one] > owner[other]
        one, other = np.where(swap, other, one), np.where(swap, one, other)
        # Of two mirror images nothing new is learnt, and of first and second only the second is mirrored.
        wanted = ~mirrored[one] & (groups[owner[one]] != groups[owner[other]])
        one, other = one[wanted], other[wanted]
        found.append((owner[one] * len(groups) + owner[other]) * 2 + mirrored[other])
    return np.concatenate(found)


def agreeing(first: Fingerprint, second: Fingerprint) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Patches of both (indices, side by side) with a common code that agree on one shift and one scale.

    Two empty arrays where they are fewer than MIN_PATCHES.
    """
    rows, columns = np.nonzero((first.codes[:, None] == second.codes[None]).any(axis=2))
    ratio = np.log2(first.sizes[rows] / second.sizes[columns])
    best, most = np.zeros(0, np.intp), MIN_PATCHES - 1
    for scale in _SCALES:
        near = np.flatnonzero(np.abs(ratio - scale) < _SCALE_REACH)
        if len(near) <= most:
            continue
        shift = first.points[rows[near]] - 2**scale * second.points[columns[near]]
        close = (np.abs(shift[:, None] - shift[None]) < _SHIFT_REACH).all(axis=2)
        members = near[close[close.sum(axis=1).argmax()]]
        distinct = min(len(set(rows[members].tolist())), len(set(columns[members].tolist())))
        if distinct > most:
            best, most = members, distinct
    return rows[best], columns[best]
