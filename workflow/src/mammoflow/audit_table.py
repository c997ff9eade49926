"""``audit``: does anyone's published split keep its patients apart?"""

import argparse
from pathlib import Path

import pandas as pd

from mammoflow.errors import UserError
from mammoflow.groups import require_columns
from mammoflow.stratify_table import read_any

EXAMPLES = 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="CSV or parquet, one row per image, finding or exam")
    parser.add_argument(
        "--patient", required=True, metavar="COL", help="patient id; several columns: dataset,patient_id"
    )
    parser.add_argument(
        "--split", required=True, metavar="COL", help="column that names the split (or fold) of each row"
    )


def run(args: argparse.Namespace) -> int:
    patient = args.patient.split(",")
    table = read_any(args.table, [*patient, args.split])
    result, crossing = leaks(table, patient, args.split)
    print(result.to_string(index=False, formatters={"leaking_share": "{:.1%}".format}))
    test, train = _named(result["split"], "test"), _named(result["split"], "train")
    if test is not None and train is not None:
        rows, shared = rows_also_in(table, patient, args.split, test, train)
        print(f"{shared} of {rows} {test} rows ({shared / rows:.1%}) show a patient who is also in {train}")
    if crossing.empty:
        print(f"clean: no patient on two sides ({result['patients'].sum()} patients)")
        return 0
    print(f"LEAK: {len(crossing)} patient(s) on several sides, for example:")
    for patient, sides in crossing.head(EXAMPLES).items():
        print(f"  {patient}: {sides}")
    return 1


def leaks(table: pd.DataFrame, patient: list[str], split: str) -> tuple[pd.DataFrame, pd.Series]:
    """Measure the patient leak of a split table; rows without a split are left out.

    Returns (one row per split: ``split``, ``rows``, ``patients``, ``leaking_rows`` whose patient also stands in another
    split, ``leaking_share`` of the rows; patient -> the splits it stands in, for those in several). Raises UserError
    where a column or a patient id is missing, or no row has a split.
    """
    rows = _rows(table, patient, split)
    pairs = rows.drop_duplicates().sort_values(["patient", "split"])
    crossing = pairs[pairs["patient"].duplicated(keep=False)].groupby("patient")["split"].agg(", ".join)
    rows["leaking"] = rows["patient"].isin(crossing.index)
    result = rows.groupby("split", sort=True).agg(
        rows=("patient", "size"), patients=("patient", "nunique"), leaking_rows=("leaking", "sum")
    )
    result["leaking_share"] = result["leaking_rows"] / result["rows"]
    return result.reset_index(), crossing


def rows_also_in(table: pd.DataFrame, patient: list[str], split: str, side: str, other: str) -> tuple[int, int]:
    """(rows of split ``side``, those of them whose patient has a row in split ``other``)."""
    rows = _rows(table, patient, split)
    of_side = rows.loc[rows["split"] == side, "patient"]
    return len(of_side), int(of_side.isin(rows.loc[rows["split"] == other, "patient"]).sum())


def _rows(table: pd.DataFrame, patient: list[str], split: str) -> pd.DataFrame:
    require_columns(table, [*patient, split])
    table = table[table[split].notna()]
    if table.empty:
        raise UserError(f"column {split!r} is empty: no row has a split")
    for name in patient:
        if table[name].isna().any():
            raise UserError(
                f"column {name!r} is empty in {int(table[name].isna().sum())} row(s): each needs its patient"
            )
    ids = table[patient[0]].astype(str)
    for name in patient[1:]:
        ids = ids + "|" + table[name].astype(str)
    return pd.DataFrame({"patient": ids, "split": table[split].astype(str)})


def _named(splits: pd.Series, word: str) -> str | None:
    """The split whose name starts with ``word`` (Test, training ...), where exactly one does."""
    found = [name for name in splits if name.lower().startswith(word)]
    return found[0] if len(found) == 1 else None
