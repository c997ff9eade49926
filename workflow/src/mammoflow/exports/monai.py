"""MONAI's datalist: ``dataset.json`` in the style of the Medical Segmentation Decathlon.

``monai.data.load_decathlon_datalist(path, is_segmentation=False, data_list_key="training", base_dir=STORE)`` gives one
dictionary per image: ``image`` (relative to the store), ``label`` (1 malignant), ``fold``, ``box`` (n x 4 xmin, ymin,
xmax, ymax in pixels of the image, as monai.apps.detection wants them) and ``box_label`` (1 malignant, 0 benign, -1
unknown), and ``case``, ``patient`` and ``study`` as dataset|id. The lists are ``training``, ``validation`` and
``test``; ``fold`` divides ``training``. Images whose lesions are not all marked are left out: an empty ``box`` would
call them free of lesions.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.exports.common import Export, plain_rows
from mammoflow.files import write_json

LISTS = {"train": "training", "val": "validation", "test": "test"}
IDS = {"case": "image_id", "patient": "patient_id", "study": "study_id"}


def write(cohort: Export, out: Path) -> list[str]:
    """Write ``dataset.json``. Returns notes for the user."""
    images, notes = cohort.fully_marked()
    rows = plain_rows(images)
    listed = {key: [_entry(cohort, row) for row in rows if row["split"] == split] for split, key in LISTS.items()}
    datasets = sorted(images["dataset"].unique())
    write_json(out / "dataset.json", {
        "name": cohort.name,
        "description": "mammograms, malignant or not; image paths are relative to the store",
        "licence": "; ".join(f"{name}: {ARCHIVES[name].licence}" for name in datasets),
        "reference": "; ".join(ARCHIVES[name].citation for name in datasets if ARCHIVES[name].citation),
        "tensorImageSize": "2D",
        "modality": {"0": "MG"},
        "labels": {"0": "not malignant", "1": "malignant"},
        "numTraining": len(listed["training"]),
        "numTest": len(listed["test"]),
        **listed,
    })  # fmt: skip
    return [", ".join(f"{key} {len(entries)}" for key, entries in listed.items()), *notes]


def _entry(cohort: Export, row: dict[str, Any]) -> dict[str, Any]:
    lesions = cohort.of_image(row)
    # MONAI takes a word for a path where such a path exists below base_dir, as it does for the name of a dataset alone.
    entry = {key: f"{row['dataset']}|{row[name]}" for key, name in IDS.items()}
    entry |= {"image": row["image_path"], "label": row["label_malignant"]}
    entry |= {name: row[name] for name in ("laterality", "view_position") if row[name] is not None}
    entry["box"] = [np.round(lesion["box"], 2).tolist() for lesion in lesions]
    entry["box_label"] = [-1 if lesion["label_malignant"] is None else lesion["label_malignant"] for lesion in lesions]
    return entry | ({"fold": row["fold"]} if row["split"] == "train" else {})
