"""``mammoflow list-unlabelled``: images without a label that a run may label for another run's training.

Taken are converted images that their archive's manifest leaves out for want of a label. An image of a patient who
stands in the cohort's val or test split stays out, as does one of a breast whose label is known; one of a patient in a
fold of train gets that fold. A patient is known as in the cohort: by id, by group, by an identical file of any of her
images, and by a near-duplicate picture.
"""

import argparse
from pathlib import Path

import pandas as pd

from mammoflow import tables
from mammoflow.datasets.same_films import refuse_seen_films
from mammoflow.duplicates import join_tables
from mammoflow.errors import UserError
from mammoflow.features import unit_key


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, metavar="DIR", help="of the datasets")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort that will learn from them")
    parser.add_argument(
        "--near-duplicates",
        choices=["merge", "report", "ignore"],
        default="merge",
        help="as of the cohort: only merge compares pictures with the cohort's",
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="working images, which merge compares")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="directory for manifest.parquet")


def run(args: argparse.Namespace) -> None:
    merging = args.near_duplicates == "merge"
    if merging and args.store is None:
        raise UserError("give the working images with --store, or leave pictures alone with --near-duplicates ignore")
    manifests = [tables.read(path / "manifest.parquet", "manifest") for path in args.manifests]
    manifest = pd.concat(manifests, ignore_index=True)
    cohort = tables.read(args.cohort / "manifest.parquet", "manifest")
    pairs = search_pictures(manifest, cohort, args.store, args.threads) if merging else None
    rows = unlabelled(manifest, cohort, pairs)
    tables.write(rows, args.out / "manifest.parquet")
    print(f"{len(rows)} unlabelled images of {rows['group_id'].nunique()} patients: {args.out}")


def search_pictures(manifest: pd.DataFrame, cohort: pd.DataFrame, store: Path, threads: int) -> pd.DataFrame:
    """Near-duplicate pairs of the images of unlabelled women, with each other and with the cohort's.

    See neardup.find_near_duplicates() for the columns. Raises UserError where a working image is missing.
    """
    from mammoflow.neardup import find_near_duplicates  # OpenCV, and only here

    women = unit_key(manifest, "patient")[_wanted(manifest)]
    rows = manifest[unit_key(manifest, "patient").isin(women) & manifest["image_path"].notna()].assign(
        exclude_reason=pd.NA
    )
    # The cohort's images were compared with each other when it was split: as one group they are not again.
    placed = cohort[cohort["split"].notna()].assign(group_id="the cohort")
    both = pd.concat([placed, rows], ignore_index=True).drop_duplicates(["dataset", "image_id"])
    return find_near_duplicates(both, store, threads)


def unlabelled(manifest: pd.DataFrame, cohort: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of ``manifest`` to label, in split train: table ``manifest``.

    pairs: of :func:`search_pictures`, None where the pictures were not compared. A row whose patient stands in the
    cohort has the cohort's group. Raises UserError where there is no row to label, or where the archives show the
    cohort's films under other ids.
    """
    wanted = _wanted(manifest)
    refuse_seen_films("list-unlabelled: --manifests", manifest["dataset"], "the cohort", cohort["dataset"])
    # All rows of both: a woman may be known by a file of hers that is not to be labelled.
    group, cohort_group = join_tables(manifest, cohort, pairs)
    placed = cohort[cohort["split"].notna()].assign(joined=cohort_group)
    held_out = set(placed.loc[placed["split"] != "train", "joined"])
    folds = placed.groupby("joined")["fold"].agg(["first", "nunique"])
    several = set(folds.index[folds["nunique"] > 1])  # of two folds at once it could honestly teach neither
    names = placed.drop_duplicates("joined").set_index("joined")["group_id"]
    wanted &= ~group.isin(held_out | several)
    wanted &= ~unit_key(manifest, "breast").isin(unit_key(placed, "breast"))  # a known label is not to be voted on
    if not wanted.any():
        archives = ", ".join(sorted(manifest["dataset"].unique()))
        raise UserError(f"pseudo_labels.datasets: {archives} hold no converted image without a label that may be taken")
    rows = manifest.assign(
        group_id=group.map(names).astype("string").fillna(group),
        fold=group.map(folds["first"]).astype("Int64"),
        split="train",
        exclude_reason=pd.NA,
        label_malignant=pd.NA,
    )
    return tables.finish("manifest", rows[wanted])


def _wanted(manifest: pd.DataFrame) -> pd.Series:
    """Converted, and left out for want of a label."""
    return manifest["exclude_reason"].str.startswith("no_label").fillna(False) & manifest["image_path"].notna()
