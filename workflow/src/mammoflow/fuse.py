"""``mammoflow fuse``: image scores and tabular features of a breast, fused; beside it the metadata-only floor.

Three scores per breast: ``image`` (the model's), ``metadata`` (the same learner without any picture) and ``fused``.
Only out-of-fold image scores of train rows are fitted on; val serves calibration, test nothing. Scores of val and test
are means over the folds' models and so a little smoother than the out-of-fold scores of train: the starting point of
the fusion is a monotone function of the image score, which keeps its order whatever the shift.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import boosting, settings, tables
from mammoflow.calibration import fit_calibration
from mammoflow.errors import UserError
from mammoflow.features import breast_key, breast_table, category_levels, check_features, design_matrix
from mammoflow.files import write_json
from mammoflow.metrics import auc

VIEWS = ("CC", "MLO")
SCORES = ("score_image", "score_metadata", "score_fused", "score_calibrated")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--predictions", type=Path, required=True, help="predictions.parquet of the run")
    parser.add_argument("--settings", default="{}", help="JSON of the run's configuration")
    parser.add_argument("--seed", type=int, required=True, help="seed of the boosting")
    parser.add_argument("--threads", type=int, default=1, help="threads of LightGBM")
    parser.add_argument("--out", type=Path, required=True, help="directory for fused.parquet and fuse.json")


def run(args: argparse.Namespace) -> None:
    section = settings.parse_section("run", args.settings)
    # The cheapest check first: a leaking feature must not wait for tables to load.
    check_features(section["fuse"]["features"], section["fuse"]["allow_read"])
    manifest = tables.read(args.cohort / "manifest.parquet", "manifest")
    findings = tables.read(args.cohort / "findings.parquet", "manifest_findings")
    predictions = tables.read(args.predictions, "predictions")
    fused, summary = fuse(manifest, findings, predictions, section, args.seed, args.threads)
    tables.write(fused, args.out / "fused.parquet")
    write_json(args.out / "fuse.json", {"run": args.name, **summary})
    shown = {name: summary["auc"]["test"][name.removeprefix("score_")] for name in SCORES[:3]}
    text = ", ".join(
        f"{name.removeprefix('score_')} {'n/a' if value is None else f'{value:.3f}'}" for name, value in shown.items()
    )
    print(f"{args.name}: breast AUC on test: {text} ({summary['models']['fused']['rounds']} rounds)")


def fuse(
    manifest: pd.DataFrame,
    findings: pd.DataFrame | None,
    predictions: pd.DataFrame,
    section: dict[str, Any],
    seed: int,
    threads: int = 1,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit the fusion and the floor. Returns the finished ``fused`` table and a summary of plain values.

    ``section``: the run's resolved configuration. Labels are those of the predictions: where ``shuffle_labels`` is set
    they are already shuffled there, and the whole chain must end at chance.  Raises UserError where a feature is
    refused, where train scores are not out of fold, or where predictions and cohort do not belong together.
    """
    names = check_features(section["fuse"]["features"], section["fuse"]["allow_read"])
    refuse_label_twins(names, manifest)
    breasts = check_scores(predictions, manifest)
    table = breast_table(manifest, findings).reindex(breasts.index)
    train = (breasts["split"] == "train").to_numpy()
    levels = category_levels(table[train], names)
    features = design_matrix(table, names, levels)
    images = image_features(predictions, breasts)
    labels = breasts["label_malignant"].to_numpy(float, na_value=np.nan)
    folds = breasts.loc[train, "fold"].to_numpy(float, na_value=-1).astype(int)
    start = breasts["score"].to_numpy(float)

    both = pd.concat([images, features], axis=1)
    models = {}
    scores = {"score_image": start}
    for name, matrix, begin in [("metadata", features, None), ("fused", both, start)]:
        categorical = [column for column in matrix if column in levels]
        first = None if begin is None else begin[train]
        fit = boosting.fit(matrix[train], first, labels[train], folds, categorical, seed, threads)
        values = np.empty(len(breasts))
        values[train] = fit.oof
        values[~train] = fit.predict(matrix[~train], None if begin is None else begin[~train])
        scores[f"score_{name}"] = values
        models[name] = {
            "features": list(matrix),
            "rounds": fit.rounds,
            "parameters": fit.parameters,
            "importance": fit.importance,
            "note": fit.note,
        }
    on_val = (breasts["split"] == "val").to_numpy() & np.isfinite(labels)
    calibration = fit_calibration(labels[on_val], scores["score_fused"][on_val])
    scores["score_calibrated"] = calibration(scores["score_fused"])
    fused = tables.finish("fused", breasts.drop(columns="score").assign(**scores))
    summary = {
        "features": names,
        "levels": levels,
        "allow_read": section["fuse"]["allow_read"],
        "shuffle_labels": section["shuffle_labels"],
        "seed": seed,
        "models": models,
        "calibration": calibration.as_dict(),
        "auc": {split: split_aucs(fused, split) for split in tables.SPLITS},
        "n_breasts": {split: int((fused["split"] == split).sum()) for split in tables.SPLITS},
    }
    return fused, summary


def check_scores(predictions: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Breast rows of the predictions, indexed by :func:`breast_key`, once they are shown to be honest.

    Raises UserError where a train row has no fold, where fold or split differ from the cohort's (scores of another
    cohort, or in-fold scores), or where a group stands in two splits or two folds.
    """
    breasts = predictions[predictions["level"] == "breast"].copy()
    breasts.index = pd.Index(breast_key(breasts), name=None)
    if breasts.empty:
        raise UserError("the predictions hold no row of level 'breast': run predict again with this version")
    if not breasts.index.is_unique:
        raise UserError(
            f"the predictions hold breast {breasts.index[breasts.index.duplicated()][0]!r} twice: run predict again"
        )
    if breasts["score"].isna().any():
        raise UserError(f"breast {breasts.index[breasts['score'].isna()][0]!r} has no score: run predict again")
    cohort = manifest[manifest["exclude_reason"].isna()]
    cohort = cohort.assign(key=breast_key(cohort)).groupby("key")[["split", "fold"]].first()
    strangers = breasts.index.difference(cohort.index)
    if len(strangers):
        raise UserError(
            f"breast {strangers[0]!r} is not in the cohort: the predictions belong to another cohort; run predict again"
        )
    train = breasts["split"] == "train"
    for frame, what in [(breasts[train], "predictions"), (cohort[cohort["split"] == "train"], "cohort manifest")]:
        missing = frame.index[frame["fold"].isna()]
        if len(missing):
            raise UserError(
                f"{len(missing)} train rows of the {what} have no fold (first: {missing[0]!r}): their scores cannot be "
                "shown to be out of fold. Run cohort and predict again"
            )
    expected = cohort.reindex(breasts.index)
    for column, rows in [("split", breasts["split"].notna()), ("fold", train)]:
        wrong = breasts.index[rows & (breasts[column] != expected[column]).fillna(True)]
        if len(wrong):
            raise UserError(
                f"{len(wrong)} breasts have another {column} in the predictions than in the cohort "
                f"(first: {wrong[0]!r}): the scores are not out of fold. Run predict again on this cohort"
            )
    for column, frame in [("split", breasts), ("fold", breasts[train])]:
        torn = frame.groupby("group_id")[column].nunique()
        if (torn > 1).any():
            raise UserError(
                f"group {torn.index[torn > 1][0]!r} stands in several {column}s: the {column}s leak. Run cohort again"
            )
    return breasts.drop(columns=["level", "image_id", "view_position"])


def refuse_label_twins(names: list[str], manifest: pd.DataFrame) -> None:
    """Raise UserError where a BI-RADS feature stands beside labels that were made of BI-RADS grades."""
    twins = [name for name in names if name.endswith("birads")]
    proxies = manifest["exclude_reason"].isna() & (manifest["label_source"] == "birads")
    if twins and proxies.any():
        raise UserError(
            f"fuse.features: {twins[0]!r} is the label itself in {int(proxies.sum())} images, whose label was made of "
            "their BI-RADS grade (label_source birads). Remove it"
        )


def image_features(predictions: pd.DataFrame, breasts: pd.DataFrame) -> pd.DataFrame:
    """Score features per breast: its score, largest and mean over its images and per view, and the difference to the
    other breast of the patient (NaN where there is none). Index as ``breasts``; floats in 0..1, the difference in
    -1..1.
    """
    images = predictions[predictions["level"] == "image"]
    images = images.assign(key=breast_key(images), score=images["score"].astype(float))
    columns = {"score_breast": breasts["score"].astype(float)}
    for label, rows in [
        ("", images),
        *[(f"_{view.lower()}", images[images["view_position"] == view]) for view in VIEWS],
    ]:
        groups = rows.groupby("key")["score"]
        columns[f"score_max{label}"] = groups.max().reindex(breasts.index)
        columns[f"score_mean{label}"] = groups.mean().reindex(breasts.index)
    other = {"L": "R", "R": "L"}
    opposite = breast_key(breasts.assign(laterality=breasts["laterality"].map(other)))
    contralateral = columns["score_breast"].reindex(opposite).to_numpy()
    columns["score_minus_other"] = columns["score_breast"] - contralateral
    return pd.DataFrame(columns, index=breasts.index).astype(float)


def split_aucs(fused: pd.DataFrame, split: str) -> dict[str, float | None]:
    """AUC of each score on the labelled breasts of a split; None where a class is missing."""
    rows = fused[(fused["split"] == split) & fused["label_malignant"].notna()]
    labels = rows["label_malignant"].to_numpy(int)
    if len(np.unique(labels)) < 2:
        return {name.removeprefix("score_"): None for name in SCORES}
    return {name.removeprefix("score_"): float(auc(labels, rows[name].to_numpy(float))[0]) for name in SCORES}
