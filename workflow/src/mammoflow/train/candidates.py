"""From a map of probabilities to places: candidates, and which marked lesions they find."""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.lesions import IGNORE, TELLS_PATHOLOGY, Lesion

LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # of probability; below the last a map says nothing of a place
SHOULDER = 0.5  # of its peak: how far down a candidate's region reaches
MOST = 50  # candidates of an image
HOTTEST = 0.25  # share of a region whose mean is its score: its rim would only pull every region down


class Candidate(NamedTuple):
    """``score`` 0..1; ``x``, ``y`` the centre of mass and ``box`` xmin, ymin, xmax, ymax of the region, in pixels of
    the map. ``region``: its pixels in the map, as indices (rows, columns)."""

    score: float
    x: float
    y: float
    box: tuple[float, float, float, float]
    region: tuple[NDArray[np.intp], NDArray[np.intp]]


def candidates(probability: NDArray[np.floating]) -> list[Candidate]:
    """The hills of a map (h, w), highest score first, at most :data:`MOST`.

    The map is cut at falling :data:`LEVELS`. A connected region (8 neighbours) without an older candidate is a new one;
    it grows with the level down to half of its peak, unless it meets another. So two lesions on a warm ground stay two.
    Every map has a candidate: where nothing reaches the last level it is the highest pixel.
    """
    peaks: list[tuple[int, int]] = []
    regions: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for level in LEVELS:
        count, labels, boxes, _ = cv2.connectedComponentsWithStats((probability >= level).astype(np.uint8))
        owners: dict[int, list[int]] = {label: [] for label in range(1, count)}
        for number, peak in enumerate(peaks):
            owners[int(labels[peak])].append(number)
        for label, inside in owners.items():
            if len(inside) > 1 or (inside and level < SHOULDER * probability[peaks[inside[0]]]):
                continue
            left, top, width, height = boxes[label, :4]
            rows, columns = np.nonzero(labels[top : top + height, left : left + width] == label)
            region = rows + top, columns + left
            if inside:
                regions[inside[0]] = region
            else:
                best = int(probability[region].argmax())
                peaks.append((int(region[0][best]), int(region[1][best])))
                regions.append(region)
    if not regions:
        row, column = np.unravel_index(int(probability.argmax()), probability.shape)
        regions.append((np.array([row]), np.array([column])))
    found = [_candidate(probability, region) for region in regions]
    return sorted(found, key=lambda one: (-one.score, one.y, one.x))[:MOST]


def _candidate(probability: NDArray[np.floating], region: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Candidate:
    rows, columns = region
    values = probability[region].astype(float)
    hottest = np.sort(values)[-max(1, round(HOTTEST * len(values))) :]
    weights = values / values.sum() if values.sum() > 0 else np.full(len(values), 1 / len(values))
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return Candidate(
        float(hottest.mean()), float(weights @ (columns + 0.5)), float(weights @ (rows + 0.5)), box, region
    )


def is_target(lesion: Lesion, classes: str | None) -> bool:
    """Whether finding this lesion counts. ``classes``: the segmentation's class set, None for a map of malignancy.

    Maps that know malignancy look for malignant lesions, the others for any that their set can name.
    """
    if classes is None or classes in TELLS_PATHOLOGY:
        return lesion.malignant == 1 and (classes is None or lesion.value != IGNORE)
    return lesion.value != IGNORE


def is_excused(lesion: Lesion, classes: str | None) -> bool:
    """Whether pointing at this lesion counts neither as hit nor as false positive: its truth is not known."""
    return lesion.malignant is None if classes is None else lesion.value == IGNORE


def hits(x: float, y: float, lesions: Iterable[Lesion], classes: str | None) -> tuple[list[str], bool]:
    """The targets whose outline holds a point in packed pixels, and whether it is excused."""
    covering = [lesion for lesion in lesions if lesion.covers(x, y)]
    found = sorted(lesion.finding_id for lesion in covering if is_target(lesion, classes))
    return found, not found and any(is_excused(lesion, classes) for lesion in covering)
