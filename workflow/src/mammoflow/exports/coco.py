"""COCO detection JSON (https://cocodataset.org/#format-data): ``train.json``, ``val.json``, ``test.json``.

``file_name`` is relative to the store. A finding with two categories is two annotations with one ``finding_id``, as
VinDr-Mammo counts them. ``segmentation`` is the contour or circle that an expert drew; it is empty where only a box is
known, since a box is no outline.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mammoflow import tables
from mammoflow.datasets.catalog import ARCHIVES
from mammoflow.exports.common import Export, plain_rows
from mammoflow.files import write_json
from mammoflow.outlines import area

IMAGE_COLUMNS = ["dataset", "image_id", "patient_id", "study_id", "laterality", "view_position", "label_malignant",
                 "breast_density", "breast_birads", "split", "fold"]  # fmt: skip


def write(cohort: Export, out: Path) -> list[str]:
    """Write one file per split. Returns notes for the user."""
    images, notes = cohort.fully_marked()
    rows = plain_rows(images)
    words = sorted({word for row in rows for lesion in cohort.of_image(row) for word in lesion["categories"]})
    numbers = {word: number for number, word in enumerate(words, start=1)}
    archives = {name: number for number, name in enumerate(sorted({row["dataset"] for row in rows}), start=1)}
    for split in tables.SPLITS:
        of_split = [(number, row) for number, row in enumerate(rows, start=1) if row["split"] == split]
        boxes = [entry for number, row in of_split for entry in _annotations(cohort, number, row, numbers)]
        write_json(out / f"{split}.json", {
            "info": {"description": f"cohort {cohort.name}, {split}; file names are relative to the store"},
            "licenses": [
                {"id": number, "name": f"{name}: {ARCHIVES[name].licence}", "url": ""}
                for name, number in archives.items()
            ],
            "images": [_image(number, row, archives[row["dataset"]]) for number, row in of_split],
            "annotations": [{"id": number, **entry} for number, entry in enumerate(boxes, start=1)],
            "categories": [
                {"id": number, "name": word, "supercategory": "finding"} for word, number in numbers.items()
            ],
        })  # fmt: skip
        notes.append(f"{split}.json: {len(of_split)} images, {len(boxes)} boxes")
    return notes


def _image(number: int, row: dict[str, Any], licence: int) -> dict[str, Any]:
    size = {"width": row["out_width"], "height": row["out_height"], "license": licence}
    # image_id is taken in COCO: an annotation's reference to images.id.
    named = {("source_image_id" if name == "image_id" else name): row[name] for name in IMAGE_COLUMNS}
    return {"id": number, "file_name": row["image_path"], **size, **named}


def _annotations(cohort: Export, number: int, row: dict[str, Any], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    for lesion in cohort.of_image(row):
        xmin, ymin, xmax, ymax = (round(float(value), 2) for value in lesion["box"])
        drawn = lesion["rings"]
        box = [xmin, ymin, round(xmax - xmin, 2), round(ymax - ymin, 2)]
        for word in lesion["categories"]:
            yield {
                "image_id": number,
                "category_id": numbers[word],
                "bbox": box,
                "area": round(box[2] * box[3] if drawn is None else area(drawn), 2),
                "segmentation": [] if drawn is None else [np.round(ring, 2).ravel().tolist() for ring in drawn],
                "iscrowd": 0,
                "finding_id": lesion["finding_id"],
                "finding_birads": lesion["finding_birads"],
                "label_malignant": lesion["label_malignant"],
            }
