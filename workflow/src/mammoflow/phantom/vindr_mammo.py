"""Synthetic VinDr-Mammo: ``images/<study_id>/<image_id>.dicom``, both annotation tables and ``metadata.csv``.

Follows release 1.0.0: ids are md5 digests and stand in the files as UIDs, which they are not; the objects have no
SOPClassUID and Media Storage SOP Class UID ``1.2.3.4``; J2K of 12 to 16 bits from three vendors, windows as lists;
categories are Python list literals; ``No Finding`` rows name the images without one; a box reaches beyond its image.

:func:`annotation_tables` gives the tables alone, at full size and with every count of the paper's Tables 3 to 5.
"""

from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydicom.uid import JPEG2000Lossless

from mammoflow.files import replacing, write_text
from mammoflow.phantom import mg_dicom
from mammoflow.phantom.anatomy import Woman
from mammoflow.phantom.exam import Planned, draw_view, plan_lesion

SHAPES = {"small": (640, 512), "full": (3518, 2800)}
VENDORS = [
    ("SIEMENS", "Mammomat Inspiration", 12, "MONOCHROME2", "LINEAR"),
    ("IMS s.r.l.", "GIOTTO CLASS", 14, "MONOCHROME1", "SIGMOID"),
    ("Planmed", "Nuance", 16, "MONOCHROME2", None),
]
CATEGORY = {
    "mass": "Mass",
    "calcification": "Suspicious Calcification",
    "architectural_distortion": "Architectural Distortion",
    "asymmetry": "Focal Asymmetry",
}
BREAST_COLUMNS = ["study_id", "series_id", "image_id", "laterality", "view_position", "height", "width",
                  "breast_birads", "breast_density", "split"]  # fmt: skip
FINDING_COLUMNS = ["image_id", *BREAST_COLUMNS[:2], *BREAST_COLUMNS[3:9], "finding_categories", "finding_birads",
                   "xmin", "ymin", "xmax", "ymax", "split"]  # fmt: skip
VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]

# Tables 3 to 5 of the paper: (training, test).
BIRADS_COUNTS = {"1": (5362, 1341), "2": (1871, 467), "3": (372, 93), "4": (305, 76), "5": (90, 23)}
DENSITY_COUNTS = {"A": (40, 10), "B": (764, 190), "C": (6116, 1530), "D": (1080, 270)}
FINDING_COUNTS = {
    "Mass": (989, 237),
    "Suspicious Calcification": (428, 115),
    "Asymmetry": (77, 20),
    "Focal Asymmetry": (216, 53),
    "Global Asymmetry": (20, 6),
    "Architectural Distortion": (95, 24),
    "Skin Thickening": (45, 12),
    "Skin Retraction": (15, 3),
    "Nipple Retraction": (30, 7),
    "Suspicious Lymph Node": (46, 11),
}
UNGRADED = {"Skin Thickening", "Skin Retraction", "Nipple Retraction", "Suspicious Lymph Node"}


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``. A third of the women have a malignant lesion: a small set must be learnable."""
    root, shape = Path(root), SHAPES[size]
    rng = np.random.default_rng((seed, 1))
    truths = [("malignant", "benign", "normal")[k % 3] for k in range(patients)]
    rng.shuffle(truths)
    breasts, findings, metadata, sick_women = [], [], [], []
    for k, truth in enumerate(truths):
        study, sick = digest(seed, "study", k), str(rng.choice(["L", "R"]))
        density = str(rng.choice(list("ABCD"), p=[0.1, 0.3, 0.4, 0.2]))
        woman, vendor, age = Woman.draw(rng, density), VENDORS[k % len(VENDORS)], int(rng.integers(35, 75))
        lesions = {side: [] if truth == "normal" or side != sick else [plan_lesion(rng, truth == "malignant")]
                   for side in "LR"}  # fmt: skip
        sick_women += [study] if truth == "malignant" else []
        grades = {side: _grade(lesions[side], rng) for side in "LR"}
        for view_number, (side, view) in enumerate(VIEWS):
            image, series = digest(seed, "image", k, side, view), digest(seed, "series", k, side, view)
            own = np.random.default_rng((seed, 2, k, view_number))
            drawn = draw_view(shape, side, view, woman, lesions[side], own, marker=True)
            _write_image(
                root / "images" / study / f"{image}.dicom", drawn.pixels, vendor, image, study, series, age, side, view
            )
            breast = [study, series, image, side, view, *shape, f"BI-RADS {grades[side]}", f"DENSITY {density}",
                      "test" if k % 5 == 4 else "training"]  # fmt: skip
            breasts.append(breast)
            boxes = drawn.boxes if grades[side] in "345" else []  # VinDr marks what is BI-RADS 3 or above
            findings += _finding_rows(breast, lesions[side], grades[side], boxes)
            if truth == "malignant" and boxes and len(sick_women) % 3 == 1:  # each third
                findings.append(_node_row(breast))
            metadata.append([image, series, f"{age:03d}Y", vendor[0], vendor[1], vendor[3], *shape])
    _write_table(root / "breast-level_annotations.csv", pd.DataFrame(breasts, columns=BREAST_COLUMNS))
    _write_table(root / "finding_annotations.csv", pd.DataFrame(findings, columns=FINDING_COLUMNS))
    columns = ["SOP Instance UID", "Series Instance UID", "Patient's Age", "Manufacturer", "Manufacturer's Model Name",
               "Photometric Interpretation", "Rows", "Columns"]  # fmt: skip
    _write_table(root / "metadata.csv", pd.DataFrame(metadata, columns=columns))
    write_text(root / "LICENSE.txt", "Synthetic images drawn by a program (mammoflow phantom). They show no patient.\n")


def annotation_tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(breast-level, findings) of 5,000 exams and 20,000 images with the exact counts of Tables 3 to 5; no images.

    BI-RADS is dealt per breast, density per woman, each box to a random image of its split.
    """
    rng = np.random.default_rng((seed, 4))
    breasts = pd.concat([_split_of_breasts(rng, part, name) for part, name in enumerate(("training", "test"))])
    breasts = breasts.reset_index(drop=True)
    rows = []
    for part, name in enumerate(("training", "test")):
        pool = breasts[breasts["split"] == name]
        names = [word for word, counts in FINDING_COUNTS.items() for _ in range(counts[part])]
        # The paper's boxes may carry several categories: every retraction of the skin joins a mass.
        alone = [[word] for word in names if word not in ("Skin Retraction", "Mass")]
        joined = names.count("Skin Retraction")
        alone += [["Mass", "Skin Retraction"]] * joined + [["Mass"]] * (names.count("Mass") - joined)
        images = pool.iloc[rng.integers(0, len(pool), len(alone))]
        rows += [_marked(row, words, rng) for row, words in zip(images.itertuples(), alone, strict=True)]
    findings = pd.DataFrame(rows, columns=FINDING_COLUMNS)
    plain = breasts[~breasts["image_id"].isin(findings["image_id"])].assign(finding_categories="['No Finding']")
    return breasts, pd.concat([findings, plain.reindex(columns=FINDING_COLUMNS)], ignore_index=True)


def digest(*source: object) -> str:
    """An md5-like id, a function of its arguments."""
    return md5(repr(source).encode(), usedforsecurity=False).hexdigest()


def _split_of_breasts(rng: np.random.Generator, part: int, name: str) -> pd.DataFrame:
    """Four images per exam of one split; the density counts are even, so that both breasts of a woman agree."""
    grades = [grade for grade, counts in BIRADS_COUNTS.items() for _ in range(counts[part])]
    densities = [letter for letter, counts in DENSITY_COUNTS.items() for _ in range(counts[part] // 2)]
    rng.shuffle(grades)
    rng.shuffle(densities)
    rows = []
    for exam, density in enumerate(densities):
        study = digest(name, exam)
        for place, (side, view) in enumerate(VIEWS):
            ids = [study, digest(name, exam, "series", place), digest(name, exam, "image", place)]
            grade = grades[2 * exam + (side == "R")]
            rows.append([*ids, side, view, 3518, 2800, f"BI-RADS {grade}", f"DENSITY {density}", name])
    return pd.DataFrame(rows, columns=BREAST_COLUMNS)


def _marked(image: Any, words: list[str], rng: np.random.Generator) -> list[Any]:
    xmin, ymin = rng.uniform(0, 2300), rng.uniform(0, 3000)
    grade = pd.NA if set(words) <= UNGRADED else f"BI-RADS {rng.choice(['3', '4', '5'])}"
    return [image.image_id, image.study_id, image.series_id, image.laterality, image.view_position, image.height,
            image.width, image.breast_birads, image.breast_density, str(words), grade, xmin, ymin,
            xmin + rng.uniform(20, 500), ymin + rng.uniform(20, 500), image.split]  # fmt: skip


def _grade(lesions: list[Planned], rng: np.random.Generator) -> str:
    if not lesions:
        return "1"
    return str(rng.choice(["4", "5"] if lesions[0].malignant else ["2", "3"]))


def _finding_rows(
    breast: list[Any], lesions: list[Planned], grade: str, boxes: list[tuple[int, int, int, int]]
) -> list[list[Any]]:
    study, series, image, *place, split = breast
    head = [image, study, series, *place]
    if not boxes:
        return [[*head, "['No Finding']", pd.NA, *[pd.NA] * 4, split]]
    words = [[CATEGORY[lesion.kind], *_with_skin(lesion, grade)] for lesion in lesions]
    return [
        [*head, str(names), f"BI-RADS {grade}", *map(float, box), split]
        for names, box in zip(words, boxes, strict=True)
    ]


def _with_skin(lesion: Planned, grade: str) -> list[str]:
    return ["Skin Retraction"] if grade == "5" and lesion.kind == "mass" else []


def _node_row(breast: list[Any]) -> list[Any]:
    """A lymph node at the chest wall: a box that leaves the frame and, as all of its category, has no BI-RADS."""
    study, series, image, side, view, height, width, birads, density, split = breast
    xmin, xmax = (-2.5, width * 0.08) if side == "L" else (width * 0.92, width + 2.5)
    return [image, study, series, side, view, height, width, birads, density, "['Suspicious Lymph Node']", pd.NA,
            xmin, 4.0, xmax, height * 0.1, split]  # fmt: skip


def _write_image(
    path: Path,
    drawn: np.ndarray,
    vendor: tuple[str, str, int, str, str | None],
    image: str,
    study: str,
    series: str,
    age: int,
    side: str,
    view: str,
) -> None:
    maker, model, bits, photometric, function = vendor
    top = (1 << bits) - 1
    pixels = np.rint(drawn * top).astype(np.uint16)
    elements: dict[str, Any] = {
        "SOPInstanceUID": image,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "Modality": "MG",
        "Manufacturer": maker,
        "ManufacturerModelName": model,
        "PatientAge": f"{age:03d}Y",
        "ImageLaterality": side,
        "ViewPosition": view,
        "PhotometricInterpretation": photometric,
        "WindowCenter": [top * 0.5, top * 0.45],
        "WindowWidth": [top * 0.95, top * 0.7],
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "PixelPaddingValue": top if photometric == "MONOCHROME1" else 0,
    }
    if function:
        elements["VOILUTFunction"] = function
    if photometric == "MONOCHROME1":
        pixels = top - pixels
    mg_dicom.write(path, elements, pixels, bits, JPEG2000Lossless, media_class="1.2.3.4")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as handle:
        table.to_csv(handle, index=False, lineterminator="\n")
