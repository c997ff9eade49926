"""The picture of ``mammoflow inspect``: the stored image with all that was found in it, beside the working image."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from mammoflow.datasets.catalog import IntensityRule
from mammoflow.files import replacing
from mammoflow.imaging import breast, intensity
from mammoflow.imaging.decode import StoredImage
from mammoflow.imaging.working import WorkingImage

if TYPE_CHECKING:
    from mammoflow.inspect import Mark

Colour = tuple[int, int, int]  # blue, green, red
PAPER: Colour = (32, 28, 26)
INK: Colour = (230, 230, 230)
BOX: Colour = (80, 210, 250)  # breast box
OUTLINE: Colour = (120, 200, 90)  # outline of the breast as found
LESION: Colour = (90, 90, 255)
FLAG: Colour = (70, 180, 255)

_HEIGHT = 960  # pixels of each panel
_GAP = 18
_LINE = 24
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.52


def draw(
    title: str, stored: StoredImage, working: WorkingImage, rule: IntensityRule, marks: list["Mark"]
) -> NDArray[np.uint8]:
    """(height, width, 3) uint8, blue green red: stored image, working image, and the facts below them."""
    extremes, _ = intensity.image_facts(stored.pixels, stored.header)
    table = intensity.window_table(stored.header, stored.pixels.dtype.itemsize, rule, 8, extremes=extremes)
    panels = [_stored_panel(stored, working, table, marks), _working_panel(working, marks)]
    width = sum(panel.shape[1] for panel in panels) + _GAP * (len(panels) + 1)
    lines = _lines(title, stored, working, marks, max(60, (width - 2 * _GAP) // 9))
    page = np.full((_HEIGHT + 3 * _GAP + _LINE + _LINE * len(lines) + _GAP, width, 3), PAPER, np.uint8)
    x = _GAP
    for panel, name in zip(panels, ("stored", "working image"), strict=True):
        cv2.putText(page, name, (x, _GAP + 14), _FONT, _SIZE, INK, 1, cv2.LINE_AA)
        page[_LINE + _GAP : _LINE + _GAP + panel.shape[0], x : x + panel.shape[1]] = panel
        x += panel.shape[1] + _GAP
    y = _HEIGHT + 2 * _GAP + 2 * _LINE - 4
    for colour, text in lines:
        cv2.putText(page, text, (_GAP, y), _FONT, _SIZE, colour, 1, cv2.LINE_AA)
        y += _LINE
    return page


def save(page: NDArray[np.uint8], path: Path) -> None:
    """Write a colour PNG atomically."""
    with replacing(path) as handle:
        handle.write(cv2.imencode(".png", page)[1].tobytes())


def _stored_panel(
    stored: StoredImage, working: WorkingImage, table: intensity.GreyTable, marks: list["Mark"]
) -> NDArray[np.uint8]:
    panel, scale = _panel(table.apply(stored.pixels))
    found = breast.find(table.apply, stored.pixels, 0)
    if found.mask is not None:
        step = scale * max(1, -(-max(stored.pixels.shape) // breast.SMALL))
        contours, _ = cv2.findContours(found.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        scaled = [np.rint((contour + 0.5) * step).astype(np.int32) for contour in contours]
        cv2.polylines(panel, scaled, True, OUTLINE, 1, cv2.LINE_AA)
    geometry = working.geometry
    _rectangle(panel, np.array([geometry.crop_x0, geometry.crop_y0, geometry.crop_x1, geometry.crop_y1]) * scale, BOX)
    for mark in marks:
        _mark(panel, np.array(mark.box) * scale, mark)
    # An arrow from the nipple's side to the chest wall.
    y, ends = panel.shape[0] - 14, (panel.shape[1] // 2 - 30, panel.shape[1] // 2 + 30)
    start, stop = ends if geometry.flip else ends[::-1]
    cv2.arrowedLine(panel, (start, y), (stop, y), BOX, 2, cv2.LINE_AA, tipLength=0.3)
    return panel


def _working_panel(working: WorkingImage, marks: list["Mark"]) -> NDArray[np.uint8]:
    pixels = working.pixels
    grey = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    if working.window.get("function") == "raw":  # stored values fill a part of the 16 bits; shown, not measured
        grey = cv2.normalize(pixels, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    panel, scale = _panel(grey)
    if marks:
        boxes = working.geometry.forward(np.array([mark.box for mark in marks]))
        for mark, box in zip(marks, boxes * scale, strict=True):
            _mark(panel, box, mark)
    return panel


def _panel(grey: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Colour picture of at most _HEIGHT rows and 1.4 times as many columns, and its scale."""
    scale = min(_HEIGHT / grey.shape[0], 1.4 * _HEIGHT / grey.shape[1])
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    shown = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    return cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR), scale


def _rectangle(panel: NDArray[np.uint8], box: NDArray[np.floating], colour: Colour) -> None:
    x0, y0, x1, y1 = (int(value) for value in np.rint(box))
    cv2.rectangle(panel, (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)), colour, 2, cv2.LINE_AA)


def _mark(panel: NDArray[np.uint8], box: NDArray[np.floating], mark: "Mark") -> None:
    if mark.box[2] <= mark.box[0]:
        return
    _rectangle(panel, box, LESION)
    number = mark.text.split()[0]
    place = int(min(max(box[0], 2), panel.shape[1] - 14)), int(max(box[1] - 6, 14))
    cv2.putText(panel, number, place, _FONT, 1.2 * _SIZE, LESION, 2, cv2.LINE_AA)


def _lines(
    title: str, stored: StoredImage, working: WorkingImage, marks: list["Mark"], width: int
) -> list[tuple[Colour, str]]:
    """Facts below the panels, each line short enough. Only signs that the drawn font has."""
    geometry, measures = working.geometry, working.measures.as_row()
    spacing = "spacing unknown" if working.spacing is None else f"{working.spacing[0]:g} mm"
    window = ", ".join(f"{name} {_short(value)}" for name, value in working.window.items())
    numbers = ", ".join(f"{name} {value:g}" for name, value in measures.items() if value is not None)
    texts = [
        (INK, f"{title}: {stored.pixels.shape[0]} x {stored.pixels.shape[1]}, {stored.header.bits_stored} bits, "
              f"{stored.header.photometric}, {spacing}, decoded by {stored.decoder}"),
        (INK, f"window: {window}"),
        (BOX, f"breast box x {geometry.crop_x0} to {geometry.crop_x1}, y {geometry.crop_y0} to {geometry.crop_y1}; "
              f"chest wall {'right' if geometry.flip else 'left'}; "
              f"working image {geometry.out_height} x {geometry.out_width}"
              f"{', mirrored' if geometry.flip else ''}"),
        (INK, numbers),
        (FLAG if working.flags else INK, "flags: " + (", ".join(working.flags) or "none")),
        *((LESION, f"finding {mark.text}") for mark in marks),
    ]  # fmt: skip
    return [
        (colour, line.encode("ascii", "replace").decode())
        for colour, text in texts
        for line in textwrap.wrap(text, width) or [""]
    ]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
