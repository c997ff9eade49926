"""Pseudo-labels: a run labels images that have no label, where it is confident, for the training of another run.

Three steps, each a rule: ``list-unlabelled`` finds the images, ``pack`` packs them, ``pseudo-label`` scores them once
per fold and keeps the confident ones. The rules of honesty:

- Every such image stands in split train, and nowhere else; its ``label_source`` is ``pseudo:<run>``.
- Images of a patient (by id, group, identical file or near-duplicate picture) in val or test are not taken. Those of a
  patient in a fold of train belong to that fold, and so never teach the model that scores it.
- The labelling run is judged like a source of weights (:mod:`mammoflow.train.from_run`): on the same cohort its same
  fold labels; from another cohort all its folds do that have not seen the patients held out here.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from mammoflow import settings, tables
from mammoflow.datasets.same_films import refuse_seen_films
from mammoflow.duplicates import join_tables
from mammoflow.errors import UserError
from mammoflow.features import unit_key
from mammoflow.files import write_json
from mammoflow.pack import PackedImages
from mammoflow.train.common import JoinedPacks, open_cohort, open_pack, say, set_threads, uses_cuda
from mammoflow.train.from_run import Source, overlap, refuse_films_of
from mammoflow.train.units import build_units
from mammoflow.unit_labels import with_unit_labels

LABELS, TAUGHT_BY, ACCOUNT = "pseudo.parquet", "pseudo_seen.parquet", "pseudo.json"


class Pseudo(NamedTuple):
    """Where a fold's pseudo-labels lie, and the pack of their images."""

    directory: Path
    pack: Path


@dataclass(frozen=True)
class Teacher:
    """What labelled: enough of a :class:`mammoflow.train.from_run.Source` to hand on what it has seen."""

    seen: pd.DataFrame


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow pseudo-label``."""
    parser.add_argument("name", metavar="RUN", help="name of the run that learns from the labels")
    parser.add_argument("--fold", type=int, required=True, help="fold that is left out of its training")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of its cohort")
    parser.add_argument("--unlabelled", type=Path, required=True, help="directory of list-unlabelled")
    parser.add_argument("--pack", type=Path, required=True, help="unlabelled images, packed for the run that labels")
    parser.add_argument("--folds", type=Path, nargs="+", required=True, help="trained folds of the run that labels")
    parser.add_argument("--settings", default="{}", help="JSON of the learning run's section of the configuration")
    parser.add_argument("--out", type=Path, required=True, help="directory for pseudo.parquet and pseudo.json")


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow pseudo-label``."""
    from mammoflow.train.predict import load_fold, score_units

    rule = settings.parse_section("run", args.settings)["pseudo_labels"]
    set_threads(1)
    manifest, digest = open_cohort(args.cohort)
    rows = tables.read(args.unlabelled / "manifest.parquet", "manifest")
    sources = teachers([Source.open(path) for path in args.folds], manifest, args.fold, digest)
    taught_by = sources[0].record["settings"]
    images = open_pack(args.pack, rows, taught_by)
    device = torch.device("cuda" if uses_cuda(taught_by) else "cpu")
    units = build_units(with_unit_labels(rows), taught_by["unit"])
    by_fold = {}
    for source in sources:
        model = load_fold(source.directory, source.record, device).model
        scored = score_units(model, units, images, taught_by, device)
        by_fold[source.name] = {one.unit.unit_id: one.score for one in scored}
    scores = pd.DataFrame(by_fold).mean(axis=1)
    labelled = confident(rows, scores, taught_by["unit"], rule)
    tables.write(labelled, args.out / LABELS)
    tables.write(tables.finish("seen", pd.concat([one.seen for one in sources]).drop_duplicates(tables.KEYS["seen"])),
                 args.out / TAUGHT_BY)  # fmt: skip
    counts = {str(label): int((labelled["label_malignant"] == label).sum()) for label in (0, 1)}
    write_json(args.out / ACCOUNT, {
        "run": rule["run"],
        "folds": [one.record["fold"] for one in sources],
        "rule": rule,
        "unlabelled": len(rows),
        "labelled": counts,
    })  # fmt: skip
    print(f"{args.name} fold {args.fold}: {rule['run']} labels {len(labelled)} of {len(rows)} images ({counts})")


def teachers(sources: list[Source], manifest: pd.DataFrame, fold: int, cohort_digest: str) -> list[Source]:
    """The folds that may label for ``fold``. Raises UserError where none may."""
    same = [one for one in sources if one.record["cohort_digest"] == cohort_digest]
    if same:
        sources = [one for one in same if one.record["fold"] == fold]
    refuse_films_of("pseudo_labels.run", sources, manifest)
    clean = [one for one in sources if overlap(one.seen, manifest, fold).empty]
    if not clean:
        raise UserError(
            f"pseudo_labels: every fold of the labelling run has seen patients that fold {fold} holds out: use one "
            "cohort for both runs, or leave that archive out of one of them"
        )
    return clean


def confident(rows: pd.DataFrame, scores: pd.Series, unit: str, rule: dict[str, Any]) -> pd.DataFrame:
    """The rows whose unit's score is above or below the rule's limits, labelled: table ``manifest``.

    ``scores``: probability of malignancy by unit_id.
    """
    score = unit_key(rows, unit).map(scores)
    labels = pd.Series(pd.NA, index=rows.index, dtype="Int64")
    labels[score <= rule["benign_below"]] = 0
    labels[score >= rule["malignant_above"]] = 1
    kept = rows.assign(label_malignant=labels, label_source=f"{tables.PSEUDO}{rule['run']}", label_scope=unit)
    return tables.finish("manifest", kept[labels.notna()])


def add_pseudo(
    manifest: pd.DataFrame, images: PackedImages, pseudo: Pseudo | None, section: dict[str, Any]
) -> tuple[pd.DataFrame, PackedImages | JoinedPacks, list[Teacher]]:
    """The participants with the pseudo-labelled rows behind them, both packs as one, and who taught.

    Raises UserError where a pseudo-labelled row stands outside of train or shares a patient with val or test: whatever
    wrote the table, such a row must not be learned from.
    """
    if not section["pseudo_labels"]:
        return manifest, images, []
    if pseudo is None:
        raise UserError("run.pseudo_labels is set: give the labels with --pseudo and their images with --pseudo-pack")
    rows = tables.read(pseudo.directory / LABELS, "manifest")
    check(rows, manifest)
    say(f"{len(rows)} pseudo-labelled images join the train split")
    teacher = Teacher(tables.read(pseudo.directory / TAUGHT_BY, "seen"))
    if rows.empty:
        return manifest, images, [teacher]
    joined = JoinedPacks([images, open_pack(pseudo.pack, rows, section)])
    return pd.concat([manifest, with_unit_labels(rows)], ignore_index=True), joined, [teacher]


def check(rows: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Raise UserError unless pseudo-labelled ``rows`` keep to split train; see the module's text."""
    refuse_seen_films("the pseudo-labels: their table", rows["dataset"], "this run's cohort", manifest["dataset"])
    source = rows["label_source"].fillna("")
    group, placed = join_tables(rows, manifest)
    wrong = (
        (rows["split"] != "train").fillna(True)
        | ~source.str.startswith(tables.PSEUDO)
        | group.isin(placed[manifest["split"].isin(["val", "test"])])
    )
    fold_of = manifest["fold"].where(manifest["split"] == "train")
    for fold in fold_of.dropna().unique():
        held_out = placed[(fold_of == fold).fillna(False)]
        wrong |= group.isin(held_out) & (rows["fold"] != fold).fillna(True)
    if wrong.any():
        first = rows[wrong.to_numpy(bool)].iloc[0]
        raise UserError(
            f"{int(wrong.sum())} pseudo-labelled images do not keep to split train and to their patient's fold (first: "
            f"{first['dataset']} {first['image_id']}): list and label them again"
        )
