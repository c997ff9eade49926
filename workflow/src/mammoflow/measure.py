"""Numbers of one set of units: threshold, metrics with intervals, subgroups, paired differences, curves."""

from typing import Any

import numpy as np
import pandas as pd

from mammoflow import bootstrap, delong
from mammoflow.calibration import FITS, reliability
from mammoflow.levels import SUBGROUPS
from mammoflow.metrics import (
    THRESHOLDED,
    Metrics,
    Ranking,
    calibration_bins,
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
GRID = np.linspace(0, 1, 51)


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
        "n_patients_positive": rows.loc[labels == 1, "group_id"].nunique(),
        "n_patients_negative": rows.loc[labels == 0, "group_id"].nunique(),
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
        all_metrics, resampler, options["confidence"], positives, negatives, trials, _per_class(block)
    )
    if block["metrics"].get("auc", {}).get("value") is not None:
        block["metrics"]["auc"]["delong"] = delong.interval(labels, scores, rows["group_id"], options["confidence"])
    return {**block, "reason": None if positives and negatives else "one class only"}, replicates


def _per_class(block: dict[str, Any]) -> tuple[int, int]:
    """Patients with a positive and with a negative unit, from a block of :func:`measure`."""
    return block["n_patients_positive"], block["n_patients_negative"]


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
            .where(labelled[column].notna(), "none marked" if column in ("finding", "lesion_size") else "unknown")
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
    level: str, split: str, rows: pd.DataFrame, kept: dict[str, tuple[dict[str, Any], Metrics]], confidence: float
) -> list[dict[str, Any]]:
    """Differences of AUC between the models of one run over the same replicates, DeLong's beside them.

    ``rows``: the labelled units, a column per model.  ``kept``: what :func:`measure` returned for each model.
    """
    found = []
    for first, second in PAIRS:
        if not {first, second} <= set(kept):
            continue
        counts = {name: kept[first][0][name] for name in ("n_units", "n_positive", "n_patients", "small")}
        place = {"level": level, "split": split, "first": first, "second": second, "metric": "auc", **counts}
        found.append({**place, **metric_difference("auc", kept[first], kept[second], confidence), "delong": None})
        if found[-1]["value"] is not None:
            scores = [rows[name].to_numpy(float) for name in (first, second)]
            found[-1]["delong"] = delong.difference(rows["label"].to_numpy(int), *scores, rows["group_id"], confidence)
    return found


def metric_difference(
    metric: str,
    first: tuple[dict[str, Any], Metrics],
    second: tuple[dict[str, Any], Metrics],
    confidence: float,
) -> dict[str, Any]:
    """first - second of one metric, from two results of :func:`measure` on the same units and replicates."""
    numbers = [block["metrics"].get(metric) for block, _ in (first, second)]
    missing = [
        number["reason"] if number else "not measured" for number in numbers if (number or {}).get("value") is None
    ]
    if missing:
        return {"value": None, "low": None, "high": None, "dropped": 0, "reason": f"not defined: {missing[0]}"}
    value = numbers[0]["value"] - numbers[1]["value"]
    if few := bootstrap.too_few(metric, _per_class(first[0])):
        return {"value": value, "low": None, "high": None, "dropped": 0, "reason": few}
    return bootstrap.difference(first[1][metric], second[1][metric], value, confidence)


def calibrations(
    units: pd.DataFrame, model: str, resampler: bootstrap.Resampler, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Brier score and calibration error on test of a score as it is and after each method, fitted on val.

    ``units``: every unit of a level.  ``resampler``: over the labelled test units.
    """
    labelled = units[units["label"].notna()]
    val, test = (labelled[labelled["split"] == split] for split in ("val", "test"))
    known, scores = val["label"].to_numpy(int), val[model].to_numpy(float)
    if len(np.unique(known)) < 2 or not len(test):
        return []
    labels, raw = test["label"].to_numpy(int), test[model].to_numpy(float)
    rows = []
    for method in ("none", *FITS):
        fitted = None if method == "none" else FITS[method](known, scores)
        metric = probability_metrics(labels, raw if fitted is None else fitted(raw))
        positives = int(labels.sum())
        patients = tuple(test.loc[labels == label, "group_id"].nunique() for label in (1, 0))
        numbers, _ = bootstrap.summarise(
            metric, resampler, options["confidence"], positives, len(labels) - positives, None, patients
        )
        kept = {name: numbers[name] for name in ("brier", "ece")}
        fit = None if fitted is None else fitted.as_dict()
        rows.append({"model": model, "method": method, "n_val": len(val), "fit": fit, "metrics": kept})
    return rows


def curve(rows: pd.DataFrame, model: str, resampler: bootstrap.Resampler, options: dict[str, Any]) -> dict[str, Any]:
    """ROC, precision-recall and reliability points with pointwise intervals; empty lists with a reason where undefined.

    The intervals of ``reliability`` stand in its points, those of ``roc`` and ``pr`` in ``band`` and ``pr_band``, which
    are empty where a class has fewer than ``bootstrap.MIN_PATIENTS`` patients.
    """
    labels, scores = rows["label"].to_numpy(int), rows[model].to_numpy(float)
    if len(np.unique(labels)) < 2:
        return {"roc": [], "band": [], "pr": [], "pr_band": [], "reliability": [], "reason": "one class or no unit"}
    ranking = Ranking(labels, scores)
    true, false, distinct = (values.ravel() for values in roc_counts(labels, scores))
    tpr, fpr = true / true[-1], false / false[-1]
    precision = true[1:] / (true[1:] + false[1:])
    thresholds = [None, *map(float, distinct)]
    picked = np.unique(np.linspace(0, len(tpr) - 1, min(len(tpr), MAX_POINTS)).round().astype(int))
    bins = calibration_bins(scores)
    member = np.eye(bins.max() + 1)[bins]

    def at_grid(weights: np.ndarray) -> Metrics:
        hits, alarms, _ = ranking.counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, fall_out, right = hits / hits[:, -1:], alarms / alarms[:, -1:], hits / (hits + alarms)
            observed = (weights @ (member * labels[:, None])) / (weights @ member)
        usable = np.isfinite(recall[:, -1] + fall_out[:, -1])
        tpr_at = [np.interp(GRID, x, y) for x, y in zip(fall_out[usable], recall[usable], strict=True)]
        # The fewest calls that reach the recall: a line between two points of this curve would promise too much.
        at = [np.searchsorted(row, GRID[1:] - 1e-12) for row in recall[usable]]
        precision_at = [row[index] for row, index in zip(right[usable], at, strict=True)]
        columns = {"tpr": (tpr_at, len(GRID)), "precision": (precision_at, len(GRID) - 1)}
        parts = {name: np.array(values).reshape(-1, size) for name, (values, size) in columns.items()}
        return {**parts, "observed": observed}

    drawn = resampler.apply(at_grid)
    roc_band, pr_band, bars = (_pointwise(drawn[name], options["confidence"]) for name in drawn)
    points = reliability(labels, scores)
    for position, point in enumerate(points):
        if point["observed"] in (0.0, 1.0):  # resampling shows no variation
            patients = rows.loc[bins == position, "group_id"].nunique()
            exact = bootstrap.exact_bound(point["observed"], patients, options["confidence"])
            bars[position] = dict(zip(("low", "high"), exact, strict=True))
    enough = rows.groupby("label")["group_id"].nunique().min() >= bootstrap.MIN_PATIENTS
    return {
        "roc": [{"fpr": float(fpr[k]), "tpr": float(tpr[k]), "threshold": thresholds[k]} for k in picked],
        "band": [{"fpr": float(x), **ends} for x, ends in zip(GRID, roc_band, strict=True) if enough],
        "pr": [{"recall": float(tpr[k]), "precision": float(precision[k - 1])} for k in picked if k],
        "pr_band": [{"recall": float(x), **ends} for x, ends in zip(GRID[1:], pr_band, strict=True) if enough],
        "reliability": [{**point, **ends} for point, ends in zip(points, bars, strict=True)],
        "reason": None,
    }


def _pointwise(drawn: np.ndarray, confidence: float) -> list[dict[str, float]]:
    """``low`` and ``high`` of each column over its defined replicates; 0 and 1 where there is none."""
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    found = []
    for column in drawn.T:
        defined = column[np.isfinite(column)]
        low, high = np.quantile(defined, tails) if len(defined) else (0.0, 1.0)
        found.append({"low": float(low), "high": float(high)})
    return found
