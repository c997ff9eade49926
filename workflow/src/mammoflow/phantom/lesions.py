"""Lesions as a radiologist describes them (ACR BI-RADS, 5th edition): shape, margin, density, morphology.

Benign: round or oval, circumscribed, evenly moderate; few coarse round calcifications; a faint asymmetry.
Malignant: irregular, spiculated, dense centre; many fine pleomorphic calcifications in a cluster; focal asymmetry.
All are added to the tissue, so that they show as well in a fatty breast as they hide in a dense one.
"""

import cv2
import numpy as np

PAINTED = 160


def draw(pixels: np.ndarray, lesion, rng: np.random.Generator) -> np.ndarray:
    """Add ``lesion`` to ``pixels`` (float32, in place) and return its mask, bool of the same shape.

    lesion: an :class:`mammoflow.phantom.anatomy.Lesion`. Raises KeyError for an unknown kind.
    """
    painter = _PAINTERS[lesion.kind]
    reach = int(np.ceil(lesion.radius * 1.6)) + 2
    column, row = round(lesion.x), round(lesion.y)
    # Painted on a square of bounded size and scaled up, for speed on full-size films.
    side = min(2 * reach + 1, 2 * PAINTED)
    step = (2 * reach + 1) / side
    grid = ((np.arange(side, dtype=np.float32) + 0.5) * step - reach - 0.5) / lesion.radius
    offset_x, offset_y = (column - lesion.x) / lesion.radius, (row - lesion.y) / lesion.radius
    y, x = np.meshgrid(grid + offset_y, grid + offset_x, indexing="ij")
    light, inside = painter(x, y, lesion.malignant, rng, step / lesion.radius)
    size = (2 * reach + 1, 2 * reach + 1)
    light = cv2.resize(light.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    inside = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)

    rows = slice(max(0, row - reach), min(pixels.shape[0], row + reach + 1))
    columns = slice(max(0, column - reach), min(pixels.shape[1], column + reach + 1))
    here = np.s_[
        rows.start - row + reach : rows.stop - row + reach,
        columns.start - column + reach : columns.stop - column + reach,
    ]
    pixels[rows, columns] += lesion.contrast * light[here]
    mask = np.zeros(pixels.shape, dtype=bool)
    mask[rows, columns] = inside[here]
    return mask


def _wavy(angle: np.ndarray, rng: np.random.Generator, harmonics: range, amount: float) -> np.ndarray:
    """1 + random harmonics of the angle, of standard deviation about ``amount``."""
    wave = np.zeros_like(angle)
    for k in harmonics:
        wave += rng.normal() / np.sqrt(len(harmonics)) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    return 1 + amount * np.sqrt(2) * wave


def _soft(values: np.ndarray, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(-values / width, -30, 30)))


def _mass(x, y, malignant, rng, pixel):
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if not malignant:
        squeeze = rng.uniform(0.72, 0.98)
        rho, angle = np.hypot(u, v / squeeze), np.arctan2(v / squeeze, u)
        gap = np.clip(_wavy(angle, rng, range(2, 5), 0.03), 0.85, 1.0) * 0.97 - rho
        dome = np.sqrt(np.clip(1 - rho**2, 0, None))
        light = _soft(gap, 0.03 + pixel / 3) * (0.13 + 0.09 * dome)
        halo = -0.02 * np.exp(-(((gap + 0.10) / 0.05) ** 2))  # thin dark line of a circumscribed margin
        return light + halo, gap > 0
    rho, angle = np.hypot(x, y), np.arctan2(y, x)
    core = 0.52 * np.clip(_wavy(angle, rng, range(2, 9), 0.16), 0.6, 1.5)
    light = _soft(core - rho, 0.07) * (0.17 + 0.15 * np.exp(-((rho / 0.35) ** 2)))
    light += _spicules(x, y, rng, int(rng.integers(18, 28)), 0.30, 0.15)
    return light, rho < np.clip(core * 1.6, 0.5, 1.0)


def _spicules(x, y, rng, count, start, strength):
    """Radial lines that thin out; (x, y) in radii."""
    light = np.zeros_like(x)
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.16, count):
        length, bend, dense = rng.uniform(0.65, 1.5), rng.normal(0, 0.16), rng.uniform(0.5, 1.1)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle) + bend * along**2
        width = 0.020 + 0.045 * np.clip(1 - along / length, 0, 1)
        on = (along > start) & (along < length)
        light = np.maximum(
            light, dense * on * (1 - np.clip(along / length, 0, 1) ** 2) * np.exp(-((across / width) ** 2))
        )
    return strength * light


def _calcification(x, y, malignant, rng, pixel):
    light = np.zeros_like(x)
    if malignant:
        spots = rng.normal(0, 0.36, (int(rng.integers(28, 46)), 2))
        spots = spots / np.maximum(1, np.hypot(*spots.T) / 0.9)[:, None]
        light += 0.035 * np.exp(-(x**2 + y**2) / 0.35)
        sizes, peaks = rng.uniform(0.030, 0.062, len(spots)), rng.uniform(0.25, 0.60, len(spots))
        stretch = rng.uniform(1.0, 2.6, len(spots))
    else:
        spots = rng.uniform(-0.55, 0.55, (int(rng.integers(1, 5)), 2))
        sizes, peaks = rng.uniform(0.08, 0.17, len(spots)), rng.uniform(0.30, 0.45, len(spots))
        stretch = np.ones(len(spots))
    for (cx, cy), size, peak, longer in zip(spots, sizes, peaks, stretch, strict=True):
        turn = rng.uniform(0, np.pi)
        u = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / longer
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        gap = max(size, 0.6 * pixel) - np.hypot(u, v)
        spot = peak * _soft(gap, 0.012 + pixel / 4)
        if not malignant and rng.random() < 0.4:  # lucent centre
            spot *= 1 - 0.5 * _soft(gap - 0.55 * size, 0.02 + pixel / 4)
        light = np.maximum(light, spot)
    near = np.min([np.hypot(x - cx, y - cy) - size for (cx, cy), size in zip(spots, sizes, strict=True)], axis=0)
    return light, _filled(near < 0.16, pixel)


def _filled(inside: np.ndarray, pixel: float) -> np.ndarray:
    """The convex outline an annotator would draw around scattered spots."""
    points = np.argwhere(inside)[:, ::-1].astype(np.int32)
    canvas = np.zeros(inside.shape, dtype=np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(points), 1)
    return canvas.astype(bool)


def _architectural_distortion(x, y, malignant, rng, pixel):
    rho = np.hypot(x, y)
    count = int(rng.integers(18, 28)) if malignant else int(rng.integers(7, 12))
    light = _spicules(x, y, rng, count, 0.10 if malignant else 0.25, 0.20 if malignant else 0.13)
    # A radial scar has a lucent centre; a carcinoma pulls tissue into a small dense knot.
    light += (0.12 if malignant else -0.05) * np.exp(-((rho / 0.25) ** 2))
    return light, rho < 0.9


def _asymmetry(x, y, malignant, rng, pixel):
    rho, angle = np.hypot(x, y), np.arctan2(y, x)
    edge = 0.75 * np.clip(_wavy(angle, rng, range(2, 6), 0.15), 0.6, 1.3)
    width = 0.08 if malignant else 0.20
    peak = 0.22 if malignant else 0.12
    light = peak * _soft(edge - rho, width) * (1 + 0.3 * np.cos(5 * x + rng.uniform(0, 6)) * np.cos(4 * y))
    return light, rho < np.clip(edge, None, 1.0)


_PAINTERS = {
    "mass": _mass,
    "calcification": _calcification,
    "architectural_distortion": _architectural_distortion,
    "asymmetry": _asymmetry,
}
