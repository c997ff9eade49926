"""Contours of INbreast: one property list of the OsiriX viewer per image, ``AllXML/<file id>.xml``."""

import math
import plistlib
import re
from pathlib import Path
from typing import NamedTuple
from xml.parsers.expat import ExpatError

from mammoflow.errors import UserError

MAX_BYTES = 64 << 20  # the longest real lists are a few megabytes
_POINT = re.compile(r"\(\s*([-+0-9.eE]+)\s*,\s*([-+0-9.eE]+)\s*\)")


class Contour(NamedTuple):
    """One region of interest: name as written, points (x, y) in pixels of the stored image, origin top left."""

    name: str
    points: list[tuple[float, float]]


def read_contours(path: Path) -> list[Contour]:
    """All contours of a file. Raises UserError with file and cure where it is no such property list.

    plistlib refuses entity declarations, so a file cannot name other files or blow up while it is read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MB")
        with path.open("rb") as handle:
            images = plistlib.load(handle, fmt=plistlib.FMT_XML)["Images"]
        return [
            Contour(str(region.get("Name") or "").strip(), [_point(text) for text in region.get("Point_px") or []])
            for image in images
            for region in image.get("ROIs") or []
        ]
    except (ExpatError, ValueError, KeyError, TypeError, AttributeError) as error:
        # plistlib's own InvalidFileException is a ValueError.
        raise UserError(
            f"{path} is not a contour file of INbreast ({type(error).__name__}: {error}): "
            "take the unchanged file of AllXML, or remove it to go without its contours"
        ) from None


def _point(text: str) -> tuple[float, float]:
    match = _POINT.fullmatch(text.strip())
    point = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
    if not all(map(math.isfinite, point)):
        raise ValueError(f"{text!r} is not a point of the form (x, y)")
    return point
