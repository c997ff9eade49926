"""Synthetic RSNA archive: ``train.csv``, ``train_images/<patient_id>/<image_id>.dcm``, and the stub of the test set.

Follows the Kaggle release: machines are disjoint by site and decide the encoding (J2K or JPEG lossless, MONOCHROME1 or
2, LINEAR or SIGMOID, one or two windows, padding or none); site 2 has no density and hardly any BI-RADS; most patients
have four images, some a fifth, a few of rare views. Quirks: one patient's pixels exceed BitsStored, and one image is
constant (from 15 patients on: the gate on failures must hold).

Unlike the real archive, a third of the women have cancer: a small set must be learnable. Density, age, machine and site
are drawn without looking at the truth.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1

from mammoflow.files import write_text
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import Planned, draw_view, plan_lesion

SHAPES = {"small": (640, 512), "full": (2776, 2082)}
HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)
RARE_VIEWS = ["AT", "ML", "LM", "LMO"]
CONSTANT_FROM = 15  # patients


@dataclass(frozen=True)
class Machine:
    """How one scanner stores an image. windows: (center, width) as shares of the value range."""

    number: int
    site: int
    syntax: UID
    bits: int
    photometric: str
    function: str | None
    windows: tuple[tuple[float, float], ...]
    padding: bool = True


MACHINES = [
    Machine(49, 1, JPEG2000Lossless, 12, "MONOCHROME2", "LINEAR", ((0.50, 0.90),)),
    Machine(29, 2, JPEGLosslessSV1, 12, "MONOCHROME1", "SIGMOID", ((0.50, 0.80),)),
    Machine(170, 1, JPEG2000Lossless, 14, "MONOCHROME2", None, ((0.45, 0.80), (0.55, 1.00))),
    Machine(21, 2, JPEGLosslessSV1, 14, "MONOCHROME1", "LINEAR", ((0.50, 0.90), (0.50, 0.60))),
    Machine(190, 1, JPEG2000Lossless, 10, "MONOCHROME2", "SIGMOID", ((0.50, 0.70),), padding=False),
    Machine(48, 2, JPEG2000Lossless, 16, "MONOCHROME2", "LINEAR", ((0.50, 1.00),)),
]


@dataclass
class Patient:
    """One exam before it is drawn: lesions and cancer per side."""

    number: int
    machine: Machine
    woman: Woman
    density: str
    age: int | None
    implant: int
    lesions: dict[str, list[Planned]]
    views: list[tuple[str, str]]

    def cancer(self, side: str) -> int:
        return int(any(lesion.malignant for lesion in self.lesions[side]))


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``."""
    root = Path(root)
    rng = np.random.default_rng((seed, 1))
    plans = plan(patients, rng)
    numbers = iter(rng.permutation(10**6)[: 6 * patients + 4] + 10**9)  # image ids, in no order
    rows = []
    for place, patient in enumerate(plans):
        for k, (side, view) in enumerate(patient.views):
            image = int(next(numbers))
            own = np.random.default_rng((seed, 2, place, k))
            constant = patients >= CONSTANT_FROM and place == 1 and k == len(patient.views) - 1
            pixels = _stored(patient, side, view, SHAPES[size], own, constant, beyond=place == 2)
            _write_image(
                root / "train_images" / str(patient.number) / f"{image}.dcm", patient, image, side, view, pixels
            )
            rows.append(_row(patient, image, side, view))
    write_text(root / "train.csv", "".join(f"{row}\n" for row in [HEADER, *rows]))
    _write_test(root, [int(next(numbers)) for _ in range(4)], SHAPES[size], seed)


def plan(patients: int, rng: np.random.Generator) -> list[Patient]:
    """Everything about the women, no pixels. The first patients meet every machine in turn."""
    truths = [("cancer", "benign", "normal")[k % 3] for k in range(patients)]
    rng.shuffle(truths)
    numbers = np.sort(rng.choice(55000, patients, replace=False)) + 10009  # 10008 is the test set's
    plans = []
    for k, (number, truth) in enumerate(zip(numbers, truths, strict=True)):
        lesions: dict[str, list[Planned]] = {"L": [], "R": []}
        sick = str(rng.choice(["L", "R"]))
        if truth != "normal":
            lesions[sick].append(plan_lesion(rng, truth == "cancer"))
        density = str(rng.choice(list("ABCD"), p=[0.1, 0.4, 0.4, 0.1]))
        views = [(side, view) for side in "LR" for view in ("CC", "MLO")]
        if k % 5 == 1:
            views.append(("R", "CC"))
        if k % 7 == 4:
            views.append(("L", RARE_VIEWS[k // 7 % len(RARE_VIEWS)]))
        age = None if k % 11 == 10 else int(rng.integers(40, 80))
        machine = MACHINES[k % len(MACHINES)]
        implant = int(rng.random() < 0.05)
        plans.append(Patient(int(number), machine, Woman.draw(rng, density), density, age, implant, lesions, views))
    return plans


def _row(patient: Patient, image: int, side: str, view: str) -> str:
    cancer, site = patient.cancer(side), patient.machine.site
    benign = bool(patient.lesions[side]) and not cancer
    # A grade of 1 or 2 never goes with cancer; site 2 records hardly any.
    birads = "0.0" if cancer else "2.0" if benign else "1.0"
    birads = "" if site == 2 or (cancer and patient.number % 2) else birads
    return ",".join(
        map(
            str,
            [
                site, patient.number, image, side, view, "" if patient.age is None else f"{patient.age}.0",
                cancer, cancer, cancer, birads, patient.implant, patient.density if site == 1 else "",
                patient.machine.number, bool(benign and patient.number % 3 == 0),
            ],
        )
    )  # fmt: skip


def _stored(
    patient: Patient,
    side: str,
    view: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
    constant: bool,
    beyond: bool,
) -> np.ndarray:
    """uint16 stored values. beyond: the dense parts exceed what BitsStored announces."""
    if constant:
        return np.zeros(shape, dtype=np.uint16)
    drawn = draw_view(shape, side, view, patient.woman, patient.lesions[side], rng, marker=True)
    top = (1 << patient.machine.bits) - 1
    values = np.rint(drawn.pixels * top * (1.2 if beyond else 1.0))
    if patient.machine.photometric == "MONOCHROME1":
        values = np.clip(top - values, 0, None)
        if beyond:
            values[0, :8] = top * 1.2  # unexposed corner beyond the range, at the dark end of MONOCHROME1
    return np.clip(values, 0, 65535).astype(np.uint16)


def _write_image(path: Path, patient: Patient, image: int, side: str, view: str, pixels: np.ndarray) -> None:
    machine = patient.machine
    top = (1 << machine.bits) - 1
    centers = [round(center * top, 1) for center, _ in machine.windows]
    widths = [round(width * top, 1) for _, width in machine.windows]
    elements: dict[str, Any] = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": mg_dicom.uid_of("rsna", image),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "PatientID": str(patient.number),
        "StudyInstanceUID": mg_dicom.uid_of("rsna study", patient.number),
        "SeriesInstanceUID": mg_dicom.uid_of("rsna series", image),
        "BodyPartExamined": "BREAST",
        "ImageLaterality": side,
        "ViewPosition": view,
        "PhotometricInterpretation": machine.photometric,
        "WindowCenter": centers if len(centers) > 1 else centers[0],
        "WindowWidth": widths if len(widths) > 1 else widths[0],
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
    }
    if machine.function:
        elements["VOILUTFunction"] = machine.function
    if machine.padding:
        elements["PixelPaddingValue"] = top if machine.photometric == "MONOCHROME1" else 0
    mg_dicom.write(path, elements, pixels, machine.bits, machine.syntax)


def _write_test(root: Path, images: list[int], shape: tuple[int, int], seed: int) -> None:
    """Kaggle's public stub of the hidden test set: four images of one patient, without labels."""
    rng = np.random.default_rng((seed, 3))
    patient = Patient(10008, MACHINES[1], Woman.draw(rng), "B", 60, 0, {"L": [], "R": []}, [])
    rows = ["site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id"]
    views = [(side, view) for side in "LR" for view in ("MLO", "CC")]
    for image, (side, view) in zip(images, views, strict=True):
        path = root / "test_images" / str(patient.number) / f"{image}.dcm"
        _write_image(path, patient, image, side, view, _stored(patient, side, view, shape, rng, False, False))
        rows.append(f"2,{patient.number},{image},{side},{view},60,0,29,{patient.number}_{side}")
    write_text(root / "test.csv", "".join(f"{row}\n" for row in rows))
    submission = ["prediction_id,cancer", *(f"{patient.number}_{side},0.021168" for side in "LR")]
    write_text(root / "sample_submission.csv", "".join(f"{row}\n" for row in submission))
