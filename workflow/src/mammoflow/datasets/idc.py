"""Rows of the NCI Imaging Data Commons index: what a collection holds, series by series, whether downloaded or not.

The index comes with the PyPI package ``idc-index-data``; rows of one collection, saved as CSV (also gzipped) beside the
images, let an inventory name the series that are not on disk.
"""

from pathlib import Path

import pandas as pd

from mammoflow.datasets.base import parse_int, read_csv, require_values

COLUMNS = [
    "collection_id", "analysis_result_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "SOPClassUID", "instanceCount",
]  # fmt: skip


def find_index(root: Path) -> Path | None:
    """The CSV file directly in ``root`` whose header is the index's, or None."""
    for path in sorted([*Path(root).glob("*.csv"), *Path(root).glob("*.csv.gz")]):
        if set(COLUMNS) <= set(csv_header(path)):
            return path
    return None


def csv_header(path: Path) -> list[str]:
    """The column names of a CSV file, plain or gzipped; empty where it is not one."""
    try:
        return [str(name).strip() for name in pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns]
    except (OSError, ValueError, EOFError):  # cut gzip, no text, no columns: some other file
        return []


def read_index(path: Path, collection: str) -> pd.DataFrame:
    """Series of one collection: :data:`COLUMNS` and what else the file has, text; ``instanceCount`` Int64.

    Results that others derived from the collection (``analysis_result_id``) are left out. Raises UserError where a
    column is absent or an id is empty.
    """
    table = read_csv(path, COLUMNS, collection)
    table = table[(table["collection_id"] == collection) & table["analysis_result_id"].isna()].reset_index(drop=True)
    require_values(table, ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "instanceCount"], path)
    return table.assign(instanceCount=parse_int(table["instanceCount"], path))
