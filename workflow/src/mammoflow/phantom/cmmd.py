"""Synthetic CMMD: ``CMMD_clinicaldata_revision.csv`` (CRLF) and a DICOM tree as one of three download tools leaves it.

Follows the TCIA release: 8-bit uncompressed, SIGMOID 128/256 that nobody should apply, side in ImageLaterality and view
in ViewCodeSequence only, PatientOrientation, empty Manufacturer, log-related pixels. D1 women mostly have two images of
the labelled breast, D2 women four, of which two show a breast without a row. Some women have a row for both breasts, a
few of these one benign and one malignant. Four women are really two (D1-0202 = D2-0284 pixel for pixel, D1-0808 and
D1-1292 in one image), and one has two 16-bit files (D1-1343).

Truth does not depend on the part (D1, D2), unlike in the real archive.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mammoflow.files import write_text
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import Planned, draw_view, plan_lesion

LAYOUTS = ("nbia", "nbia_old", "idc")
SHAPES = {"small": (640, 534), "full": (2294, 1914)}
SPACING = 0.094090909
HEADER = "ID1,LeftRight,Age,number,abnormality,classification,subtype"
SUBTYPES = ["Luminal B", "Luminal A", "HER2-enriched", "triple negative"]
# The women that every set of this size has, in this order, for their defects; the rest are numbered from 1.
NAMED = ["D2-0284", "D1-0202", "D1-1343", "D1-0808", "D1-1292"]
NAMED_FROM = 8  # patients


@dataclass
class Patient:
    """One woman: lesions of both breasts, and which breasts the clinical table labels."""

    name: str
    woman: Woman
    age: int
    labelled: list[str]
    sides: list[str]
    lesions: dict[str, list[Planned]]
    subtype: str
    seed: int
    same_images: dict[str, str] = field(default_factory=dict)


def write(root: Path, patients: int, seed: int, size: str = "small", layout: str = "nbia") -> None:
    """Write the archive into ``root``. ``layout``: folders of the new or old NBIA Data Retriever, or of idc-index."""
    root = Path(root)
    rows = [HEADER]
    for patient in plan(patients, seed):
        number = 0
        for side in patient.sides:
            for view in ("CC", "MLO"):
                number += 1
                pixels = _draw(patient, side, view, SHAPES[size], number)
                _write_image(_path(root, layout, patient.name, number), patient, side, view, number, pixels)
        rows += [_row(patient, side) for side in patient.labelled]
    write_text(root / "LICENSE", "Synthetic images drawn by a program (mammoflow phantom). They show no patient.\n")
    # write_text keeps the line ends as given: the real table is a spreadsheet saved on Windows.
    write_text(root / "CMMD_clinicaldata_revision.csv", "\r\n".join([*rows, ""]))


def plan(patients: int, seed: int) -> list[Patient]:
    """Everything about the women, no pixels. One labelled breast each, every sixth both, every twelfth at odds."""
    rng = np.random.default_rng((seed, 1))
    named = NAMED if patients >= NAMED_FROM else []
    names = named + [f"D{1 + k % 2}-{k + 1:04d}" for k in range(patients - len(named))]
    truths = [k % 2 == 0 for k in range(patients)]
    rng.shuffle(truths)
    plans: list[Patient] = []
    for k, (name, malignant) in enumerate(zip(names, truths, strict=True)):
        second = name.startswith("D2")
        side = str(rng.choice(["L", "R"]))
        other = {"L": "R", "R": "L"}[side]
        both = k % 6 == 5
        lesions: dict[str, list[Planned]] = {side: [plan_lesion(rng, malignant)], other: []}
        if both:
            lesions[other] = [plan_lesion(rng, malignant if k % 12 == 5 else not malignant)]
        labelled = sorted(lesions) if both else [side]
        sides = ["L", "R"] if second or both else [side]
        subtype = str(rng.choice(SUBTYPES)) if second and malignant else ""
        age = int(rng.integers(25, 80))
        plans.append(Patient(name, Woman.draw(rng), age, labelled, sides, lesions, subtype, int(rng.integers(2**31))))
    _make_duplicates({patient.name: patient for patient in plans})
    return plans


def _make_duplicates(women: dict[str, Patient]) -> None:
    """D1-0202 is D2-0284 again; D1-1292's first image is D1-0808's."""
    for copy, first in (("D1-0202", "D2-0284"), ("D1-1292", "D1-0808")):
        if copy in women:
            source = women[first]
            for name in ("woman", "age", "labelled", "sides", "lesions"):
                setattr(women[copy], name, getattr(source, name))
            if copy == "D1-0202":
                women[copy].seed = source.seed
            else:
                women[copy].same_images = {"1": first}
                women[first].same_images = {"1": first}


def _row(patient: Patient, side: str) -> str:
    lesion = patient.lesions[side][0]
    abnormality = "calcification" if lesion.kind == "calcification" else "both" if patient.age % 4 == 0 else "mass"
    classification = "Malignant" if lesion.malignant else "Benign"
    return f"{patient.name},{side},{patient.age},2,{abnormality},{classification},{patient.subtype}"


def _draw(patient: Patient, side: str, view: str, shape: tuple[int, int], number: int) -> np.ndarray:
    """uint8 finished picture; uint16 for the woman whose files are."""
    shared = patient.same_images.get(str(number))
    rng = np.random.default_rng((0, *shared.encode()) if shared else (patient.seed, number))
    drawn = draw_view(shape, side, view, patient.woman, patient.lesions[side], rng)
    if patient.name == "D1-1343":
        return np.rint(drawn.pixels * 65535).astype(np.uint16)
    return np.rint(drawn.pixels * 255).astype(np.uint8)


def _path(root: Path, layout: str, patient: str, number: int) -> Path:
    study, series = mg_dicom.uid_of("cmmd study", patient), mg_dicom.uid_of("cmmd series", patient)
    if layout == "idc":
        image = mg_dicom.uid_of("cmmd", patient, number)
        return root / "cmmd" / patient / study / f"MG_{series}" / f"{image[-32:]}.dcm"
    middle = "-NA-NA" if layout == "nbia_old" else ""
    tail = "-NA" if layout == "nbia_old" else ""
    folders = f"07-18-2010{middle}-{study[-5:]}", f"1.000000{tail}-{series[-5:]}"
    return root.joinpath("CMMD", patient, *folders, f"1-{number}.dcm")


def _write_image(path: Path, patient: Patient, side: str, view: str, number: int, pixels: np.ndarray) -> None:
    wide = pixels.dtype == np.uint16
    elements: dict[str, Any] = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": mg_dicom.uid_of("cmmd", patient.name, number),
        "StudyDate": "20100718",
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "",
        "PatientID": patient.name,
        "PatientSex": "F",
        "PatientAge": f"{patient.age:03d}Y",
        "ImagerPixelSpacing": [SPACING, SPACING],
        "StudyInstanceUID": mg_dicom.uid_of("cmmd study", patient.name),
        "SeriesInstanceUID": mg_dicom.uid_of("cmmd series", patient.name),
        "InstanceNumber": number,
        "PatientOrientation": mg_dicom.ORIENTATION[side, view],
        "ImageLaterality": side,
        "ViewCodeSequence": mg_dicom.view_code(view),
        "PixelIntensityRelationship": "LOG",
        "WindowCenter": 32768 if wide else 128,
        "WindowWidth": 65536 if wide else 256,
        "VOILUTFunction": "SIGMOID",
    }
    mg_dicom.write(path, elements, pixels, 16 if wide else 8)
