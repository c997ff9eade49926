"""Numbers of one set of units: threshold, metrics with intervals, subgroups, paired differences, curves."""

from typing import Any

import numpy as np
import pandas as pd

from mammoflow import bootstrap
from mammoflow.calibration import reliability
from mammoflow.levels import SUBGROUPS
from mammoflow.metrics import (
    THRESHOLDED,
    Metrics,
    Ranking,
    confusion,
    probability_metrics,
    roc_counts,
    threshold_at_specificity,
    threshold_metrics,
)

# What a subgroup row shows; a dataset shows everything.
SUBGROUP_METRICS = ["auc", "sensitivity", "specificity"]
PAIRS = [("fused", "metadata"), ("image", "metadata"), ("fused", "image")]
# Points of a stored curve: more are not visible.
MAX_POINTS = 400
BAND_FPR = np.linspace(0, 1, 51)


def choose_threshold(units: pd.DataFrame, model: str, specificity: float) -> dict[str, Any]:
    """Smallest threshold with the wanted specificity on val; None with the reason where val has no negative."""
    val = units[(units["split"] == "val") & units["label"].notna()]
    labels, scores = val["label"].to_numpy(int), val[model].to_numpy(float)
    negatives = int((labels == 0).sum())
    result = {
        "chosen_on": "val",
        "target_specificity": specificity,
        "n_negative": negatives,
        "n_positive": int(labels.sum()),
    }
    if not negatives:
        return {**result, "threshold": None, "reason": "val holds no negative unit"}
    needed = round(1 / (1 - specificity))
    reason = (
        f"only {negatives} negative units in val; {needed} or more are needed to hold it"
        if negatives < needed
        else None
    )
    return {**result, "threshold": threshold_at_specificity(labels, scores, specificity), "reason": reason}


def measure(
    rows: pd.DataFrame,
    model: str,
    threshold: float | None,
    resampler: bootstrap.Resampler,
    options: dict[str, Any],
    only: list[str] | None = None,
) -> tuple[dict[str, Any], Metrics]:
    """Block of one set of labelled units: counts, metrics with intervals, confusion; and the replicates' values."""
    labels, scores = rows["label"].to_numpy(int), rows[model].to_numpy(float)
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    patients = rows["group_id"].nunique()
    block: dict[str, Any] = {
        "n_units": len(rows),
        "n_positive": positives,
        "n_patients": patients,
        "small": patients < options["min_subgroup"],
        "metrics": {},
        "confusion": None,
        "threshold": threshold,
    }
    if not len(rows):
        return {**block, "reason": "no labelled unit"}, {}
    parts = [Ranking(labels, scores).metrics, probability_metrics(labels, scores)]
    if threshold is not None:
        parts.append(threshold_metrics(labels, scores, threshold))
        block["confusion"] = confusion(labels, scores, threshold)

    def all_metrics(weights: np.ndarray | None) -> Metrics:
        values = {name: value for part in parts for name, value in part(weights).items()}
        return values if only is None else {name: values[name] for name in only if name in values}

    trials = _patients_per_proportion(rows["group_id"], labels, scores, threshold)
    block["metrics"], replicates = bootstrap.summarise(
        all_metrics, resampler, options["confidence"], positives, negatives, trials
    )
    return {**block, "reason": None if positives and negatives else "one class only"}, replicates


def _patients_per_proportion(
    groups: pd.Series, labels: np.ndarray, scores: np.ndarray, threshold: float | None
) -> dict[str, int]:
    """Patients in the denominator of each proportion."""
    if threshold is None:
        return {}
    called = scores >= threshold
    members = dict(zip(THRESHOLDED, [labels == 1, labels == 0, called, ~called], strict=True))
    return {name: groups[member].nunique() for name, member in members.items()}


def subgroup_blocks(
    level: str, test: pd.DataFrame, models: list[str], thresholds: dict[str, Any], options: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """One block per value of each subgroup column and model, on test. Unknown values are a subgroup of their own."""
    blocks = []
    labelled = test[test["label"].notna()]
    for column in SUBGROUPS:
        if column not in labelled:
            continue
        cells = (
            labelled[column]
            .astype(object)
            .where(labelled[column].notna(), "unknown" if column != "finding" else "none marked")
        )
        members = cells.str.split(";") if column == "finding" else cells.map(lambda value: [value])
        for value in sorted({word for words in members for word in words}):
            rows = labelled[[value in words for words in members]]
            # Drawn anew within the subgroup: its interval describes patients of this kind.
            resampler = bootstrap.Resampler.over(rows["group_id"], options["bootstrap"], seed)
            for name in models:
                only = None if column == "dataset" else SUBGROUP_METRICS
                block, _ = measure(rows, name, thresholds[name]["threshold"], resampler, options, only)
                subgroup = {"column": column, "value": value}
                blocks.append({"level": level, "model": name, "split": "test", "subgroup": subgroup, **block})
    return blocks


def paired(
    level: str, split: str, kept: dict[str, tuple[dict[str, Any], Metrics]], confidence: float
) -> list[dict[str, Any]]:
    """Differences of AUC between models over the same replicates."""
    rows = []
    for first, second in PAIRS:
        if not {first, second} <= set(kept):
            continue
        values = [kept[name][0]["metrics"].get("auc", {}).get("value") for name in (first, second)]
        counts = {name: kept[first][0][name] for name in ("n_units", "n_positive", "n_patients", "small")}
        place = {"level": level, "split": split, "first": first, "second": second, "metric": "auc", **counts}
        if None in values:
            rows.append({**place, "value": None, "low": None, "high": None, "dropped": 0, "reason": "AUC not defined"})
            continue
        replicates = [kept[name][1]["auc"] for name in (first, second)]
        rows.append({**place, **bootstrap.difference(*replicates, values[0] - values[1], confidence)})
    return rows


def curve(rows: pd.DataFrame, model: str, resampler: bootstrap.Resampler, options: dict[str, Any]) -> dict[str, Any]:
    """ROC with a pointwise band, precision-recall and reliability points; empty lists with a reason where undefined."""
    labels, scores = rows["label"].to_numpy(int), rows[model].to_numpy(float)
    if len(np.unique(labels)) < 2:
        return {"roc": [], "band": [], "pr": [], "reliability": [], "reason": "one class or no unit"}
    ranking = Ranking(labels, scores)
    true, false, distinct = (values.ravel() for values in roc_counts(labels, scores))
    tpr, fpr = true / true[-1], false / false[-1]
    precision = true[1:] / (true[1:] + false[1:])
    thresholds = [None, *map(float, distinct)]
    picked = np.unique(np.linspace(0, len(tpr) - 1, min(len(tpr), MAX_POINTS)).round().astype(int))

    def at_grid(weights: np.ndarray | None) -> Metrics:
        hits, alarms, _ = ranking.counts(weights)
        with np.errstate(invalid="ignore"):
            rates = zip(alarms / alarms[:, -1:], hits / hits[:, -1:], strict=True)
            return {
                "tpr": np.array(
                    [np.interp(BAND_FPR, x, y) if np.isfinite(x[-1] + y[-1]) else BAND_FPR * np.nan for x, y in rates]
                )
            }

    drawn = resampler.apply(at_grid)["tpr"]
    drawn = drawn[np.isfinite(drawn[:, 0])]
    tails = [(1 - options["confidence"]) / 2, (1 + options["confidence"]) / 2]
    low, high = np.quantile(drawn, tails, axis=0) if len(drawn) else (BAND_FPR * 0, BAND_FPR * 0 + 1)
    return {
        "roc": [{"fpr": float(fpr[k]), "tpr": float(tpr[k]), "threshold": thresholds[k]} for k in picked],
        "band": [
            {"fpr": float(x), "low": float(a), "high": float(b)} for x, a, b in zip(BAND_FPR, low, high, strict=True)
        ],
        "pr": [{"recall": float(tpr[k]), "precision": float(precision[k - 1])} for k in picked if k],
        "reliability": reliability(labels, scores),
        "reason": None,
    }
