"""Side and view of a mammogram from its DICOM header, with the order of trust that all DICOM archives share.

Order: the archive's own table, then ViewPosition with ImageLaterality or Laterality, then ViewCodeSequence, then
PatientOrientation, then the file name. The first source that knows wins; a later one that disagrees is reported as a
conflict, never silently obeyed (IHE Mammography Image profile; DICOM PS3.3 C.8.11.7, CID 4014 and CID 4015).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# CID 4014 View for Mammography, SNOMED CT code and the older SNOMED RT code -> ViewPosition's defined term (CID 4014
# column "ACR MQCM 1999 equivalent").
VIEW_CODES = {
    "399162004": "CC", "R-10242": "CC",
    "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO",
    "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
    "399196006": "FB", "R-10244": "FB",
    "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM",
}  # fmt: skip

LATERALITY_CONFLICT, VIEW_CONFLICT = "laterality_conflict", "view_conflict"

# Header elements that resolve() reads, for pydicom's ``specific_tags``.
TAGS = ["ViewPosition", "ImageLaterality", "Laterality", "ViewCodeSequence", "PatientOrientation"]

# "L_CC", "RIGHT_MLO", "lcc": a side and a view with nothing but a separator between them, not inside a longer word.
_NAME_TOKEN = re.compile(r"(?<![A-Za-z])(L|R|LEFT|RIGHT)[_\-. ]?(CC|MLO)(?![A-Za-z])", re.IGNORECASE)


class View(NamedTuple):
    """laterality ``L``/``R``, view_position a defined term (``CC``, ``MLO``, ...), either None where unknown.

    ``flags`` holds LATERALITY_CONFLICT and VIEW_CONFLICT where two sources disagree.
    """

    laterality: str | None
    view_position: str | None
    flags: tuple[str, ...] = ()


def resolve(
    header: Mapping[str, Any], laterality: str | None = None, view_position: str | None = None, file_name: str = ""
) -> View:
    """Side and view of one image.

    ``header`` maps DICOM keywords to values and holds (at least) what is present of :data:`TAGS`; the codes of
    ``ViewCodeSequence`` are given as its list of CodeValue strings. ``laterality`` and ``view_position`` are the
    archive's table, where it has them. Nothing is raised: a value that cannot be read counts as unknown.
    """
    sources = [(laterality, view_position), *_header_sources(header), _from_name(file_name)]
    sides = [side for side, _ in sources if side]
    views = [view for _, view in sources if view]
    flags = []
    if len(set(sides)) > 1:
        flags.append(LATERALITY_CONFLICT)
    if {"CC", "MLO"} <= set(views):  # XCCL is a CC with a different name: no conflict
        flags.append(VIEW_CONFLICT)
    return View(sides[0] if sides else None, views[0] if views else None, tuple(flags))


def _header_sources(header: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None]]:
    side = _side(header.get("ImageLaterality")) or _side(header.get("Laterality"))
    yield side, str(header.get("ViewPosition") or "").strip().upper() or None
    codes = [VIEW_CODES.get(str(code).strip()) for code in header.get("ViewCodeSequence") or []]
    yield None, next((view for view in codes if view), None)
    yield _from_orientation(header.get("PatientOrientation"))


def _from_orientation(orientation: Any) -> tuple[str | None, str | None]:
    r"""Side and view told by PatientOrientation (PS3.3 C.7.6.1.1.1): directions of the rows and of the columns.

    By mammographic convention the axilla or outer side is on top, so the columns run towards the *other* side of the
    body: ``A\R`` is a left CC, ``A\FR`` a left MLO, ``P\L`` a right CC, ``P\FL`` a right MLO. Anything else is unknown.
    """
    words = orientation.split("\\") if isinstance(orientation, str) else list(orientation or [])
    if len(words) != 2 or words[0].strip()[:1] not in ("A", "P"):
        return None, None
    column = words[1].strip()
    side = {"R": "L", "L": "R"}.get(column[-1:])
    view = {"R": "CC", "L": "CC", "FR": "MLO", "FL": "MLO"}.get(column)
    return (side, view) if view else (None, None)


def _from_name(file_name: str) -> tuple[str | None, str | None]:
    match = _NAME_TOKEN.search(file_name)
    return (match[1][0].upper(), match[2].upper()) if match else (None, None)


def _side(value: Any) -> str | None:
    word = str(value or "").strip().upper()
    return word if word in ("L", "R") else None
