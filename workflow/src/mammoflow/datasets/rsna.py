"""RSNA Screening Mammography Breast Cancer Detection (Kaggle 2022-23; also RSNA MIRA).

Layout: ``train.csv`` and ``train_images/<patient_id>/<image_id>.dcm``; one exam per patient. 54,706 images of 11,913
patients; the table answers all that an inventory needs, so no header is opened.

Truth is per breast: ``cancer`` 1 is biopsy-proven, 0 is free of cancer by follow-up (a benign lesion is possible).
``BIRADS`` (0, 1, 2) and ``density`` are known at site 1 mostly. ``implant`` is per patient at site 1: it need not be in
the breast that is shown. Views other than CC and MLO (AT, LM, ML, LMO) keep their word.

Not taken over: ``biopsy``, ``invasive`` and ``difficult_negative_case`` are known after the reading only and would leak
the outcome into features; the images of ``test.csv`` (four of one patient) carry no label and are not listed.
"""

import logging
from pathlib import Path

import pandas as pd

from mammoflow.datasets.base import (
    Detection,
    Inventory,
    files_by_stem,
    finish_inventory,
    map_words,
    mark_missing,
    parse_int,
    read_csv,
    require_directory,
    require_values,
    source_keys,
)
from mammoflow.datasets.catalog import ARCHIVES

LOG = logging.getLogger(__name__)
NAME = "rsna"
TABLE, IMAGES, SUFFIXES = "train.csv", "train_images", {".dcm"}
COLUMNS = [
    "site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "BIRADS", "implant", "density",
    "machine_id",
]  # fmt: skip
# Columns that no other archive has in a ``train.csv``: what tells a folder of ours from any other Kaggle download.
SIGNATURE = {"site_id", "patient_id", "image_id", "cancer", "difficult_negative_case"}

PATHOLOGY = {"0": "NEGATIVE", "1": "MALIGNANT"}
SOURCE = {"0": "followup", "1": "pathology"}
SIDES = {"L": "L", "R": "R"}
BIRADS = {word: f"BI-RADS {grade}" for grade in "012" for word in (grade, f"{grade}.0")}
DENSITY = {grade: f"DENSITY {grade}" for grade in "ABCD"}
IMPLANT = {"0": 0, "1": 1}


def detect(root: Path) -> Detection | None:
    """The archive, when ``train.csv`` has its columns."""
    root = Path(root)
    table = root / TABLE
    if not table.is_file():
        return None
    with table.open(encoding="utf-8-sig", errors="replace") as lines:
        names = {name.strip() for name in lines.readline().split(",")}
    if not names >= SIGNATURE:
        return None
    listed = _stems(read_csv(table, ["patient_id", "image_id"], NAME))
    absent = len(listed) - int(listed.isin(files_by_stem(root, IMAGES, SUFFIXES)).sum())
    missing = [f"{absent} of {len(listed)} images of {TABLE} below {IMAGES}/"] if absent else []
    return Detection(NAME, root, len(listed) - absent, missing)


def inventory(root: Path) -> Inventory:
    """Tables of the archive at ``root``; see :class:`mammoflow.datasets.base.Adapter`. ``findings`` is empty."""
    root = require_directory(root, NAME, ARCHIVES[NAME].put_here)
    path = root / TABLE
    table = read_csv(path, COLUMNS, NAME)
    require_values(table, ["patient_id", "image_id", "laterality", "view", "cancer"], path)

    stems, files = _stems(table), files_by_stem(root, IMAGES, SUFFIXES)
    extra = len(files.keys() - set(stems))
    if extra:
        LOG.warning("%s: %d files below %s are not in %s and are left out", NAME, extra, root / IMAGES, TABLE)
    images = pd.DataFrame(
        {
            "dataset": NAME,
            "image_id": table["image_id"],
            "study_id": table["patient_id"],
            "patient_id": table["patient_id"],
            "group_id": NAME + ":" + table["patient_id"],
            "path": stems.map(files),
            "file_format": "dicom",
            "laterality": map_words(table["laterality"], SIDES, path),
            "view_position": table["view"],
            "machine": table["machine_id"],
            "age": parse_int(table["age"], path),
            "implant": map_words(table["implant"], IMPLANT, path),
            "breast_birads": map_words(table["BIRADS"], BIRADS, path),
            "breast_density": map_words(table["density"], DENSITY, path),
            "density_native": table["density"],
            "pathology": map_words(table["cancer"], PATHOLOGY, path),
            "label_source": map_words(table["cancer"], SOURCE, path),
            "label_scope": "breast",
            "site": table["site_id"],
            "use": "labelled",
        }
    )
    return finish_inventory(mark_missing(source_keys(images, root)), pd.DataFrame())


def _stems(table: pd.DataFrame) -> pd.Series:
    return IMAGES + "/" + table["patient_id"] + "/" + table["image_id"]
