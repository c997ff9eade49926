"""A synthetic hospital: a DICOM tree as a picture archive exports it, with ``labels.csv`` and ``findings.csv``.

Files without a suffix in folders of date, patient and series; three vendors, three transfer syntaxes, MONOCHROME1 from
one of them; some views told by ViewCodeSequence alone. Among the mammograms lie what an export brings along: the raw
("For Processing") twin of an image, a magnetic resonance slice, a report without pixels, and a file that is no DICOM.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    MammographyCADSRStorage,
    MRImageStorage,
)

from mammoflow.files import write_text
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import Planned, draw_view, plan_lesion
from mammoflow.phantom.vindr_mammo import CATEGORY

SHAPES = {"small": (640, 512), "full": (3328, 2560)}
VENDORS = [
    ("HOLOGIC, Inc.", "Lorad Selenia", 12, "MONOCHROME2", JPEGLosslessSV1),
    ("GE MEDICAL SYSTEMS", "Senographe Essential", 14, "MONOCHROME1", ExplicitVRLittleEndian),
    ("SIEMENS", "Mammomat Inspiration", 12, "MONOCHROME2", JPEG2000Lossless),
]
VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
LABEL_HEAD = "patient_id,laterality,pathology,birads,density,site"
FINDING_HEAD = "image_id,finding_categories,finding_birads,xmin,ymin,xmax,ymax,pathology"


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the tree into ``root``, one exam of four views a patient. Of five women two have a malignant lesion, two a
    benign one and one has none."""
    root, shape = Path(root), SHAPES[size]
    rng = np.random.default_rng((seed, 1))
    truths = [("malignant", "benign", "malignant", "benign", "normal")[number % 5] for number in range(patients)]
    rng.shuffle(truths)
    labels, findings = [LABEL_HEAD], [FINDING_HEAD]
    for number, truth in enumerate(truths):
        patient, density = f"HOSP{number + 1:05d}", str(rng.choice(list("ABCD")))
        woman, sick = Woman.draw(rng, density), str(rng.choice(["L", "R"]))
        lesion = None if truth == "normal" else plan_lesion(rng, truth == "malignant")
        for side in "LR":
            marked = lesion is not None and side == sick
            word, grade = (truth, "5" if truth == "malignant" else "2") if marked else ("normal", "1")
            labels.append(f"{patient},{side},{word},{grade},{density},{'north' if number % 2 else 'south'}")
        for index, (side, view) in enumerate(VIEWS):
            own = np.random.default_rng((seed, 2, number, index))
            lesions = [lesion] if lesion and side == sick else []
            findings += _write_view(root, shape, (seed, number, index), patient, side, view, woman, lesions, own)
    _write_bycatch(root, seed)
    write_text(root / "labels.csv", "\n".join(labels) + "\n")
    write_text(root / "findings.csv", "\n".join(findings) + "\n")


def _write_view(
    root: Path,
    shape: tuple[int, int],
    source: tuple[int, int, int],
    patient: str,
    side: str,
    view: str,
    woman: Woman,
    lesions: list[Planned],
    rng: np.random.Generator,
) -> list[str]:
    """Write one image and return its rows of ``findings.csv``."""
    seed, number, index = source
    maker, model, bits, photometric, syntax = VENDORS[number % len(VENDORS)]
    drawn, top = draw_view(shape, side, view, woman, lesions, rng, marker=True), (1 << bits) - 1
    pixels = np.rint(drawn.pixels * top).astype(np.uint16)
    if photometric == "MONOCHROME1":
        pixels = top - pixels
    uid = mg_dicom.uid_of(seed, "hospital", number, index)
    elements: dict[str, Any] = {
        "SOPClassUID": mg_dicom.PRESENTATION,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": mg_dicom.uid_of(seed, "hospital study", number),
        "SeriesInstanceUID": mg_dicom.uid_of(seed, "hospital series", number, index),
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": maker,
        "ManufacturerModelName": model,
        "PatientID": patient,
        "PatientAge": f"{40 + number % 40:03d}Y",
        "ImageLaterality": side,
        "PhotometricInterpretation": photometric,
        "ImagerPixelSpacing": ["0.07", "0.07"],
        "WindowCenter": f"{top // 2}",
        "WindowWidth": f"{top}",
        "ViewCodeSequence": mg_dicom.view_code(view),
    }
    if number % 2 == 0:
        elements["ViewPosition"] = view
    folder = root / f"2021-03-{1 + number % 28:02d}" / patient / f"SER{index + 1:04d}"
    mg_dicom.write(folder / f"IM{index + 1:06d}", elements, pixels, bits, syntax)
    if (number, index) == (0, 0):  # the detector's raw data of the same exposure
        raw = elements | {
            "SOPClassUID": DigitalMammographyXRayImageStorageForProcessing,
            "SOPInstanceUID": mg_dicom.uid_of(seed, "hospital raw"),
            "PresentationIntentType": "FOR PROCESSING",
        }
        mg_dicom.write(folder / "IM009001", raw, top - pixels, bits)
    return [
        f"{uid},\"['{CATEGORY[lesion.kind]}']\",{'BI-RADS 5' if lesion.malignant else 'BI-RADS 2'},"
        f"{','.join(map(str, box))},{'malignant' if lesion.malignant else 'benign'}"
        for lesion, box in zip(lesions, drawn.boxes, strict=True)
    ]


def _write_bycatch(root: Path, seed: int) -> None:
    """What an export brings along: a slice of another modality, a report, a text file."""
    common = {"PatientID": "HOSP00001", "StudyInstanceUID": mg_dicom.uid_of(seed, "hospital other study"),
              "SeriesInstanceUID": mg_dicom.uid_of(seed, "hospital other series")}  # fmt: skip
    slices = {"SOPClassUID": MRImageStorage, "Modality": "MR", "SOPInstanceUID": mg_dicom.uid_of(seed, "hospital mr")}
    report = {"SOPClassUID": MammographyCADSRStorage, "Modality": "SR",
              "SOPInstanceUID": mg_dicom.uid_of(seed, "hospital report")}  # fmt: skip
    mg_dicom.write(root / "other" / "IM000001", common | slices, np.full((16, 16), 7, np.uint16), 12)
    mg_dicom.write(root / "other" / "IM000002", common | report, None)
    write_text(root / "other" / "EXPORT.LOG", "exported\n")
