"""nnU-Net v2 raw layout (documentation/dataset_format.md of MIC-DKFZ/nnUNet): ``imagesTr``, ``labelsTr``, ``imagesTs``,
``labelsTs``, ``dataset.json``, and ``splits_final.json`` for the folder of nnU-Net's preprocessed data.

What is drawn into the label maps: the contour or circle where an expert drew one, else the lesion's box, filled. The
values are 1 benign, 2 malignant, 3 of unknown truth (where there are any); where lesions overlap the worse one is seen.
``imagesTr`` holds the cohort's train and val images: the cohort's folds come first in ``splits_final.json``; its last
entry trains on train and validates on val. ``dataset.json`` names the archives' licences.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.exports.common import Export, place_file, plain_rows
from mammoflow.files import write_json
from mammoflow.imaging import png
from mammoflow.pack import member_name

VALUES = {0: 1, 1: 2, None: 3}  # by the lesion's label_malignant
WORDS = {1: "benign", 2: "malignant", 3: "unknown_lesion"}
_ORDER = [1, 3, 2]  # painted in this order: the malignant one last
FINER = 8


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
        "description": "label maps: contours and circles where drawn, else filled boxes",
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
            if lesion["outline"] is None:
                xmin, ymin, xmax, ymax = lesion["box"]
                rows, columns = _pixels(ymin, ymax, height), _pixels(xmin, xmax, width)
                labels[rows, columns] = value
            else:
                _fill(labels, lesion["outline"], value)
    return labels


def _fill(labels: np.ndarray, points: np.ndarray, value: int) -> None:
    """Give ``value`` to the pixels at least half of which lies inside the polygon ``points`` (n, 2)."""
    # OpenCV also fills every pixel that the outline touches, so it fills a finer grid, which is then averaged.
    height, width = labels.shape
    x0, y0 = np.floor(points.min(axis=0)).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int), [width, height])
    if x1 <= x0 or y1 <= y0:
        return
    fine = np.zeros(((y1 - y0) * FINER, (x1 - x0) * FINER), np.uint8)
    cv2.fillPoly(fine, [np.round((points - [x0, y0]) * FINER - 0.5).astype(np.int32)], 255)
    share = cv2.resize(fine, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    labels[y0:y1, x0:x1][share >= 128] = value


def _pixels(low: float, high: float, size: int) -> slice:
    """The pixels whose centres lie in low..high; at least one."""
    first = min(int(np.ceil(low - 0.5)), size - 1)
    return slice(max(first, 0), max(int(np.ceil(high - 0.5)), first + 1))
