"""CMMD's clinical table, ``CMMD_clinicaldata_revision.xlsx`` or the same saved as CSV: one row per labelled breast."""

import re
from pathlib import Path

import pandas as pd

from mammoflow.datasets.base import map_words, parse_int, read_csv, require_values
from mammoflow.datasets.idc import csv_header
from mammoflow.errors import UserError

COLUMNS = ["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]
SIDES = {"L": "L", "R": "R"}
PATHOLOGY = {"Benign": "BENIGN", "Malignant": "MALIGNANT"}
CATEGORIES = {
    "mass": ["Mass"],
    "calcification": ["Suspicious Calcification"],
    "both": ["Mass", "Suspicious Calcification"],
}
PATIENT = re.compile(r"D[12]-\d{4}")


def find_table(root: Path) -> Path | None:
    """The clinical table, by its columns, in ``root`` or one folder below; CSV before xlsx."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not PATIENT.fullmatch(path.name))]
    for path in sorted(path for folder in folders for path in folder.glob("*.csv")):
        if {"ID1", "LeftRight"} <= set(csv_header(path)):
            return path
    workbooks = sorted(path for folder in folders for path in folder.glob("*.xlsx"))
    return next((path for path in workbooks if "cmmd" in path.name.lower()), None)


def read_clinical(path: Path) -> pd.DataFrame:
    """The clinical table: patient_id, laterality, age, number (images), abnormality, pathology, subtype per breast.

    Reads xlsx and CSV. Raises UserError where it is unreadable, lacks a column, has an unknown word, or names a breast
    twice.
    """
    table = read_csv(path, COLUMNS, "cmmd") if path.suffix.lower() == ".csv" else _read_excel(path)
    require_values(table, [name for name in COLUMNS if name != "subtype"], path)
    map_words(table["abnormality"], CATEGORIES, path)
    breasts = pd.DataFrame({
        "patient_id": table["ID1"],
        "laterality": map_words(table["LeftRight"], SIDES, path),
        "age": parse_int(table["Age"], path),
        "number": parse_int(table["number"], path),
        "abnormality": table["abnormality"],
        "pathology": map_words(table["classification"], PATHOLOGY, path),
        "subtype": table["subtype"],
    })  # fmt: skip
    twice = breasts[breasts.duplicated(["patient_id", "laterality"])]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(
            f"{path} has two rows for breast {row['laterality']} of {row['patient_id']}: keep the right one"
        )
    return breasts


def _read_excel(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_excel(path, dtype="string", keep_default_na=False)
    except Exception as error:
        # The original is known to break some versions of openpyxl, with errors of every kind.
        raise UserError(f"{path} cannot be read ({error}): open it and save it as CSV beside it") from error
    table.columns = table.columns.astype(str).str.strip()
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent:
        raise UserError(f"{path} has no column {absent[0]!r}: put the unchanged table of TCIA's page there")
    return table.apply(lambda column: column.str.strip().replace("", pd.NA))
