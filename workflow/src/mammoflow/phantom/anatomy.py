"""Drawn mammograms: the anatomy that every synthetic archive shares.

Three things to know:

``woman = Woman.draw(rng, density="C")``
    What both breasts and all views of one woman share: density, texture, breast size and droop.
``x, y, radius = place_lesion(rng, shape, "L", "MLO", woman=woman, depth=0.4)``
    A place inside the breast, clear of the pectoral muscle and the skin. Pass the same ``depth`` for the CC and the
    MLO view of one lesion: the distance from the nipple is what the two projections have in common.
``view = draw_breast(shape, "L", "MLO", woman.density, [Lesion("mass", True, x, y, radius)], rng, woman=woman)``
    ``view.pixels`` float32 0..1, bright is dense, background exactly 0; ``view.lesion_masks`` and
    ``view.breast_mask`` are bool arrays of the same shape.

``shape`` is (height, width) in pixels, of any size from about 200x150. The chest wall of a LEFT breast lies at the LEFT
image edge and that of a RIGHT breast at the RIGHT edge, as most archives store them; ``chest_wall="left"|"right"``
overrides that and must be the same in both calls. Everything is a function of its arguments and the state of ``rng``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from mammoflow.phantom import lesions as drawing
from mammoflow.phantom import tissue

DENSITIES = {"A": 0.10, "B": 0.35, "C": 0.62, "D": 0.88}
KINDS = ("mass", "calcification", "architectural_distortion", "asymmetry")


@dataclass(frozen=True)
class Lesion:
    """One lesion in the pixels of the image it is drawn on.

    kind: one of ``KINDS``.  x, y, radius: pixels, top-left origin, of the drawn image.  contrast: 1 is typical, 0.6 is
    subtle, 1.3 is obvious.
    """

    kind: str
    malignant: bool
    x: float
    y: float
    radius: float
    contrast: float = 1.0


@dataclass(frozen=True)
class Woman:
    """What all views of one woman share. The defaults are an average breast; :meth:`draw` varies them.

    density: share of dense tissue, 0..1.  size: reach of the nipple, as a share of the image's width.  height: half
    height of the breast at the chest wall, as a share of the image's height.  droop: 0 firm to 1 ptotic.
    roughness: exponent of the amplitude spectrum 1/f**roughness.  seed: her own texture.
    """

    density: float = 0.35
    size: float = 0.72
    height: float = 0.40
    droop: float = 0.5
    roughness: float = 1.35
    seed: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator, density: float | str | None = None) -> "Woman":
        """A random woman. ``density`` as a share or as ACR letter A..D; None draws it (A 10, B 40, C 40, D 10 %)."""
        if density is None:
            density = str(rng.choice(list(DENSITIES), p=[0.1, 0.4, 0.4, 0.1]))
        return cls(
            density=density_share(density) + float(rng.uniform(-0.06, 0.06)),
            size=float(rng.uniform(0.58, 0.80)),
            height=float(rng.uniform(0.38, 0.46)),
            droop=float(rng.uniform(0, 1)),
            roughness=float(rng.uniform(1.2, 1.55)),
            seed=int(rng.integers(2**31)),
        )


@dataclass(frozen=True)
class View:
    """A drawn mammogram. pixels: float32 (H, W) in 0..1.  lesion_masks: bool (H, W), in the order of the lesions."""

    pixels: np.ndarray
    breast_mask: np.ndarray
    lesion_masks: list[np.ndarray] = field(default_factory=list)


def draw_age(rng: np.random.Generator, malignant: bool) -> int:
    """Age in years, 34..88: women with cancer are four years older on average, so that age informs, but little."""
    return int(np.clip(round(rng.normal(60 if malignant else 56, 11)), 34, 88))


class Outline(NamedTuple):
    """The breast in its own frame, chest wall at x = 0 (px).

    edge: float (H,), where the breast ends in each row.  nipple: (x, y).  muscle: (x at the top, y at the chest wall)
    of the pectoral muscle's border on an MLO view, None on a CC view.
    """

    edge: np.ndarray
    nipple: tuple[float, float]
    muscle: tuple[float, float] | None


def density_share(density: float | str) -> float:
    """Dense share 0..1 of an ACR letter, or the number itself."""
    return DENSITIES[density] if isinstance(density, str) else float(density)


def outline(shape: tuple[int, int], laterality: str, view: str, woman: Woman) -> Outline:
    """Skin line, nipple and muscle of one view. The same arguments give the same outline.

    Raises ValueError for a laterality other than L, R and a view other than CC, MLO.
    """
    if laterality not in ("L", "R") or view not in ("CC", "MLO"):
        raise ValueError(f"laterality {laterality!r}, view {view!r}: expected L or R, CC or MLO")
    height, width = shape
    own = np.random.default_rng((woman.seed, laterality == "R", view == "MLO"))
    reach = width * woman.size * own.uniform(0.96, 1.04)
    rows = np.arange(height) + 0.5
    if view == "CC":
        centre, half = height * own.uniform(0.47, 0.53), height * woman.height
        t = np.abs(rows - centre) / half
        power = own.uniform(1.8, 2.3)
        edge = reach * np.clip(1 - t**power, 0, None) ** (1 / power)
        return Outline(edge + _nipple(rows, centre, reach, height), (reach, centre), None)
    # MLO: an S-curve from the axilla to the nipple, a quarter ellipse below it, and the fold onto the abdomen.
    nipple = height * (0.52 + 0.12 * woman.droop + own.uniform(-0.02, 0.02))
    axilla = reach * own.uniform(0.60, 0.75)
    below = (0.26 + 0.10 * woman.droop) * height * woman.height / 0.40
    below = min(below, 0.93 * height - nipple)
    rise = np.clip((nipple - rows) / nipple, 0, 1) ** (0.95 + 0.35 * woman.droop)
    upper = axilla + (reach - axilla) * (0.5 + 0.5 * np.cos(np.pi * rise))
    lower = reach * np.sqrt(np.clip(1 - ((rows - nipple) / below) ** 2, 0, None))
    abdomen = own.uniform(0.02, 0.16) * reach * np.clip((rows - nipple) / (height - nipple), 0, 1)
    edge = np.where(rows < nipple, upper, np.maximum(lower, abdomen))
    edge = gaussian_filter1d(edge, height / 90, mode="nearest") + _nipple(rows, nipple, reach, height)
    muscle = (axilla * own.uniform(0.62, 0.82), height * own.uniform(0.48, 0.70))
    return Outline(edge, (reach, nipple), muscle)


def _nipple(rows: np.ndarray, centre: float, reach: float, height: int) -> np.ndarray:
    """The nipple's bulge (px per row)."""
    return 0.025 * reach * np.exp(-(((rows - centre) / (0.014 * height)) ** 2))


def chest_side(laterality: str, chest_wall: str | None) -> str:
    """The image edge of the chest wall: the override, else left for L and right for R."""
    return chest_wall or {"L": "left", "R": "right"}[laterality]


def place_lesion(
    rng: np.random.Generator,
    shape: tuple[int, int],
    laterality: str,
    view: str,
    *,
    woman: Woman = Woman(),
    radius: float | None = None,
    depth: float | None = None,
    chest_wall: str | None = None,
    avoid: Sequence[Lesion] = (),
) -> tuple[float, float, float]:
    """(x, y, radius) in px of a lesion that lies wholly inside the breast, off the muscle and off ``avoid``.

    radius: px; default 8 to 14 % of the breast's reach.  depth: 0 at the nipple to 1 at the chest wall; default random.
    Where the wanted radius fits nowhere, the roomiest place is taken and the radius shrinks to it.
    """
    shape_of_breast = outline(shape, laterality, view, woman)
    reach, nipple_y = shape_of_breast.nipple
    radius = float(reach * rng.uniform(0.08, 0.14)) if radius is None else float(radius)
    depth = float(rng.uniform(0.2, 0.75)) if depth is None else float(depth)
    step = max(1, min(shape) // 150)
    rows, columns = np.meshgrid(np.arange(0, shape[0], step), np.arange(0, shape[1], step), indexing="ij")
    allowed = columns < shape_of_breast.edge[rows]
    if shape_of_breast.muscle:
        allowed &= columns / shape_of_breast.muscle[0] + rows / shape_of_breast.muscle[1] > 1
    side = chest_side(laterality, chest_wall)
    for other in avoid:
        x = other.x if side == "left" else shape[1] - 1 - other.x
        allowed &= np.hypot(columns - x, rows - other.y) > other.radius
    # A frame of "outside" keeps the circle inside the image as well.
    room = cv2.distanceTransform(np.pad(allowed, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1] * step
    fits = room > radius * 1.15 + step
    if not fits.any():
        fits = room >= room.max()
        radius = float(room.max() / 1.15)
    distance = np.hypot(columns - reach, rows - nipple_y) / reach
    weight = np.where(fits, np.exp(-0.5 * ((distance - depth) / 0.06) ** 2) + 1e-6, 0).ravel()
    chosen = rng.choice(weight.size, p=weight / weight.sum())
    x, y = float(columns.ravel()[chosen]), float(rows.ravel()[chosen])
    return (x if side == "left" else shape[1] - 1 - x), y, radius


def draw_breast(
    shape: tuple[int, int],
    laterality: str,
    view: str,
    density: float | str,
    lesions: Sequence[Lesion],
    rng: np.random.Generator,
    *,
    woman: Woman = Woman(),
    marker: str | None = None,
    marker_style: str = "letters",
    chest_wall: str | None = None,
) -> View:
    """Draw one mammogram.

    density: 0..1 or ACR letter (usually ``woman.density``).  marker: text such as ``"R MLO"``, drawn in the top corner
    away from the chest wall, ``marker_style`` "letters" (bright on black) or "plate" (dark on a bright plate); None
    draws none.  rng: film grain and the lesions' details; the tissue itself comes from ``woman``.
    """
    side = chest_side(laterality, chest_wall)
    breast = outline(shape, laterality, view, woman)
    texture_seed = (woman.seed, laterality == "R", view == "MLO")
    pixels, mask = tissue.draw(shape, breast, density_share(density), woman.roughness, texture_seed)
    if side == "right":
        pixels, mask = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    masks = [drawing.draw(pixels, lesion, rng) & mask for lesion in lesions]
    tissue.add_grain(pixels, rng)
    np.clip(pixels, 0, 1, out=pixels)
    pixels[~mask] = 0
    if marker:
        tissue.add_marker(pixels, mask, marker, marker_style, "right" if side == "left" else "left", rng)
    return View(pixels, mask, masks)
