"""``stratify``: split any table by group with balanced attributes."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from mammoflow import tables
from mammoflow.balance import balance_table
from mammoflow.errors import UserError
from mammoflow.groups import count_matrix, require_columns
from mammoflow.stratify import stratify


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="CSV or parquet; a group may have many rows")
    parser.add_argument(
        "--group", required=True, metavar="COL", help="column that a split may not cut, such as study_id"
    )
    parser.add_argument("--attributes", required=True, metavar="A,B", help="columns to balance")
    parser.add_argument(
        "--categories", default="", metavar="A,B", help="numeric attributes that are categories, not counts"
    )
    parser.add_argument("--ratios", required=True, metavar="NAME=SHARE,...", help="for example train=0.8,test=0.2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="CSV: the group column and `split`, one row per group")


def run(args: argparse.Namespace) -> None:
    table = read_any(args.table, [args.group])
    attributes = [name for name in args.attributes.split(",") if name]
    categories = [name for name in args.categories.split(",") if name]
    split, balance = stratify_table(table, args.group, attributes, categories, parse_ratios(args.ratios), args.seed)
    tables.write(split, args.out)
    print(balance.to_string(index=False))
    sizes = ", ".join(f"{name} {number}" for name, number in split["split"].value_counts(sort=False).items())
    print(f"{len(split)} groups: {sizes} -> {args.out}", file=sys.stderr)


def stratify_table(
    table: pd.DataFrame, group: str, attributes: list[str], categories: list[str], ratios: dict[str, float], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns (one row per group: ``group`` column and ``split``, sorted by id; the balance table).

    ``categories`` names numeric attributes whose values are classes. Raises UserError (see :mod:`mammoflow.groups` and
    :mod:`mammoflow.stratify`).
    """
    require_columns(table, [group, *attributes, *categories])
    table = table.assign(**{name: table[name].astype("string") for name in categories})
    counts = count_matrix(table, group, list(dict.fromkeys([*attributes, *categories])))
    subsets = stratify(counts.counts, ratios, seed)
    return pd.DataFrame({group: counts.ids, "split": subsets}), balance_table(counts, subsets, list(ratios))


def parse_ratios(text: str) -> dict[str, float]:
    """``train=0.8,test=0.2`` -> dict. Raises UserError."""
    ratios: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        try:
            ratios[name.strip()] = float(share)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UserError(f"--ratios {text!r}: write NAME=SHARE,NAME=SHARE, for example train=0.8,test=0.2")
    if len(ratios) != len(text.split(",")):
        raise UserError(f"--ratios {text!r} names a subset twice")
    return ratios


def read_any(path: Path, text: list[str]) -> pd.DataFrame:
    """Read a CSV or parquet file of any columns, those of ``text`` as text (ids such as 007 or 12e4 are no numbers).

    Raises UserError where the file is absent or unreadable.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        return (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=dict.fromkeys(text, "string"))
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table ({error})") from None
