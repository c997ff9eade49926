"""nnU-Net v2 raw layout (documentation/dataset_format.md of MIC-DKFZ/nnUNet): ``imagesTr``, ``labelsTr``, ``imagesTs``,
``labelsTs``, ``dataset.json``, and ``splits_final.json`` for the folder of nnU-Net's preprocessed data.

What is drawn into the label maps: the contour, circle or mask where an expert drew one, else the lesion's box, filled.
The values are 1 benign, 2 malignant, 3 of unknown truth (where there are any); where lesions overlap the worse one is
seen. ``imagesTr`` holds the cohort's train and val images: the cohort's folds come first in ``splits_final.json``; its
last entry trains on train and validates on val. ``dataset.json`` names the archives' licences.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.exports.common import Export, place_file, plain_rows
from mammoflow.files import write_json
from mammoflow.imaging import png
from mammoflow.outlines import fill
from mammoflow.pack import member_name

VALUES = {0: 1, 1: 2, None: 3}  # by the lesion's label_malignant
WORDS = {1: "benign", 2: "malignant", 3: "unknown_lesion"}
_ORDER = [1, 3, 2]  # painted in this order: the malignant one last


def write(cohort: Export, out: Path) -> list[str]:
    """Write the dataset's folder (name it Dataset###_Name, as nnU-Net wants). Returns notes for the user."""
    images, notes = cohort.fully_marked()
    cases = {"train": [], "val": [], "test": []}
    folds: dict[int, list[str]] = {}
    used = {1, 2}
    for row in plain_rows(images):
        case, part = member_name(row["dataset"], row["image_id"]), "Ts" if row["split"] == "test" else "Tr"
        labels = draw_labels(cohort.of_image(row), row["out_height"], row["out_width"])
        used |= set(np.unique(labels).tolist()) - {0}
        place_file(cohort.store / row["image_path"], out / f"images{part}" / f"{case}_0000.png")
        png.write(out / f"labels{part}" / f"{case}.png", labels)
        cases[row["split"]].append(case)
        if row["split"] == "train":
            folds.setdefault(row["fold"], []).append(case)
    splits = [
        {"train": [case for other in sorted(folds) if other != fold for case in folds[other]], "val": folds[fold]}
        for fold in sorted(folds)
    ]
    write_json(out / "splits_final.json", [*splits, {"train": cases["train"], "val": cases["val"]}])
    write_json(out / "dataset.json", {
        "channel_names": {"0": "mammogram"},
        "labels": {"background": 0, **{WORDS[value]: value for value in sorted(used)}},
        "numTraining": len(cases["train"]) + len(cases["val"]),
        "file_ending": ".png",
        "name": cohort.name,
        "description": "label maps: contours, circles and masks where drawn, else filled boxes",
        "licence": {name: ARCHIVES[name].licence for name in sorted(images["dataset"].unique())},
    })  # fmt: skip
    return [*notes, ", ".join(f"{split} {len(names)}" for split, names in cases.items())]


def draw_labels(lesions: list[dict[str, Any]], height: int, width: int) -> np.ndarray:
    """Label map (height, width) uint8 of an image's lesions; see the module's text for what is drawn."""
    labels = np.zeros((height, width), np.uint8)
    for value in _ORDER:
        for lesion in lesions:
            if VALUES[lesion["label_malignant"]] != value:
                continue
            if lesion["rings"] is None:
                xmin, ymin, xmax, ymax = lesion["box"]
                rows, columns = _pixels(ymin, ymax, height), _pixels(xmin, xmax, width)
                labels[rows, columns] = value
            else:
                place, share = fill(labels.shape, lesion["rings"])
                labels[place][share >= 0.5] = value
    return labels


def _pixels(low: float, high: float, size: int) -> slice:
    """The pixels whose centres lie in low..high; at least one."""
    first = min(int(np.ceil(low - 0.5)), size - 1)
    return slice(max(first, 0), max(int(np.ceil(high - 0.5)), first + 1))
