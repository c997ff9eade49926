"""Marked lesions as classes of pixels: which class a finding is, and the class map of an image.

Class sets (background is always 0). Where lesions overlap the later class of the list is seen: malignant over benign,
calcification over mass, because calcifications lie inside masses.

``seed4``             benign (a benign lesion of any kind), mass, calcification (both malignant)
``type``              mass, calcification, of any pathology
``type_x_pathology``  benign mass, benign calcification, malignant mass, malignant calcification
``lesion``            any marked lesion

A lesion that a set cannot name (a distortion in ``type``, an unknown pathology in ``seed4``) is :data:`IGNORE`: neither
lesion nor background, without weight in the loss and in the measures. A finding called both mass and calcification
counts as mass, since its outline is that of the mass.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammoflow.imaging.geometry import Geometry
from mammoflow.outlines import Rings, box_ring, fill, rings

if TYPE_CHECKING:
    from mammoflow.pack import PackedImages  # the report reads lesions where no pack can be read

Key = tuple[str, str]  # dataset, image_id
IGNORE = 255
CLASS_SETS: dict[str, tuple[str, ...]] = {
    "seed4": ("benign", "mass", "calcification"),
    "type": ("mass", "calcification"),
    "type_x_pathology": ("benign mass", "benign calcification", "malignant mass", "malignant calcification"),
    "lesion": ("lesion",),
}
# The classes whose probability is an image's score: the malignant ones, where a set knows them.
SUSPICIOUS: dict[str, tuple[int, ...]] = {"seed4": (2, 3), "type": (1, 2), "type_x_pathology": (3, 4), "lesion": (1,)}
TELLS_PATHOLOGY = ("seed4", "type_x_pathology")
OUT_BOX = ["out_xmin", "out_ymin", "out_xmax", "out_ymax"]


@dataclass(frozen=True)
class Lesion:
    """``value``: class of its pixels, or :data:`IGNORE`. ``outline``: in packed pixels. ``drawn``: polygon, circle,
    mask, or box where nothing better is known. ``malignant``: 1, 0, None. ``size_mm``: longer side of its box."""

    finding_id: str
    value: int
    outline: Rings
    drawn: str
    kind: str
    malignant: int | None
    size_mm: float | None

    def covers(self, x: float, y: float) -> bool:
        """Whether a point in packed pixels lies inside the outline (even-odd rule)."""
        crossings = 0
        for ring in self.outline:
            (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
            spans = (y0 > y) != (y1 > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            crossings += int((spans & (at > x)).sum())
        return crossings % 2 == 1


def kind_of(categories: str | None) -> str:
    """``mass``, ``calcification`` or ``other`` of a list literal such as ``"['Mass', 'Skin Retraction']"``."""
    words = {word.lower() for word in ast.literal_eval(categories)} if categories else set()
    if "mass" in words:
        return "mass"
    return "calcification" if any("calcification" in word for word in words) else "other"


def class_of(kind: str, malignant: int | None, classes: str) -> int:
    """Index of a lesion's class in the set ``classes`` (1 ..), or :data:`IGNORE`."""
    if classes == "lesion":
        return 1
    if classes == "seed4" and malignant == 0:
        return 1
    if kind == "other" or (classes in TELLS_PATHOLOGY and malignant is None):
        return IGNORE
    name = f"{'malignant' if malignant else 'benign'} {kind}" if classes == "type_x_pathology" else kind
    return CLASS_SETS[classes].index(name) + 1


def fully_marked(manifest: pd.DataFrame, findings: pd.DataFrame) -> pd.Series:
    """Whether every lesion of an image is marked, so that the rest of it is known to be background; as ``manifest``.

    True where the image is normal, or where its archive marks lesions, each of its findings has a place (one that is
    listed with another copy of the picture has none here), and a malignant image has a mark that is not benign.
    Anything else may hide a lesion anywhere.
    """
    placed = findings.dropna(subset=OUT_BOX)
    keys = pd.MultiIndex.from_frame(manifest[["dataset", "image_id"]])

    def count(rows: pd.DataFrame) -> NDArray:
        return rows.groupby(["dataset", "image_id"]).size().reindex(keys, fill_value=0).to_numpy(int)

    marked, wanted = count(placed), _known_findings(manifest)
    suspicious = count(placed[~(placed["label_malignant"] == 0).fillna(False)])
    marks_lesions = manifest["dataset"].isin(placed["dataset"].unique()).to_numpy(bool)
    malignant = (manifest["label_malignant"] == 1).fillna(False).to_numpy(bool)
    normal = (manifest["label_3cat"] == "normal").fillna(False).to_numpy(bool) & (wanted == 0) & (marked == 0)
    known = normal | (marks_lesions & (marked >= wanted) & ~(malignant & (suspicious == 0)))
    return pd.Series(known, index=manifest.index)


def _known_findings(manifest: pd.DataFrame) -> NDArray:
    return sum(manifest[name].fillna(0).to_numpy(int) for name in ("n_findings", "findings_elsewhere"))


def packed_lesions(
    manifest: pd.DataFrame, findings: pd.DataFrame, images: PackedImages, classes: str, boxes: str = "fill"
) -> dict[Key, list[Lesion]]:
    """The placed findings on the manifest's images, in packed pixels; images without any are absent.

    ``classes``: a name of :data:`CLASS_SETS`.  ``boxes``: ``fill``, or ``ignore`` for lesions with nothing but a box.
    """
    rows = {key: row for row in _plain(manifest) if (key := (row["dataset"], row["image_id"])) in images}
    found: dict[Key, list[Lesion]] = {}
    for finding in _plain(findings.dropna(subset=OUT_BOX)):
        key = finding["dataset"], finding["image_id"]
        if key not in rows:
            continue
        drawn = rings(finding, Geometry.from_row(rows[key])) if finding["points"] is not None else None
        outline = [box_ring([finding[name] for name in OUT_BOX])] if drawn is None else drawn
        kind = kind_of(finding["finding_categories"])
        value = class_of(kind, finding["label_malignant"], classes)
        lesion = Lesion(
            finding_id=finding["finding_id"],
            value=IGNORE if drawn is None and boxes == "ignore" else value,
            outline=[images.place(key, np.tile(ring, 2))[:, :2] for ring in outline],
            drawn="box" if drawn is None else finding["geometry"],
            kind=kind,
            malignant=finding["label_malignant"],
            size_mm=_size_mm(finding, rows[key]["pixel_spacing_mm"]),
        )
        found.setdefault(key, []).append(lesion)
    return found


def class_map(lesions: Iterable[Lesion], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 of class indices and :data:`IGNORE`. The order of ``lesions`` does not matter.

    A lesion smaller than a pixel still marks the pixel it covers most of.
    """
    found = np.zeros(size, np.uint8)
    for lesion in sorted(lesions, key=lambda one: (one.value != IGNORE, one.value)):
        place, share = fill(size, lesion.outline)
        if share.size:
            found[place][share >= min(0.5, float(share.max()))] = lesion.value
    return found


def _size_mm(finding: dict[str, Any], spacing: float | None) -> float | None:
    sides = [finding["xmin"], finding["ymin"], finding["xmax"], finding["ymax"]]
    if spacing is None or None in sides:
        return None
    return float(max(sides[2] - sides[0], sides[3] - sides[1]) * spacing)


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of plain Python values, with None for NA."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
