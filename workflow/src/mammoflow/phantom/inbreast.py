"""Synthetic INbreast: ``INbreast.csv``, ``AllDICOMs/`` and ``AllXML/`` as in Release 1.0 (Moreira et al. 2012).

14-bit Explicit VR Little Endian objects without patient, age and view in their headers; the patient's 16 hex digits in
the file's name, ``ML`` for MLO; BI-RADS 1 to 6 with 4a, 4b and 4c. Quirks: blanks for missing densities, one view FB,
lesion names spelled in several ways, marks of a single point, contour points outside the image, an image without file.
"""

import plistlib
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mammoflow.files import replacing, write_text
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import DENSITIES, Woman
from mammoflow.phantom.contours import draw_outlined
from mammoflow.phantom.exam import Planned, plan_lesion

SHAPES = {"small": (640, 502), "full": (4084, 3328)}
RELEASE = "INbreast Release 1.0"
HEAD = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
BITS = 14
VIEWS = [(side, view) for side in "LR" for view in ("CC", "ML")]
GRADES = {"malignant": ("4b", "4c", "5", "6", "4a"), "benign": ("2", "3", "2"), "normal": ("1",)}
NAMES = {
    "mass": ("Mass", "Spiculated Region", "Espiculated Region"),
    "calcification": ("Cluster", "Calcification", "Calcifications"),
    "architectural_distortion": ("Distortion",),
    "asymmetry": ("Asymmetry", "Assymetry"),
}


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``. Two of five women have a malignant lesion, two a benign one, one has none."""
    base, shape = Path(root) / RELEASE, SHAPES[size]
    rng = np.random.default_rng((seed, 1))
    truths = [("malignant", "benign", "malignant", "benign", "normal")[number % 5] for number in range(patients)]
    rng.shuffle(truths)
    lines, file_id = [HEAD], 20586908
    for number, truth in enumerate(truths):
        acr = int(rng.integers(1, 5))
        woman, sick = Woman.draw(rng, list(DENSITIES)[acr - 1]), str(rng.choice(["L", "R"]))
        lesion = None if truth == "normal" else plan_lesion(rng, truth == "malignant")
        # A quarter of the exams show one breast only.
        views = [view for view in VIEWS if number % 4 != 3 or view[0] == sick]
        for side, view in views:
            file_id += int(rng.integers(8, 40))
            lesions = [lesion] if lesion and side == sick else []
            grade = str(rng.choice(GRADES[truth])) if lesions else "1"
            named = "FB" if (number, side, view) == (0, "L", "ML") else view
            lines.append(_row(side, named, number, file_id, acr, grade))
            if (number, side, view) == (2, "R", "CC"):
                continue  # in the table, not on disk
            own = np.random.default_rng((seed, 2, file_id))
            outlines = _write_image(base / "AllDICOMs", shape, file_id, number, seed, side, named, woman, lesions, own)
            if lesions:
                _write_xml(base / "AllXML" / f"{file_id}.xml", lesions, outlines, own)
    write_text(base / "INbreast.csv", "\n".join(lines) + "\n")
    write_text(base / "README", "Synthetic images drawn by a program (mammoflow phantom). They show no patient.\n")


def _row(side: str, view: str, number: int, file_id: int, acr: int, grade: str) -> str:
    density = "   " if number == 1 else str(acr)
    return f"removed;removed;{side};{view};20080{1 + number % 9};{file_id};{density};{grade}"


def _write_image(
    folder: Path,
    shape: tuple[int, int],
    file_id: int,
    number: int,
    seed: int,
    side: str,
    view: str,
    woman: Woman,
    lesions: list[Planned],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Write one object and return the outlines of its lesions."""
    drawn = draw_outlined(shape, side, view, woman, lesions, rng)
    patient = blake2b(f"{seed} {number}".encode(), digest_size=8).hexdigest()
    top = (1 << BITS) - 1
    elements: dict[str, Any] = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": mg_dicom.uid_of(seed, "inbreast", file_id),
        "StudyInstanceUID": mg_dicom.uid_of(seed, "inbreast study", number),
        "SeriesInstanceUID": mg_dicom.uid_of(seed, "inbreast series", file_id),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "MammoNovation",
        "PatientID": "removed",
        "ImagerPixelSpacing": ["0.07", "0.07"],
        "WindowCenter": f"{top // 2}",
        "WindowWidth": f"{top}",
    }
    pixels = np.rint(drawn.pixels * top * 0.9).astype(np.uint16)
    mg_dicom.write(folder / f"{file_id}_{patient}_MG_{side}_{view}_ANON.dcm", elements, pixels, BITS)
    return drawn.outlines


def _write_xml(path: Path, lesions: list[Planned], outlines: list[np.ndarray], rng: np.random.Generator) -> None:
    regions = []
    for lesion, outline in zip(lesions, outlines, strict=True):
        name = str(rng.choice(NAMES[lesion.kind]))
        points = outline[:: max(1, len(outline) // 40)] + rng.uniform(0, 1, (1, 2))
        if len(regions) == 0 and rng.random() < 0.3:
            points = np.vstack([points, [[-3.5, float(points[0, 1])]]])  # a slip of the mouse, beyond the frame
        regions.append(_region(name, points))
        if lesion.kind == "calcification":
            inside = outline.mean(axis=0)
            regions.append(_region("Calcification", [inside]))
            regions.append(_region("Point 1", [inside + 4, inside + 6]))
            regions.append(_region("", [inside - 5]))
    image = {"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}
    with replacing(path) as handle:
        plistlib.dump({"Images": [image]}, handle)


def _region(name: str, points: Any) -> dict[str, Any]:
    texts = [f"({x:f}, {y:f})" for x, y in points]
    return {"IndexInImage": 0, "Name": name, "NumberOfPoints": len(texts), "Point_px": texts, "Type": 15}
