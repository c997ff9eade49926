"""Readings of exams by radiologists, from CSV or from a Label Studio export, as three plain tables.

CSV: the columns of VinDr-Mammo's ``finding_annotations.csv`` (without ``split``) and ``reader``. One row per finding;
an image without a finding has one row whose ``finding_categories`` is empty or ``['No Finding']``. Several categories
stand as a Python list literal or joined by semicolons.

JSON: Label Studio's export "JSON" (https://labelstud.io/guide/task_format), one task per image. ``data`` holds
study_id, image_id, laterality, view_position, and height and width of the stored image, all of which the picture must
show; an annotation is one reader's (``completed_by``). Of its results are read: the choices named ``breast_birads`` and
``breast_density``; each rectangle (``rectanglelabels``), whose labels are the finding's categories; and the per-region
choice ``finding_birads`` of the same id. docs/double-reading.md shows the labelling interface. Other results (comments,
keypoints) are passed over.
"""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mammoflow import tables
from mammoflow.datasets.base import read_csv
from mammoflow.datasets.vindr_mammo import CATEGORIES, NO_FINDING
from mammoflow.errors import UserError

BOX = ["xmin", "ymin", "xmax", "ymax"]
IMAGE = ["study_id", "series_id", "image_id", "laterality", "view_position", "height", "width"]
BREAST = ["reader", "study_id", "image_id", "laterality", "breast_birads", "breast_density"]
FINDING = ["reader", "study_id", "image_id", "laterality", "finding_categories", "finding_birads", *BOX]
CSV_COLUMNS = ["reader", *(name for name in IMAGE if name != "series_id"), "breast_birads", "breast_density",
               "finding_categories", "finding_birads", *BOX]  # fmt: skip


class Readings(NamedTuple):
    """images: one row per image. breasts: one per reader and image, with what the reader said of the image's breast.

    findings: one per reader and box, ``finding_categories`` a sorted list literal, boxes in pixels of the stored image.
    """

    images: pd.DataFrame
    breasts: pd.DataFrame
    findings: pd.DataFrame


def read_readings(paths: list[Path]) -> Readings:
    """Read and join files of readings (``.csv`` or ``.json``). Raises UserError where they contradict each other."""
    rows = pd.DataFrame([row for path in paths for row in _rows(Path(path))], columns=[*CSV_COLUMNS, "series_id"])
    if rows.empty:
        raise UserError(f"{', '.join(map(str, paths))}: no reading in there")
    rows = rows.astype("string").astype({"height": "Int64", "width": "Int64", **dict.fromkeys(BOX, "Float64")})
    rows["series_id"] = rows["series_id"].fillna(rows["study_id"])
    images = rows[IMAGE].drop_duplicates()
    twice = images.loc[images["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise UserError(
            f"image {twice.iloc[0]} is described in two ways (study, side, view or size): correct the files"
        )
    breasts = rows[BREAST].drop_duplicates()
    twice = breasts[breasts.duplicated(["reader", "image_id"])]
    if len(twice):
        raise UserError(
            f"reader {twice['reader'].iloc[0]} gives image {twice['image_id'].iloc[0]} two BI-RADS or densities: "
            "correct the files, or give each reading once"
        )
    findings = rows.loc[rows["finding_categories"].notna(), FINDING]
    by = {"images": ["study_id", "image_id"], "breasts": ["study_id", "image_id", "reader"],
          "findings": ["study_id", "image_id", "reader", "xmin", "ymin"]}  # fmt: skip
    parts = {"images": images, "breasts": breasts, "findings": findings}
    return Readings(**{name: part.sort_values(by[name], ignore_index=True) for name, part in parts.items()})


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return _label_studio(path)
    if path.suffix != ".csv":
        raise UserError(f"{path}: readings are .csv or Label Studio's .json")
    table = read_csv(path, CSV_COLUMNS, "readings")
    named = [*CSV_COLUMNS, *(["series_id"] if "series_id" in table else [])]
    return [_row(path, row) for row in table[named].astype(object).where(table[named].notna(), None).to_dict("records")]


def _row(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """One row with its words in our spelling. Raises UserError that names the file, the image and the value."""
    where = f"{path}, image {row['image_id']}"
    for name in ("reader", "study_id", "image_id", "laterality", "view_position", "height", "width"):
        if row[name] is None:
            raise UserError(f"{where}: {name} is empty")
    if row["laterality"] not in tables.LATERALITIES:
        raise UserError(f"{where}: laterality {row['laterality']!r} is not L or R")
    row["breast_birads"] = _graded(row["breast_birads"], "BI-RADS ", tables.BIRADS, where)
    row["finding_birads"] = _graded(row["finding_birads"], "BI-RADS ", tables.BIRADS, where)
    row["breast_density"] = _graded(row["breast_density"], "DENSITY ", tables.DENSITIES, where)
    row["finding_categories"] = _categories(row["finding_categories"], where)
    try:
        row |= {name: int(row[name]) for name in ("height", "width")}
        row |= {name: None if row[name] is None else float(row[name]) for name in BOX}
    except ValueError as error:
        raise UserError(f"{where}: a size or a box is no number ({error})") from None
    return row


def _graded(word: str | None, prefix: str, allowed: list[str], where: str) -> str | None:
    """``4``, ``BI-RADS 4`` and ``bi-rads 4`` are one grade."""
    if word is None or not word.strip():
        return None
    grade = word.strip().upper()
    grade = grade if grade.startswith(prefix) else prefix + grade
    if grade not in allowed:
        raise UserError(f"{where}: {word!r} is not one of {', '.join(allowed)}")
    return grade


def _categories(text: str | None, where: str) -> str | None:
    """A sorted list literal of known categories; None for no finding."""
    if text is None or not text.strip():
        return None
    try:
        words = ast.literal_eval(text) if text.startswith("[") else [word.strip() for word in text.split(";")]
    except (SyntaxError, ValueError):
        words = [text]
    unknown = [word for word in words if word not in (*CATEGORIES, NO_FINDING)]
    if unknown or (NO_FINDING in words and len(words) > 1):
        raise UserError(f"{where}: {text!r} is not a list of known findings ({', '.join(CATEGORIES)})")
    return None if words in ([], [NO_FINDING]) else tables.list_literal(sorted(words))


def _label_studio(path: Path) -> list[dict[str, Any]]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for task in tasks for annotation in task["annotations"] for row in _annotation(task, annotation)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is not a Label Studio export of one image per task ({type(error).__name__}: {error}): "
            "export the project as JSON, not as JSON-MIN"
        ) from None
    return [_row(path, row) for row in rows]


def _annotation(task: dict[str, Any], annotation: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one reader's annotation of one image; none where it was skipped."""
    if annotation.get("was_cancelled"):
        return []
    reader = annotation["completed_by"]
    results = annotation["result"]
    choices = {}  # (region, or None for the whole image; name of the control) -> the choice
    for result in results:
        if result["type"] == "choices":
            region = result["id"] if result["from_name"] == "finding_birads" else None
            choices[region, result["from_name"]] = result["value"]["choices"][0]
    data = {name: task["data"].get(name) for name in IMAGE}
    common = {
        **{name: None if value is None else str(value) for name, value in data.items()},
        "reader": str(reader.get("email", reader.get("id")) if isinstance(reader, dict) else reader),
        "breast_birads": choices.get((None, "breast_birads")),
        "breast_density": choices.get((None, "breast_density")),
    }
    for result in results:  # the tool knows the size of the picture that was shown
        for name in ("height", "width"):
            common[name] = common[name] or result.get(f"original_{name}")
    rectangles = [result for result in results if result["type"] == "rectanglelabels"]
    boxes = [
        {
            "finding_categories": tables.list_literal(rectangle["value"]["rectanglelabels"]),
            "finding_birads": choices.get((rectangle["id"], "finding_birads")),
            **_pixels(rectangle["value"], int(common["width"]), int(common["height"])),
        }
        for rectangle in rectangles
    ]
    nothing = dict.fromkeys(["finding_categories", "finding_birads", *BOX])
    return [{**common, **box} for box in boxes or [nothing]]


def _pixels(value: dict[str, float], width: int, height: int) -> dict[str, float]:
    """Label Studio gives corners and sizes in percent of the picture."""
    x, y = value["x"] * width / 100, value["y"] * height / 100
    right, bottom = x + value["width"] * width / 100, y + value["height"] * height / 100
    return {"xmin": x, "ymin": y, "xmax": right, "ymax": bottom}
