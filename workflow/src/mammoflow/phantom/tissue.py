"""Breast tissue as grey: fat, fibroglandular tissue, skin line, pectoral muscle, film grain, side marker.

Mammograms have a power-law spectrum (amplitude about 1/f to 1/f**1.5; Burgess et al., Med Phys 28:419, 2001). The noise
is sampled in polar coordinates around the nipple, so that strands and ducts run towards it as they do in a breast.
Tissue is composed on a grid of at most ``GRID`` pixels a side and scaled up; grain and small lesions are added at full
size.
"""

import cv2
import numpy as np
from scipy import fft

GRID = 896
NOISE = 512


def power_law_noise(rng: np.random.Generator, exponent: float, size: int = NOISE) -> np.ndarray:
    """Periodic float32 (size, size) noise, mean 0, standard deviation 1, amplitude spectrum 1/f**exponent.

    The spectrum is flat below four cycles per tile: a slower wave would make one breast of a woman fatty and the other
    dense.
    """
    frequency = np.hypot(*np.meshgrid(fft.fftfreq(size), fft.rfftfreq(size), indexing="ij")).astype(np.float32)
    gain = np.maximum(frequency, 4 / size) ** -exponent
    gain[0, 0] = 0
    spectrum = fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * gain
    noise = fft.irfft2(spectrum, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


def _soft_step(values: np.ndarray, width: float) -> np.ndarray:
    """0 below -width, 1 above +width, smooth between."""
    t = np.clip(values / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def draw(
    shape: tuple[int, int],
    breast,
    density: float,
    roughness: float,
    seed: tuple[int, bool, bool],
) -> tuple[np.ndarray, np.ndarray]:
    """(pixels float32 0..1, mask bool) of a breast without lesions, chest wall at the left edge.

    breast: an :class:`mammoflow.phantom.anatomy.Outline`.  seed: (woman, is right, is MLO); both breasts of a woman
    share a part of their noise, as their parenchymal patterns resemble each other.
    """
    height, full_width = shape
    width = min(full_width, int(np.ceil(breast.edge.max())) + 2)  # no work on the empty side of the film
    scale = min(1.0, GRID / max(height, width))
    h, w = round(height * scale), round(width * scale)
    edge = np.interp((np.arange(h) + 0.5) / scale, np.arange(height) + 0.5, breast.edge).astype(np.float32) * scale
    x = np.arange(w, dtype=np.float32)[None, :] + 0.5
    y = np.arange(h, dtype=np.float32)[:, None] + 0.5
    reach, nipple_y = breast.nipple[0] * scale, breast.nipple[1] * scale

    # Depth below the skin; the chest wall and the image's edges are cuts, not skin.
    inside = (x < edge[:, None]).astype(np.uint8)
    inside = cv2.copyMakeBorder(inside, 40, 40, 40, 0, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[40:-40, 40:]
    fat_layer = _soft_step(depth - 0.09 * reach, 0.05 * reach)

    # Polar coordinates with their origin in front of the nipple: strands converge without meeting in one point.
    # The angle is measured from the vertical: it has no jump inside the breast.
    down, back = np.broadcast_to(y - nipple_y, (h, w)), np.broadcast_to(1.25 * reach - x, (h, w))
    radius, angle = cv2.cartToPolar(np.ascontiguousarray(down), np.ascontiguousarray(back))
    radius /= reach
    shared, own, strands = _noise(seed, roughness)
    clumps = _sample(0.7 * shared + 0.7 * own, radius, angle, 170, 170)
    fibres = _sample(strands, radius, angle, 100, 330)
    septa = _sample(shared - own, radius, angle, 90, 150)

    # Dense tissue: a cone behind the nipple that widens with density and leaves a layer of fat under the skin.
    cone_x = (x - reach * (0.62 - 0.10 * density)) / (reach * (0.24 + 0.15 * density))
    cone_y = (y - nipple_y + 0.03 * h) / (h * (0.12 + 0.12 * density))
    cone = np.exp(-0.5 * cone_x**2) * np.exp(-0.5 * cone_y**2)
    muscle = _muscle(breast.muscle, x / scale, y / scale) if breast.muscle else None
    gland = _soft_step(cone * (0.62 + 0.70 * density) + 0.24 * clumps * (0.3 + cone) - 0.50, 0.36) * fat_layer
    if muscle is not None:
        gland *= 1 - muscle[0]

    tone = 0.32 + 0.020 * clumps + 0.010 * fibres
    tone += gland * (0.15 + 0.16 * density) * (1 + 0.20 * fibres + 0.24 * clumps)
    # Cooper's ligaments, ducts and vessels: thin lines where smooth noise crosses zero.
    tone += 0.055 * np.exp(-((septa / 0.05) ** 2)) * (0.5 + 0.5 * cone) * fat_layer
    tone += 0.045 * np.exp(-((fibres / 0.10) ** 2)) * cone * fat_layer
    tone *= 1 - 0.75 * np.exp(-depth / (0.055 * reach))  # the compressed breast thins towards its rim
    tone += 0.05 * np.exp(-(((depth - 0.008 * reach) / (0.006 * reach)) ** 2))  # skin line
    if muscle is not None:
        wedge, inwards = muscle
        tone += wedge * (0.50 + 0.20 * inwards + 0.018 * fibres + 0.012 * clumps - 0.85 * tone)
    tone *= _soft_step(depth - 1.5, 1.5)

    pixels = np.zeros(shape, dtype=np.float32)
    pixels[:, :width] = cv2.resize(np.clip(tone, 0.02, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    mask = np.arange(full_width, dtype=np.float32)[None, :] + 0.5 < breast.edge[:, None].astype(np.float32)
    pixels[~mask] = 0
    return pixels, mask


def _noise(seed: tuple[int, bool, bool], roughness: float) -> list[np.ndarray]:
    woman, right, oblique = seed
    sources = [(woman, 10, oblique), (woman, 11, oblique, right), (woman, 12, oblique, right)]
    exponents = [roughness, roughness, roughness - 0.25]
    return [
        power_law_noise(np.random.default_rng(source), exponent)
        for source, exponent in zip(sources, exponents, strict=True)
    ]


def _sample(noise: np.ndarray, radius: np.ndarray, angle: np.ndarray, along: float, across: float) -> np.ndarray:
    """Sample periodic noise at (radius, angle); ``along``/``across`` are its pixels per breast reach and per radian."""
    return cv2.remap(noise, radius * along, angle * across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _muscle(border: tuple[float, float], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(wedge, inwards), both 0..1, of the pectoral muscle: a slightly convex triangle; x, y and border in one unit."""
    u, v = x / border[0], y / border[1]
    inwards = 1 - (u + v - 0.22 * u * v)
    return _soft_step(inwards - 0.02, 0.05), np.clip(inwards, 0, 1)


def add_grain(pixels: np.ndarray, rng: np.random.Generator, amount: float = 0.010) -> None:
    """Film grain in place: white noise, slightly blurred. A tile is repeated, for speed on full-size films."""
    tile = rng.standard_normal((512, 512), dtype=np.float32)
    tile = cv2.GaussianBlur(tile, (3, 3), 0.6, borderType=cv2.BORDER_REFLECT_101)
    tile *= amount / tile.std()
    height, width = pixels.shape
    pixels += np.tile(tile, (-(-height // 512), -(-width // 512)))[:height, :width]


def add_marker(
    pixels: np.ndarray, mask: np.ndarray, text: str, style: str, corner: str, rng: np.random.Generator
) -> None:
    """Write the side marker in place, in the top ``corner`` ("left" or "right"); the breast is never written over."""
    height, width = pixels.shape
    lines = text.split()
    letter = max(8.0, 0.030 * width)
    font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(letter / 9))
    scale = letter / cv2.getTextSize("M", font, 1.0, 1)[0][1]
    box_w = max(cv2.getTextSize(line, font, scale, thick)[0][0] for line in lines) + letter
    box_h = letter * (1.5 * len(lines) + 0.8)
    left = width * 0.03 + rng.uniform(0, 0.02) * width
    left = left if corner == "left" else width - left - box_w
    top = height * rng.uniform(0.02, 0.05)
    ink = np.zeros(pixels.shape, dtype=np.uint8)
    if style == "plate":
        cv2.rectangle(ink, (int(left), int(top)), (int(left + box_w), int(top + box_h)), 247, -1)
    for number, line in enumerate(lines):
        origin = (int(left + letter / 2), int(top + letter * (1.5 * number + 1.6)))
        cv2.putText(ink, line, origin, font, scale, 12 if style == "plate" else 217, thick, cv2.LINE_AA)
    np.copyto(pixels, ink.astype(np.float32) / 255, where=(ink > 0) & ~mask)
