"""Numbers about one image that a person can filter by, and the flags drawn from them.

All are taken from the small displayed copy that the search for the breast works on (at most 512 pixels a side, 8-bit
grey as a reader would see it), so they cost a few milliseconds and mean the same for every vendor and bit depth. None
of them decides anything by itself: the ledger carries number and flag, ``manifest.exclude_flags`` acts.
"""

from dataclasses import asdict, dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.imaging.breast import Breast

# Flag -> (measure, bound, whether the flag means "above"). The bounds lie between phantoms drawn with the fault and
# those without, and are quiet on the real films of mini-MIAS and CBIS-DDSM (tests/unit/test_imaging_quality.py).
THRESHOLDS: dict[str, tuple[str, float, bool]] = {
    # Five grey steps of 256: nothing can be seen. The faintest film at hand spans 160.
    "blank_image": ("contrast", 0.02, False),
    # White noise gives 1, tissue below 0.02, since neighbouring pixels resemble each other.
    "noise_only": ("noise_score", 0.5, True),
    # Air brighter than tissue: unprocessed data, or a wrong photometric interpretation.
    "inverted_grey": ("background_excess", 0.15, True),
    # Air is black, at most 0.09 on film. Above, tissue fills the frame (magnification), or the grey is inverted.
    "bright_background": ("background_level", 0.25, True),
    # A fifth of the breast at the last grey: the window is wrong, or the exposure. Film: below 0.02.
    "saturated": ("saturation_fraction", 0.2, True),
    # Side markers, stickers and their mirror images have 14 strokes at most; a short name and a year have 19.
    "text_suspected": ("text_score", 16.0, True),
    # Drawn implants give 0.3; muscle and dense gland reach 0.19 on film. No real implant was at hand to confirm it.
    "implant_suspected": ("implant_score", 0.25, True),
    # A drawn paddle gives 0.18, films 0.12. Two of 46 films are above, one of them with a band of noise across it.
    "straight_edge": ("straight_edge_score", 0.14, True),
    # A collimated field is a full rectangle; breasts fill 0.87 of their box at most.
    "rectangular_field": ("box_fill", 0.93, True),
    # The breast runs out of the picture opposite to the chest wall: partial, magnified, or positioned badly.
    "breast_cut_off": ("cut_off_fraction", 0.2, True),
}

_WHITE = 254  # the last grey, with one step for rounding
_STROKE = 60  # grey steps by which a letter differs from its surroundings; film grain stays below 40


@dataclass(frozen=True)
class Measures:
    """Shares are 0..1; grey levels are 0 (black) to 1 (white) as displayed. None where there is no breast to measure.

    breast_fraction: share of the frame that is breast.  background_level, breast_level: median grey outside and inside.
    background_excess: background minus breast level.  contrast: from the 1st to the 99th percentile of the frame.
    saturation_fraction: share of the breast at the last grey.  noise_score: mean squared difference of neighbours over
    twice the variance (von Neumann's ratio, Ann Math Stat 1941), 1 for white noise.  text_score: strokes of writing
    outside the breast, one to two a letter.  implant_score: share of the breast in wide, even, bright bodies.
    straight_edge_score: mean grey step across the strongest level or upright line through the breast.
    cut_off_fraction: share of the frame's edge opposite to the chest wall that is breast.  box_fill: share of the
    breast's bounding box that is breast.  side_score: how much more of it stands on the left half (positive) or the
    right half (negative) of that box.
    """

    breast_fraction: float
    background_level: float
    breast_level: float | None
    background_excess: float | None
    contrast: float
    saturation_fraction: float | None
    noise_score: float
    text_score: float
    implant_score: float | None
    straight_edge_score: float | None
    cut_off_fraction: float | None
    box_fill: float | None
    side_score: float | None

    def as_row(self) -> dict[str, float | None]:
        """The columns ``tables.QUALITY``, rounded to what they can tell."""
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


NAMES = tuple(field.name for field in fields(Measures))


def flags_of(measures: Measures) -> tuple[str, ...]:
    """The flags of :data:`THRESHOLDS` whose bound is passed."""
    found = []
    for flag, (name, bound, above) in THRESHOLDS.items():
        value = getattr(measures, name)
        if value is not None and (value > bound if above else value < bound):
            found.append(flag)
    return tuple(found)


def measure(found: Breast) -> Measures:
    """Measure the small copy that :func:`mammoflow.imaging.breast.find` left in ``found``."""
    small, mask = found.small, found.mask
    noise = noise_score(small)
    # Writing needs every pixel of the small copy; all else shows at half of it, at a quarter of the cost.
    half = np.ascontiguousarray(small[::2, ::2])
    if mask is None:
        low, middle, high = _shares(_histogram(half, None), (1, 50, 99))
        absent = dict.fromkeys(name for name in NAMES if name not in ("breast_fraction", "background_level"))
        return Measures(**absent | {
            "breast_fraction": 0.0,
            "background_level": middle,
            "contrast": high - low,
            "noise_score": noise,
            # Writing stands against an even ground; in noise every pixel is a stroke.
            "text_score": 0.0 if noise > 0.3 else text_score(small, np.zeros_like(small), middle),
        })  # fmt: skip
    breast = np.ascontiguousarray(mask[::2, ::2])
    size = max(cv2.countNonZero(breast), 1)
    counts = _histogram(half, breast)
    low, high = _shares(_histogram(half, None), (1, 99))
    dark, middle, bright = _shares(counts, (5, 50, 99))
    background = _shares(_histogram(half, 1 - breast), (50,))[0] if size < breast.size else 0.0
    columns = mask[:, -1] if found.chest_wall == "L" else mask[:, 0]
    extent = cv2.boundingRect(mask)
    return Measures(
        breast_fraction=size / breast.size,
        background_level=background,
        breast_level=middle,
        background_excess=background - middle if size < breast.size else None,
        contrast=high - low,
        saturation_fraction=float(counts[_WHITE:].sum()) / size,
        noise_score=noise,
        text_score=text_score(small, mask, background),
        implant_score=implant_score(half, breast, dark + 0.85 * (bright - dark)),
        straight_edge_score=straight_edge_score(half, breast),
        cut_off_fraction=float(columns.mean()),
        box_fill=cv2.countNonZero(mask) / (extent[2] * extent[3]),
        side_score=found.lopsided,
    )


def _histogram(grey: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> NDArray[np.float32]:
    return cv2.calcHist([grey], [0], mask, [256], [0, 256]).ravel()


def _shares(counts: NDArray[np.float32], shares: tuple[float, ...]) -> list[float]:
    """Percentiles by histogram, 0..1 of the grey scale: ten times as fast as sorting."""
    summed = np.cumsum(counts)
    return [float(np.searchsorted(summed, summed[-1] * share / 100)) / 255 for share in shares]


def noise_score(small: NDArray[np.uint8]) -> float:
    """0 for a smooth picture, 1 for white noise; the smoother of the two directions counts, since scanners stripe."""
    _, deviation = cv2.meanStdDev(small)
    variance = float(deviation[0, 0]) ** 2
    if variance == 0:
        return 0.0
    across = cv2.norm(small[:, 1:], small[:, :-1], cv2.NORM_L2SQR) / max(small[:, 1:].size, 1)
    down = cv2.norm(small[1:], small[:-1], cv2.NORM_L2SQR) / max(small[1:].size, 1)
    return min(across, down) / (2 * variance)


def text_score(small: NDArray[np.uint8], mask: NDArray[np.uint8], background: float) -> float:
    """Number of strokes of writing outside the breast ``mask`` (0/1); ``background``: the grey there, 0..1.

    Bright strokes are counted; dark letters on a bright plate are seen by the bright gaps between them.
    """
    outside = cv2.compare(small, min(255.0 * background + _STROKE, 255.0), cv2.CMP_GE)
    outside[mask > 0] = 0
    x, y, width, height = cv2.boundingRect(outside)
    if width * height == 0:
        return 0.0
    # Only where anything bright stands, with room for the neighbourhoods below.
    rows, columns = slice(max(y - 8, 0), y + height + 8), slice(max(x - 8, 0), x + width + 8)
    grey, breast = np.ascontiguousarray(small[rows, columns]), np.ascontiguousarray(mask[rows, columns])
    ink = cv2.compare(cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8)), _STROKE, cv2.CMP_GE)
    ink[cv2.dilate(breast, np.ones((13, 13), np.uint8)) > 0] = 0
    # A stroke is seen by its left edge: ink after paper within a row, continued over some rows.
    edges = np.zeros_like(ink)
    np.bitwise_and(ink[:, 1:], ~ink[:, :-1], out=edges[:, 1:])
    if not edges.any():
        return 0.0
    _, stroke_of, stroke_stats, _ = cv2.connectedComponentsWithStats(edges, connectivity=8)
    blocks = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((1, 15), np.uint8))
    count, block_of, block_stats, _ = cv2.connectedComponentsWithStats(blocks, connectivity=8)
    strokes, homes = stroke_of[edges > 0], block_of[edges > 0]
    # Letters stand side by side: a row of writing crosses several strokes. Film edges and scratches cross one.
    written = np.bincount(homes, minlength=count) / block_stats[:, cv2.CC_STAT_HEIGHT] >= 1.5
    written[0] = False
    numbers, first = np.unique(strokes, return_index=True)
    tall = stroke_stats[numbers, cv2.CC_STAT_HEIGHT] >= 3
    return float(np.count_nonzero(tall & written[homes[first]]))


def implant_score(half: NDArray[np.uint8], mask: NDArray[np.uint8], level: float) -> float:
    """Share of the breast ``mask`` (0/1) that lies in wide, even bodies brighter than ``level`` (0..1)."""
    bright = cv2.bitwise_and(cv2.compare(half, 255.0 * level, cv2.CMP_GE), mask)
    size = max(3, round(max(half.shape) / 25)) | 1
    if cv2.countNonZero(bright) < size**2:
        return 0.0
    smooth = cv2.blur(half, (3, 3))
    even = cv2.compare(cv2.morphologyEx(smooth, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)), 20, cv2.CMP_LE)
    body = cv2.morphologyEx(cv2.bitwise_and(even, bright), cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    return cv2.countNonZero(body) / max(cv2.countNonZero(mask), 1)


def straight_edge_score(half: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """Mean grey step (0..1 of the scale) across the strongest level or upright line through the breast."""
    reach = max(half.shape) // 16  # the skin line runs upright for a while near the nipple: its zone is left out
    inside = cv2.erode(mask, np.ones((reach, reach), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    best = 0.0
    for axis in (0, 1):
        # Rising and falling texture cancels along a line, an edge adds up; two pixels apart, for soft edges.
        ahead, behind = (half[2:], half[:-2]) if axis else (half[:, 2:], half[:, :-2])
        step = cv2.subtract(ahead, behind, mask=inside[1:-1] if axis else inside[:, 1:-1], dtype=cv2.CV_16S)
        extent = cv2.reduce(inside[1:-1] if axis else inside[:, 1:-1], axis, cv2.REDUCE_SUM, dtype=cv2.CV_32F).ravel()
        total = cv2.reduce(step, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32F).ravel()
        long = extent > max(half.shape) / 6
        if long.any():
            best = max(best, float(np.abs(total[long] / extent[long]).max()) / 255)
    return best
