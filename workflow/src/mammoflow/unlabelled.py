"""``mammoflow list-unlabelled``: images without a label that a run may label for another run's training.

Taken are converted images that their archive's manifest leaves out for want of a label. An image of a patient who
stands in the cohort's val or test split stays out, as does one of a breast whose label is known; one of a patient in a
fold of train gets that fold.
"""

import argparse
from pathlib import Path

import pandas as pd

from mammoflow import tables
from mammoflow.datasets.same_films import refuse_seen_films
from mammoflow.errors import UserError
from mammoflow.features import breast_key

_KEYS = ("patient", "group_id", "source_sha256")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, metavar="DIR", help="of the datasets")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort that will learn from them")
    parser.add_argument("--out", type=Path, required=True, help="directory for manifest.parquet")


def run(args: argparse.Namespace) -> None:
    manifests = [tables.read(path / "manifest.parquet", "manifest") for path in args.manifests]
    cohort = tables.read(args.cohort / "manifest.parquet", "manifest")
    rows = unlabelled(pd.concat(manifests, ignore_index=True), cohort)
    tables.write(rows, args.out / "manifest.parquet")
    print(f"{len(rows)} unlabelled images of {rows['group_id'].nunique()} patients: {args.out}")


def unlabelled(manifest: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``manifest`` to label, in split train: table ``manifest``. Raises UserError where there is none."""
    wanted = manifest["exclude_reason"].str.startswith("no_label").fillna(False) & manifest["image_path"].notna()
    rows = manifest[wanted].assign(exclude_reason=pd.NA, label_malignant=pd.NA, split="train")
    rows = rows.assign(patient=rows["dataset"] + "|" + rows["patient_id"])
    placed = cohort[cohort["split"].notna()]
    refuse_seen_films("list-unlabelled: --manifests", rows["dataset"], "the cohort", placed["dataset"])
    placed = placed.assign(patient=placed["dataset"] + "|" + placed["patient_id"])
    held_out = placed[placed["split"] != "train"]
    folds = pd.Series(pd.NA, index=rows.index, dtype="Int64")
    several = pd.Series(False, index=rows.index)
    for name in _KEYS:
        rows = rows[~(rows[name].isin(held_out[name].dropna()))]
        folds, several = folds.reindex(rows.index), several.reindex(rows.index)
        known = placed.dropna(subset=[name, "fold"]).drop_duplicates(name).set_index(name)["fold"]
        fold = rows[name].map(known).astype("Int64")
        several |= (folds.notna() & fold.notna() & (folds != fold)).fillna(False)
        folds = folds.fillna(fold)
    # Of two folds at once it could honestly teach neither; a breast's known label is not to be voted on.
    rows = rows.assign(fold=folds)[~several.astype(bool) & ~breast_key(rows).isin(breast_key(placed))]
    if rows.empty:
        names = ", ".join(sorted(manifest["dataset"].unique()))
        raise UserError(f"pseudo_labels.datasets: {names} hold no converted image without a label that may be taken")
    return tables.finish("manifest", rows.drop(columns="patient"))
