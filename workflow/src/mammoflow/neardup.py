"""Near-duplicate pictures: the same exposure in two files, re-encoded, mirrored, rescaled or cropped.

A published archive may hold an image twice under two patients, and two archives may share films. File hashes do not see
that once a file was saved anew. The first look is a perceptual hash (:mod:`mammoflow.fingerprint`), once per image; the
second, for the few candidates, aligns the two pictures and correlates what tells one woman's tissue from another's:
detail finer than the outline of the breast, inside both breasts.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mammoflow.fingerprint import Fingerprint, agreeing, candidates, fingerprint, shrink
from mammoflow.imaging.breast import breast_mask
from mammoflow.imaging.pool import run_jobs
from mammoflow.imaging.working_file import read_working_image

# Measured: copies reach 0.59 (cropped to 60 %) to 0.99, films of different women stay below 0.42.
MIN_CORRELATION = 0.5
MIN_OVERLAP = 0.25  # of the smaller breast
COLUMNS = ["first", "second", "correlation", "overlap", "scale", "mirrored"]


@dataclass(frozen=True)
class Match:
    """correlation: of the aligned detail, -1..1; overlap: the region compared, as a share of the smaller breast.

    scale: how much larger the second small copy shows the tissue; 1.33 where the second was cropped to 75 %.
    """

    correlation: float
    overlap: float
    scale: float
    mirrored: bool

    @property
    def duplicate(self) -> bool:
        return self.correlation >= MIN_CORRELATION and self.overlap >= MIN_OVERLAP


def find_near_duplicates(manifest: pd.DataFrame, store: Path, threads: int = 1) -> pd.DataFrame:
    """Search the images that take part for pictures of different groups that show the same exposure.

    manifest: finished table; pairs with one ``group_id`` are not compared, since no split can part them.
    Returns one row per pair, sorted: ``first``, ``second`` (dataset|image_id), ``correlation``, ``overlap``, ``scale``,
    ``mirrored`` (see :class:`Match`). Raises UserError where a working image is missing or unreadable.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    names = (part["dataset"] + "|" + part["image_id"]).to_numpy(dtype=object)
    paths = [Path(store) / path for path in part["image_path"]]
    groups = np.unique(part["group_id"].to_numpy(dtype=object), return_inverse=True)[1]
    # Only the codes are kept: the small copies of a large archive would fill the memory.
    # A BLAS that starts threads of its own for each small product costs more than the product.
    with threadpool_limits(1, "blas"):
        prints = run_jobs(lambda path: [("done", fingerprint(small_copy(path)))], paths, threads, "fingerprint")
    rows = []
    for first, second, mirrored in candidates(prints, groups):
        pair = prints[first], prints[second]
        match = compare(small_copy(paths[first]), small_copy(paths[second]), pair, mirrored)
        if match.duplicate:
            rows.append({"first": names[first], "second": names[second], **asdict(match)})
    found = pd.DataFrame(rows, columns=COLUMNS).sort_values(["first", "second", "correlation"])
    return found.drop_duplicates(["first", "second"], keep="last").reset_index(drop=True)


def small_copy(path: Path) -> NDArray[np.uint8]:
    """The small copy of a working image on disk; see :func:`mammoflow.fingerprint.shrink`."""
    return shrink(read_working_image(path))


def compare(
    first: NDArray[np.uint8], second: NDArray[np.uint8], prints: tuple[Fingerprint, Fingerprint], mirrored: bool
) -> Match:
    """Align two small copies by the patches on which they agree, and correlate what shows in both.

    prints: their fingerprints. mirrored: whether the second is to be mirrored. A pair that cannot be aligned gets the
    correlation 0.
    """
    one, other = prints[0], prints[1].flipped() if mirrored else prints[1]
    second = cv2.flip(second, 1) if mirrored else second
    rows, columns = agreeing(one, other)
    matrix = None
    if len(rows):
        cv2.setRNGSeed(0)
        matrix, _ = cv2.estimateAffinePartial2D(other.points[columns], one.points[rows], ransacReprojThreshold=3)
    if matrix is None:
        return Match(0.0, 0.0, float("nan"), mirrored)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale > 1:  # shrink the finer one rather than enlarge the coarser
        first, second, matrix = second, first, cv2.invertAffineTransform(matrix)
    correlation, overlap = _correlate(first, second, matrix, min(scale, 1 / scale))
    return Match(round(correlation, 4), round(overlap, 4), round(1 / scale, 4), mirrored)


def _correlate(
    still: NDArray[np.uint8], moving: NDArray[np.uint8], matrix: NDArray, scale: float
) -> tuple[float, float]:
    """Correlation of the detail where both breasts are, and that region's share of the smaller breast."""
    size = still.shape[::-1]
    smooth = cv2.GaussianBlur(moving.astype(np.float32), (0, 0), max(0.5 / scale, 0.5))
    moved = cv2.warpAffine(smooth, matrix, size, flags=cv2.INTER_LINEAR)
    masks = [_inside(still), _inside(moving)]
    moved_mask = cv2.warpAffine(masks[1], matrix, size, flags=cv2.INTER_NEAREST)
    both = (masks[0] & moved_mask).astype(bool)
    smaller = min(int(masks[0].sum()), int(masks[1].sum() * scale**2))
    if both.sum() < 100:
        return 0.0, 0.0
    one, other = _detail(still.astype(np.float32))[both], _detail(moved)[both]
    if min(one.std(), other.std()) < 1e-6:
        return 0.0, 0.0
    return float(np.corrcoef(one, other)[0, 1]), min(float(both.sum() / smaller), 1.0)


def _inside(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """0/1: the breast without its rim, whose course is much alike in all women."""
    mask = breast_mask(small)
    if mask is None:
        return np.ones_like(small)
    return cv2.erode(mask, np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)


def _detail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Structure of about 2 to 12 pixels, at equal local contrast."""
    band = cv2.GaussianBlur(image, (0, 0), 1) - cv2.GaussianBlur(image, (0, 0), 5)
    return band / (np.sqrt(cv2.GaussianBlur(band * band, (0, 0), 8)) + 0.5)
