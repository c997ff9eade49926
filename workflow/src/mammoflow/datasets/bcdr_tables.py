"""The two tables of a BCDR sub-set, read in our words: one row per image, one row per contour."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow.datasets import base
from mammoflow.errors import UserError

NAME = "bcdr"
IMAGE_COLUMNS = ["patient_id", "study_id", "series", "image_filename", "image_type_id", "age", "density"]
OUTLINE_COLUMNS = ["patient_id", "study_id", "series", "lesion_id", "image_view", "image_filename", "lw_x_points",
                   "lw_y_points", "classification"]  # fmt: skip
VIEWS = [("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO")]  # image_type_id 0..3, image_view 1..4
NATIVE_VIEWS = {"RCC": VIEWS[0], "LCC": VIEWS[1], "RO": VIEWS[2], "LO": VIEWS[3]}
DENSITIES = {f"{grade}{tail}": f"DENSITY {letter}" for grade, letter in zip("1234", "ABCD", strict=True)
             for tail in ("", ".0")}  # fmt: skip
CLASSES = {"Benign": "BENIGN", "Malign": "MALIGNANT", "Malignant": "MALIGNANT"}
TABLE = re.compile(r"bcdr_([df])(n?)(\d+)_img\.csv", re.IGNORECASE)
_IMAGE = re.compile(r"img_(\d+)_(\d+)_(\d+)_(\w+)\.tiff?", re.IGNORECASE)
KEYS = ["family", "patient", "study"]
# Flags of the contour table, column mammography_<name>.
CATEGORIES = {
    "nodule": "Mass",
    "calcification": "Suspicious Calcification",
    "microcalcification": "Suspicious Calcification",
    "axillary_adenopathy": "Suspicious Lymph Node",
    "architectural_distortion": "Architectural Distortion",
    "stroma_distortion": "Architectural Distortion",
}


def has_outlines(table: Path) -> bool:
    """Whether the sub-set of an image table has a contour table: the normals have none."""
    return not TABLE.fullmatch(table.name)[2]


def outlines_of(table: Path) -> Path:
    """The contour table beside an image table, in any case of letters."""
    wanted = re.sub(r"_img\.csv$", "_outlines.csv", table.name, flags=re.IGNORECASE)
    near = (path for path in table.parent.iterdir() if path.name.lower() == wanted.lower())
    return next(near, table.with_name(wanted))


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table of the archive with its keys: family D or F, patient, study, series as text. ``NaN`` becomes NA."""
    frame = base.read_csv(path, columns, NAME).replace("NaN", pd.NA)
    base.require_values(frame, ["patient_id", "study_id", "series", "image_filename"], path)
    keys = {"patient_id": "patient", "study_id": "study", "series": "series"}
    numbers = {own: base.parse_int(frame[name], path).astype("string") for name, own in keys.items()}
    match = re.match(r"bcdr_([df])", path.name, re.IGNORECASE)
    return frame.assign(**numbers, family=match[1].upper())


def read_images(path: Path) -> pd.DataFrame:
    """One image table, its files looked up; ``path`` is a Path or NA, ``normal`` true for a set of normals."""
    frame = _read(path, IMAGE_COLUMNS)
    codes = base.parse_int(frame["image_type_id"], path)
    names = frame["image_filename"].str.replace("\\", "/").str.split("/").str[-1]
    native = frame["image_type_name"] if "image_type_name" in frame else codes.astype("string")
    sides = [_view(code, word) for code, word in zip(codes, native, strict=True)]
    named = [_named_view(name) for name in names]
    files = {file.name.lower(): file for file in base.find_files(path.parent, {".tif", ".tiff"})}
    found = [files.get(name.lower(), pd.NA) for name in names]
    family = frame["family"].iloc[0] if len(frame) else ""
    return pd.DataFrame(
        {
            **{name: frame[name] for name in [*KEYS, "series"]},
            "image_id": family + "_" + names.str.replace(r"(?i)\.tiff?$", "", regex=True).str.removeprefix("img_"),
            "laterality": [side for side, _ in sides],
            "view_position": [view for _, view in sides],
            "conflict": [own is not None and own[0] != side for own, (side, _) in zip(named, sides, strict=True)],
            "age": base.parse_int(frame["age"], path),
            "density_native": frame["density"],
            "breast_density": base.map_words(frame["density"], DENSITIES, path),
            "path": pd.Series(found, dtype=object),
            "absent": [file is pd.NA for file in found],
            "normal": not has_outlines(path),
        }
    )


def _view(code: Any, native: str) -> tuple[Any, Any]:
    """Side and view of an image_type_id; other projections (4 to 9) keep their native word."""
    if code is not pd.NA and code in range(4):
        return VIEWS[code]
    word = pd.NA if pd.isna(native) else str(native)
    side = word[0].upper() if word is not pd.NA and word[0].upper() in "RL" else pd.NA
    return side, word


def _named_view(name: str) -> tuple[str, str] | None:
    match = _IMAGE.fullmatch(name)
    return NATIVE_VIEWS.get(match[4].upper()) if match else None


def read_outlines(table: Path) -> pd.DataFrame:
    """The contour table beside ``table``. Raises UserError where it is absent: every lesion would be lost."""
    path = outlines_of(table)
    frame = _read(path, OUTLINE_COLUMNS)
    base.require_values(frame, ["lesion_id", "image_view"], path)
    codes = base.parse_int(frame["image_view"], path)
    wrong = codes[(codes < 1) | (codes > len(VIEWS))]
    if len(wrong):
        raise UserError(f"{path}, column 'image_view': {wrong.iloc[0]} is not one of 1 to 4 (RCC, LCC, RO, LO)")
    names = frame["image_filename"].str.replace("\\", "/").str.split("/").str[-1]
    flags = {name: frame[f"mammography_{name}"].isin(["1", "1.0"]) for name in CATEGORIES
             if f"mammography_{name}" in frame}  # fmt: skip
    return pd.DataFrame(
        {
            **{name: frame[name] for name in [*KEYS, "series"]},
            "image_id": frame["family"]
            + "_"
            + names.str.replace(r"(?i)\.tiff?$", "", regex=True).str.removeprefix("img_"),
            "lesion": frame["lesion_id"],
            "view": codes,
            "points": [_points(row, path) for row in frame.itertuples()],
            "pathology": base.map_words(frame["classification"], CLASSES, path),
            "native": [[name for name in flags if flags[name].loc[row]] for row in frame.index],
            "source": str(path),
        }
    )


def _points(row: Any, path: Path) -> list[list[int]]:
    """Contour as [[x, y], ...] of pixel indices."""
    try:
        x, y = ([int(float(word)) for word in str(cell).split()] for cell in (row.lw_x_points, row.lw_y_points))
        return [list(point) for point in zip(x, y, strict=True)]
    except ValueError:
        raise UserError(
            f"{path}, data row {row.Index + 1}: lw_x_points and lw_y_points are not two lists of equally many numbers; "
            "correct the table, or take the archive's unchanged file"
        ) from None
