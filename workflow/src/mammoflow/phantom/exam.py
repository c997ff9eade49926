"""One woman's exam, drawn: the same lesions in both views of a breast, with their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mammoflow.phantom.anatomy import Lesion, View, Woman, draw_breast, place_lesion

KIND_SHARES = {"mass": 0.48, "calcification": 0.28, "architectural_distortion": 0.12, "asymmetry": 0.12}


@dataclass(frozen=True)
class Planned:
    """A lesion before it is drawn; ``depth`` (0 nipple, 1 chest wall) is what the views of a breast share."""

    kind: str
    malignant: bool
    depth: float
    contrast: float


class Drawn(NamedTuple):
    """pixels float32 (H, W) in 0..1, bright is dense; boxes: per lesion ``(xmin, ymin, xmax, ymax)``, half-open px."""

    pixels: np.ndarray
    boxes: list[tuple[int, int, int, int]]


def plan_lesion(rng: np.random.Generator, malignant: bool) -> Planned:
    """A random lesion of the wanted truth."""
    kind = str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
    return Planned(kind, malignant, float(rng.uniform(0.25, 0.7)), float(rng.uniform(0.85, 1.25)))


def draw_planned(
    shape: tuple[int, int],
    laterality: str,
    view: str,
    woman: Woman,
    planned: Sequence[Planned],
    rng: np.random.Generator,
    marker: bool = False,
) -> View:
    """Draw one view of a breast; every view but CC (ML, LM, AT, ...) as an MLO. ``marker`` adds letters of the side."""
    outline = "CC" if view == "CC" else "MLO"
    lesions: list[Lesion] = []
    for plan in planned:
        x, y, radius = place_lesion(rng, shape, laterality, outline, woman=woman, depth=plan.depth, avoid=lesions)
        lesions.append(Lesion(plan.kind, plan.malignant, x, y, radius, plan.contrast))
    text = f"{laterality} {view}" if marker else None
    return draw_breast(shape, laterality, outline, woman.density, lesions, rng, woman=woman, marker=text)


def draw_view(
    shape: tuple[int, int],
    laterality: str,
    view: str,
    woman: Woman,
    planned: Sequence[Planned],
    rng: np.random.Generator,
    marker: bool = False,
) -> Drawn:
    """As :func:`draw_planned`, with the lesions' boxes."""
    drawn = draw_planned(shape, laterality, view, woman, planned, rng, marker)
    return Drawn(drawn.pixels, [_box(mask) for mask in drawn.lesion_masks])


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
