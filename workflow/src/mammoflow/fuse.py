"""``mammoflow fuse``: image scores and tabular features of a breast, fused; beside it the metadata-only floor.

Three scores per breast: ``image`` (the model's), ``metadata`` (the same learner without any picture) and ``fused``.
Only out-of-fold image scores of train rows are fitted on; val serves calibration, test nothing. Scores of val and test
are means over the folds' models and so a little smoother than the out-of-fold scores of train: the starting point of
the fusion is a monotone function of the image score, which keeps its order whatever the shift.
"""

import argparse
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import boosting, provenance, settings, tables
from mammoflow.calibration import fit_calibration
from mammoflow.features import breast_key, breast_table, category_levels, check_features, design_matrix
from mammoflow.files import write_json
from mammoflow.leaks import check_scores, refuse_label_twins, suspicions
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
    inputs = {"predictions": args.predictions}
    record = provenance.record("fuse", section, args.seed, args.cohort, inputs)
    fused.attrs["reproduction"] = record  # pandas keeps it in the parquet file's own metadata
    tables.write(fused, args.out / "fused.parquet")
    write_json(args.out / "fuse.json", {"run": args.name, "reproduction": record, **summary})
    for suspicion in summary["suspicions"]:
        print(f"warning: {suspicion}", file=sys.stderr)
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
    fused, summary = fit_scores(breasts, features, images, levels, section["fuse"]["calibration"], seed, threads)
    settings_used = {"allow_read": section["fuse"]["allow_read"], "shuffle_labels": section["shuffle_labels"]}
    return fused, {"features": names, "levels": levels, **settings_used, "seed": seed, **summary}


def fit_scores(
    breasts: pd.DataFrame,
    features: pd.DataFrame,
    images: pd.DataFrame,
    categorical: Container[str],
    calibration_method: str,
    seed: int,
    threads: int = 1,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The statistics of :func:`fuse`, once the inputs are known to be honest.

    ``breasts``: the ``fused`` table's id columns, split, fold, label, and ``score``, where the fusion starts.
    ``features`` and ``images``: float columns with the same index; those named in ``categorical`` hold codes.
    """
    train = (breasts["split"] == "train").to_numpy()
    labels = breasts["label_malignant"].to_numpy(float, na_value=np.nan)
    folds = breasts.loc[train, "fold"].to_numpy(float, na_value=-1).astype(int)
    start = breasts["score"].to_numpy(float)

    both = pd.concat([images, features], axis=1)
    models = {}
    scores = {"score_image": start}
    for name, matrix, begin in [("metadata", features, None), ("fused", both, start)]:
        codes = [column for column in matrix if column in categorical]
        first = None if begin is None else begin[train]
        fit = boosting.fit(matrix[train], first, labels[train], folds, codes, seed, threads)
        values = np.empty(len(breasts))
        values[train] = fit.oof
        values[~train] = fit.predict(matrix[~train], None if begin is None else begin[~train])
        scores[f"score_{name}"] = values
        models[name] = {
            "features": list(matrix),
            "rounds": fit.rounds,
            "parameters": fit.parameters,
            "importance": fit.importance,
            "shap": fit.shap,
            "note": fit.note,
        }
    on_val = (breasts["split"] == "val").to_numpy() & np.isfinite(labels)
    calibration = fit_calibration(labels[on_val], scores["score_fused"][on_val], calibration_method)
    scores["score_calibrated"] = calibration(scores["score_fused"])
    fused = tables.finish("fused", breasts.drop(columns="score").assign(**scores))
    summary = {
        "models": models,
        "calibration": calibration.as_dict(),
        "auc": {split: split_aucs(fused, split) for split in tables.SPLITS},
        "n_breasts": {split: int((fused["split"] == split).sum()) for split in tables.SPLITS},
        "suspicions": suspicions(fused, models),
    }
    return fused, summary


def image_features(predictions: pd.DataFrame, breasts: pd.DataFrame) -> pd.DataFrame:
    """Score features per breast: its score, largest and mean over its images and per view, and the difference to the
    other breast of the patient (NaN where there is none). Where the predictions carry them, also the score weighted by
    the model's attention, the attention's share on each view, and the highest lesion probability of the heat maps with
    its difference to the other breast.

    Index as ``breasts``; floats in 0..1, differences in -1..1.
    """
    images = predictions[predictions["level"] == "image"]
    numbers = {name: images[name].astype(float) for name in ("score", "attention", "score_roi")}
    images = images.assign(key=breast_key(images), **numbers)
    columns = {"score_breast": breasts["score"].astype(float)}
    by_view = [("", images), *[(f"_{view.lower()}", images[images["view_position"] == view]) for view in VIEWS]]
    for label, rows in by_view:
        groups = rows.groupby("key")["score"]
        columns[f"score_max{label}"] = groups.max().reindex(breasts.index)
        columns[f"score_mean{label}"] = groups.mean().reindex(breasts.index)
    columns["score_minus_other"] = minus_other(columns["score_breast"], breasts)
    if images["attention"].notna().any():
        weighted = (images["score"] * images["attention"]).groupby(images["key"]).sum(min_count=1)
        total = images["attention"].groupby(images["key"]).sum(min_count=1)
        columns["score_attended"] = (weighted / total).reindex(breasts.index)
        for label, rows in by_view[1:]:
            columns[f"attention{label}"] = rows.groupby("key")["attention"].sum(min_count=1).reindex(breasts.index)
    if images["score_roi"].notna().any():
        columns["score_roi"] = images.groupby("key")["score_roi"].max().reindex(breasts.index)
        columns["score_roi_minus_other"] = minus_other(columns["score_roi"], breasts)
    return pd.DataFrame(columns, index=breasts.index).astype(float)


def minus_other(values: pd.Series, breasts: pd.DataFrame) -> pd.Series:
    """Difference of each breast's value to the other breast of the same patient; NaN where there is none."""
    other = breasts["laterality"].map({"L": "R", "R": "L"})
    opposite = breast_key(breasts.assign(laterality=other))
    # The key of a breast whose side is unknown is also that of its "opposite": no difference, not one of 0.
    return (values - values.reindex(opposite).to_numpy()).where(other.notna())


def split_aucs(fused: pd.DataFrame, split: str) -> dict[str, float | None]:
    """AUC of each score on the labelled breasts of a split; None where a class is missing."""
    rows = fused[(fused["split"] == split) & fused["label_malignant"].notna()]
    labels = rows["label_malignant"].to_numpy(int)
    if len(np.unique(labels)) < 2:
        return {name.removeprefix("score_"): None for name in SCORES}
    return {name.removeprefix("score_"): float(auc(labels, rows[name].to_numpy(float))[0]) for name in SCORES}
