"""The lesions of one DDSM film, from its overlay to rows of ``findings``."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mammoflow.datasets import ddsm_text, outlines
from mammoflow.tables import list_literal, to_json

LOG = logging.getLogger(__name__)
# Worst first. An unproven lesion beside a benign one may yet be the cancer, so the film's truth is not known.
PATHOLOGIES = ["MALIGNANT", "UNPROVEN", "BENIGN", "BENIGN_WITHOUT_CALLBACK"]
CATEGORIES = {"MASS": "Mass", "CALCIFICATION": "Suspicious Calcification", "OTHER": "Other"}
_SHAPE_CATEGORIES = {
    "ARCHITECTURAL_DISTORTION": "Architectural Distortion",
    "ASYMMETRIC_BREAST_TISSUE": "Asymmetry",
    "FOCAL_ASYMMETRIC_DENSITY": "Focal Asymmetry",
    "LYMPH_NODE": "Suspicious Lymph Node",
}


class CaseFiles(NamedTuple):
    """One folder of the archive that holds an ``.ics`` file. ``files`` maps lower-case names to paths."""

    ics: Path
    case_id: str  # A-1234
    stem: str  # A_1234_1
    files: dict[str, Path]

    def find(self, film: str, suffix: str) -> Path | None:
        return self.files.get(f"{self.stem}.{film}.{suffix}".lower())


class Lesions(NamedTuple):
    """What the overlay of a film says: rows of ``findings``, or why there are none to trust (a word)."""

    rows: list[dict[str, Any]]
    problem: str | None = None


def read_lesions(case: CaseFiles, film: ddsm_text.Film) -> Lesions:
    """The lesions of one film. A broken overlay is named in the log, and its film stays without a label."""
    path = case.find(film.name, "OVERLAY")
    if path is None:
        if film.overlay:
            LOG.warning(
                "%s says that %s has an overlay, which is not there: get it from the archive", case.ics, film.name
            )
        return Lesions([], "missing_overlay" if film.overlay else None)
    try:
        abnormalities = ddsm_text.read_overlay(path.read_text(encoding="latin-1"))
        rows = [_finding(lesion, f"{case.stem}.{film.name}", film) for lesion in abnormalities]
    except ValueError as error:
        LOG.warning("%s cannot be read (%s), so its film stays unlabelled: take the file from the archive again",
                    path, error)  # fmt: skip
        return Lesions([], "unreadable_overlay")
    for order, row in enumerate(rows, start=1):
        row["finding_id"] = f"{case.stem}.{film.name}_{order}"
    return Lesions(rows)


def _finding(lesion: ddsm_text.Abnormality, image_id: str, film: ddsm_text.Film) -> dict[str, Any]:
    """One row of ``findings``. Raises ValueError for a pathology or a lesion type that DDSM does not use."""
    if lesion.pathology not in PATHOLOGIES:
        raise ValueError(f"abnormality {lesion.number}: unknown PATHOLOGY {lesion.pathology!r}")
    strange = [words[""] for words in lesion.lesion_types if words[""] not in CATEGORIES]
    if strange:
        raise ValueError(f"abnormality {lesion.number}: unknown LESION_TYPE {strange[0]!r}")
    attributes: dict[str, Any] = {"number": lesion.number}
    for words in lesion.lesion_types:
        kind = words[""].lower()
        attributes |= {
            f"{kind}_{name.lower()}": word.split("-") for name, word in words.items() if name and word != "N/A"
        }
    if lesion.cores:
        attributes["cores"] = [core.tolist() for core in lesion.cores]
    categories = [name for words in lesion.lesion_types for name in _categories(words)] or ["Other"]
    return {
        "finding_categories": list_literal(dict.fromkeys(categories)),
        "finding_native": ";".join(words[""] for words in lesion.lesion_types) or pd.NA,
        "finding_birads": f"BI-RADS {lesion.assessment}" if lesion.assessment in range(6) else pd.NA,
        "pathology": lesion.pathology,
        "subtlety": lesion.subtlety if lesion.subtlety in range(1, 6) else pd.NA,
        "attributes": to_json(attributes),
        **_outline(lesion, image_id, film),
    }


def _categories(words: dict[str, str]) -> list[str]:
    """VinDr-Mammo's words; a mass of nothing but special shapes is not called a mass (as in cbis_ddsm)."""
    if words[""] != "MASS":
        return [CATEGORIES[words[""]]]
    shapes = words.get("SHAPE", "").split("-")
    special = [_SHAPE_CATEGORIES[shape] for shape in shapes if shape in _SHAPE_CATEGORIES]
    return special if len(special) == len(shapes) else ["Mass", *special]


def _outline(lesion: ddsm_text.Abnormality, image_id: str, film: ddsm_text.Film) -> dict[str, Any]:
    """Polygon of the first boundary, clipped to the film, and its half-open box."""
    if not lesion.boundaries:
        return outlines.NOWHERE
    found = outlines.place(lesion.boundaries[0], film.samples, film.lines, extent=1)
    if found == outlines.NOWHERE:
        LOG.warning("%s: the outline of abnormality %d lies outside the film", image_id, lesion.number)
    return found
