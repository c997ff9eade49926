"""The four description tables of CBIS-DDSM, read as lesions in the words of the common schema."""

import re
from pathlib import Path

import pandas as pd

from mammoflow.datasets import base
from mammoflow.errors import UserError
from mammoflow.tables import list_literal, to_json

NAME = "cbis_ddsm"
TABLE_NAMES = {
    f"{kind}_case_description_{split}_set.csv": (kind, split)
    for kind in ("mass", "calc")
    for split in ("train", "test")
}

_COLUMNS = [
    "patient id",
    "breast density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
]
_DESCRIPTORS = {"mass": ["mass shape", "mass margins"], "calc": ["calc type", "calc distribution"]}
_SPLITS = {"train": "training", "test": "test"}
PATHOLOGIES = ["BENIGN_WITHOUT_CALLBACK", "BENIGN", "MALIGNANT"]  # the last is the worst
_DENSITIES = {1: "DENSITY A", 2: "DENSITY B", 3: "DENSITY C", 4: "DENSITY D"}  # 0, on two rows: unknown
# Mass shapes that name a finding of their own; a lesion of such shapes alone is not a mass.
_SHAPE_CATEGORIES = {
    "ARCHITECTURAL_DISTORTION": "Architectural Distortion",
    "ASYMMETRIC_BREAST_TISSUE": "Asymmetry",
    "FOCAL_ASYMMETRIC_DENSITY": "Focal Asymmetry",
    "LYMPH_NODE": "Suspicious Lymph Node",
}
IMAGE_FOLDER = re.compile(r"(Mass|Calc)-(Training|Test)_P_\d{5}_(LEFT|RIGHT)_(CC|MLO)")


def find_tables(root: Path, files: list[Path]) -> list[Path]:
    """The four tables anywhere below ``root``, the nearest of several copies; or beside ``root``.

    Beside it only when image folders of the archive lie below: a neighbour's tables must not turn an empty or wrong
    folder into an archive whose files are all missing.
    """
    nearest = sorted(files, key=lambda path: (len(path.parts), path))
    if any(IMAGE_FOLDER.match(part) for path in files for part in path.relative_to(root).parts):
        nearest += sorted(root.resolve().parent.glob("*.csv"))
    tables = [next((path for path in nearest if path.name == name), None) for name in TABLE_NAMES]
    absent = [name for name, path in zip(TABLE_NAMES, tables, strict=True) if path is None]
    if absent:
        raise UserError(
            f"{root} holds no {absent[0]}: put the four *_case_description_*_set.csv tables of TCIA's CBIS-DDSM page "
            "there, or set datasets.cbis_ddsm.root"
        )
    return tables


def read_table(path: Path) -> pd.DataFrame:
    """One of the four tables, one row per lesion: names and words of the common schema, series UIDs out of the paths.

    The mass tables write ``breast_density``, the calc tables ``breast density``; the last path of each row ends with a
    line break inside its quotes. Raises UserError with file, column and cure.
    """
    kind, split = TABLE_NAMES[path.name]
    frame = base.read_csv(path, ["patient_id"], NAME)
    frame.columns = frame.columns.str.replace("_", " ")
    absent = [name for name in [*_COLUMNS, *_DESCRIPTORS[kind]] if name not in frame]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}: put the unchanged table of TCIA's CBIS-DDSM page there")
    image_id = _path_part(frame["image file path"], 0, path)
    words = {name.replace(" ", "_"): frame[name].map(_split_words) for name in _DESCRIPTORS[kind]}
    shapes = words.get("mass_shape", [None] * len(frame))
    return pd.DataFrame(
        {
            "image_id": image_id,
            "patient_id": frame["patient id"],
            "finding_id": image_id + "_" + frame["abnormality id"],
            "laterality": base.map_words(frame["left or right breast"], {"LEFT": "L", "RIGHT": "R"}, path),
            "view_position": base.map_words(frame["image view"], {"CC": "CC", "MLO": "MLO"}, path),
            "density_native": frame["breast density"],
            "breast_density": _grade(frame["breast density"], 4, path).map(_DENSITIES).astype("string"),
            "assessment": _grade(frame["assessment"], 6, path),
            "pathology": base.map_words(frame["pathology"], {word: word for word in PATHOLOGIES}, path),
            "subtlety": _grade(frame["subtlety"], 5, path).replace(0, pd.NA),  # the scale is 1 to 5
            "finding_native": frame["abnormality type"],
            "finding_categories": [list_literal(_categories(shape)) for shape in shapes],
            "attributes": [
                to_json({name: row for name, row in zip(words, rows, strict=True) if row})
                for rows in zip(*words.values(), strict=True)
            ],
            "split_official": _SPLITS[split],
            "image_series": _path_part(frame["image file path"], -2, path),
            "crop_series": _path_part(frame["cropped image file path"], -2, path),
            "mask_series": _path_part(frame["ROI mask file path"], -2, path),
        }
    )


def _split_words(text: str) -> list[str]:
    """``PLEOMORPHIC-PLEOMORPHIC`` -> one word; words that the archive invents stay as they are; ``N/A`` is unknown."""
    return [] if pd.isna(text) or text == "N/A" else list(dict.fromkeys(text.split("-")))


def _categories(shapes: list[str] | None) -> list[str]:
    """Categories in VinDr-Mammo's words; ``shapes`` is None for calcifications."""
    if shapes is None:
        return ["Suspicious Calcification"]
    special = [_SHAPE_CATEGORIES[shape] for shape in shapes if shape in _SHAPE_CATEGORIES]
    return special if special and len(special) == len(shapes) else ["Mass", *special]


def _grade(values: pd.Series, highest: int, path: Path) -> pd.Series:
    numbers = base.parse_int(values, path)
    outside = numbers[(numbers < 0) | (numbers > highest)]
    if len(outside):
        raise UserError(
            f"{path}, column {values.name!r}: {outside.iloc[0]} is not one of 0 to {highest}; "
            "correct the table, or take the archive's unchanged file"
        )
    return numbers


def _path_part(values: pd.Series, part: int, path: Path) -> pd.Series:
    """A part of ``<folder>/<study>/<series>/000000.dcm``."""
    parts = values.fillna("").str.split("/")
    bad = values[parts.str.len() < 4]
    if len(bad):
        raise UserError(
            f"{path}, column {values.name!r}: {bad.iloc[0]!r} is not a path of the form folder/study/series/file; "
            "correct the table, or take the archive's unchanged file"
        )
    return parts.str[part].astype("string")
