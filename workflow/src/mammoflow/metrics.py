"""Metrics of a binary score, over one sample or over many weighted resamples at once.

Every function takes labels ``(n,)`` in {0, 1}, scores ``(n,)`` and optional weights ``(b, n)`` (how often each unit was
drawn in each of ``b`` replicates; None means one replicate with weight 1). Each metric comes back as ``(b,)`` floats;
NaN where it is not defined, such as the AUC of a replicate that holds one class.

Sorting happens once for all replicates: a replicate only changes the weights, so its ROC curve is two cumulative sums.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metrics = dict[str, Floats]

SPECIFICITIES = (0.90, 0.95, 0.995)
SENSITIVITY = 0.90
PARTIAL_FPR = 0.10

# Rates such as 9/10 are not exact in binary: without slack a specificity of exactly 0.9 would miss the target 0.9.
_SLACK = 1e-9

RANKING = [
    "auc",
    "average_precision",
    "partial_auc",
    *[f"sensitivity_at_specificity_{100 * target:g}" for target in SPECIFICITIES],
    f"specificity_at_sensitivity_{100 * SENSITIVITY:g}",
]
PROBABILITY = ["pf1", "brier", "ece"]
THRESHOLDED = ["sensitivity", "specificity", "ppv", "npv"]
LOWER_IS_BETTER = {"brier", "ece"}
METRIC_NAMES = {
    "auc": "AUC",
    "average_precision": "average precision",
    "partial_auc": f"partial AUC, FPR ≤ {PARTIAL_FPR:g}",
    "pf1": "pF1",
    **{f"sensitivity_at_specificity_{100 * x:g}": f"sensitivity at {100 * x:g} % specificity" for x in SPECIFICITIES},
    f"specificity_at_sensitivity_{100 * SENSITIVITY:g}": f"specificity at {100 * SENSITIVITY:g} % sensitivity",
    "brier": "Brier score",
    "ece": "calibration error",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}


def minimum_counts(metric: str) -> tuple[int, int]:
    """(positives, negatives) below which a metric cannot be stated: 99.5 % specificity needs 200 negatives."""
    if metric.startswith("sensitivity_at_specificity_"):
        return 1, round(1 / (1 - float(metric.rsplit("_", 1)[1]) / 100))
    if metric.startswith("specificity_at_sensitivity_"):
        return round(1 / (1 - float(metric.rsplit("_", 1)[1]) / 100)), 1
    return {"sensitivity": (1, 0), "specificity": (0, 1), "ppv": (0, 0), "npv": (0, 0)}.get(metric, (1, 1))


def roc_counts(labels: NDArray, scores: Floats, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Cumulative true and false positives ``(b, k + 1)`` and the ``k`` distinct scores, descending.

    Column 0 is "nothing called positive"; column j calls everything at or above the j-th distinct score positive.
    Equal scores move together, so that ties cost and gain nothing.
    """
    return Ranking(labels, scores).counts(weights)


class Ranking:
    """The sorted order of a score, reused for every batch of replicates."""

    def __init__(self, labels: NDArray, scores: Floats) -> None:
        scores = np.asarray(scores, float)
        self.order = np.argsort(-scores, kind="stable")
        self.positive = np.asarray(labels, float)[self.order]
        ordered = scores[self.order]
        self.ends = np.flatnonzero(np.append(ordered[:-1] != ordered[1:], True)) if len(ordered) else np.array([], int)
        self.distinct = ordered[self.ends]

    def counts(self, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """See :func:`roc_counts`."""
        drawn = np.ones((1, len(self.order))) if weights is None else np.asarray(weights, float)[:, self.order]
        called = np.cumsum(drawn, axis=1)
        drawn *= self.positive
        true = np.cumsum(drawn, axis=1, out=drawn)
        if len(self.ends) < len(self.order):
            called, true = called[:, self.ends], true[:, self.ends]
        none = np.zeros((len(true), 1))
        true = np.hstack([none, true])
        return true, np.hstack([none, called]) - true, self.distinct

    def metrics(self, weights: Floats | None = None) -> Metrics:
        """All metrics of :data:`RANKING`. Partial AUC: McClish 1989, standardised, chance is 0.5."""
        true, false, _ = self.counts(weights)
        positives, negatives = true[:, -1:], false[:, -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            called = true + false
            step = np.diff(true, axis=1)
            precision = np.divide(true[:, 1:], called[:, 1:], out=np.zeros_like(step), where=called[:, 1:] > 0)
            average_precision = (step * precision).sum(axis=1) / positives[:, 0]
            tpr, fpr = true / positives, false / negatives
            auc = (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2
            result = {"auc": auc, "average_precision": average_precision, "partial_auc": _partial_auc(fpr, tpr)}
            for target in SPECIFICITIES:
                last = (fpr <= 1 - target + _SLACK).sum(axis=1, keepdims=True) - 1
                result[f"sensitivity_at_specificity_{100 * target:g}"] = _pick(tpr, last)
            first = (tpr < SENSITIVITY - _SLACK).sum(axis=1, keepdims=True)
            result[f"specificity_at_sensitivity_{100 * SENSITIVITY:g}"] = 1 - _pick(fpr, first)
        single = ((positives == 0) | (negatives == 0))[:, 0]
        return {name: np.where(single, np.nan, values) for name, values in result.items()}


def _pick(values: Floats, column: NDArray) -> Floats:
    return np.take_along_axis(values, np.clip(column, 0, values.shape[1] - 1), axis=1)[:, 0]


def _partial_auc(fpr: Floats, tpr: Floats) -> Floats:
    left, right = fpr[:, :-1], fpr[:, 1:]
    cut = np.minimum(right, PARTIAL_FPR)
    width = cut - np.minimum(left, PARTIAL_FPR)
    share = np.divide(cut - left, right - left, out=np.ones_like(cut), where=right > left)
    height = tpr[:, :-1] + (tpr[:, 1:] - tpr[:, :-1]) * share
    area = (width * (tpr[:, :-1] + height)).sum(axis=1) / 2
    lowest = PARTIAL_FPR**2 / 2
    return 0.5 * (1 + (area - lowest) / (PARTIAL_FPR - lowest))


def auc(labels: NDArray, scores: Floats, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve ``(b,)``; ties count one half."""
    return Ranking(labels, scores).metrics(weights)["auc"]


def calibration_bins(scores: Floats, bins: int = 10) -> NDArray[np.int64]:
    """Bin of each unit: at most ``bins`` bins of about equal size by score; equal scores share a bin.

    Equal-mass bins (adaptive calibration error; Nixon et al. 2019): with 2 % cancers, equal-width bins would put nearly
    every unit in the first.
    """
    scores = np.asarray(scores, float)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1])) if len(scores) else np.array([])
    return np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1].ravel()


def probability_metrics(labels: NDArray, scores: Floats) -> Callable[[Floats | None], Metrics]:
    """Metrics that read a score as a probability, as a function of the weights.

    pf1: probabilistic F1 of the RSNA 2022 screening challenge (beta 1).  brier: mean squared error.  ece: expected
    calibration error over :func:`calibration_bins`.
    """
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    member = np.eye(calibration_bins(scores).max(initial=-1) + 1)[calibration_bins(scores)]
    # One matrix product gives every sum that is needed.
    columns = np.column_stack([np.ones_like(labels), labels, scores, scores * labels, (scores - labels) ** 2])
    columns = np.hstack([columns, member * (scores - labels)[:, None]])

    def over(weights: Floats | None) -> Metrics:
        sums = (np.ones((1, len(labels))) if weights is None else weights) @ columns
        total, positives, score, true, squared = sums[:, :5].T
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = true / score, true / positives
            pf1 = np.where(true > 0, 2 * precision * recall / (precision + recall), 0.0)
            return {
                "pf1": np.where((positives > 0) & (total > 0), pf1, np.nan),
                "brier": squared / total,
                "ece": np.abs(sums[:, 5:]).sum(axis=1) / total,
            }

    return over


def threshold_metrics(labels: NDArray, scores: Floats, threshold: float) -> Callable[[Floats | None], Metrics]:
    """Sensitivity, specificity, PPV and NPV of "score >= threshold is positive", as a function of the weights."""
    labels, called = np.asarray(labels, bool), np.asarray(scores, float) >= threshold
    cells = np.column_stack([labels & called, ~labels & called, labels & ~called, ~labels & ~called]).astype(float)

    def over(weights: Floats | None) -> Metrics:
        tp, fp, fn, tn = ((np.ones((1, len(labels))) if weights is None else weights) @ cells).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "sensitivity": tp / (tp + fn),
                "specificity": tn / (tn + fp),
                "ppv": tp / (tp + fp),
                "npv": tn / (tn + fn),
            }

    return over


def confusion(labels: NDArray, scores: Floats, threshold: float) -> dict[str, int]:
    """True and false positives and negatives of "score >= threshold is positive"."""
    labels, called = np.asarray(labels, bool), np.asarray(scores, float) >= threshold
    return {
        "tp": int((labels & called).sum()),
        "fp": int((~labels & called).sum()),
        "fn": int((labels & ~called).sum()),
        "tn": int((~labels & ~called).sum()),
    }


def threshold_at_specificity(labels: NDArray, scores: Floats, specificity: float) -> float:
    """Smallest threshold whose specificity on these units reaches the target. Raises ValueError without a negative."""
    scores = np.asarray(scores, float)
    negatives = np.sort(scores[np.asarray(labels) == 0])
    if not len(negatives):
        raise ValueError("no negative unit: the specificity is not defined")
    candidates = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    below = np.searchsorted(negatives, candidates, side="left") / len(negatives)
    return float(candidates[np.argmax(below >= specificity - _SLACK)])
