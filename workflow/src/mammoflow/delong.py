"""The AUC's variance in closed form, as a check of the bootstrap.

DeLong, DeLong and Clarke-Pearson (Biometrics 1988) by placement values, computed over ranks (Sun and Xu, IEEE Signal
Processing Letters 2014); with several units per patient the clustered form of Obuchowski (Biometrics 1997), which is
DeLong's where each patient has one unit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from mammoflow.bootstrap import MIN_PATIENTS


def auc_covariance(labels: NDArray, scores: NDArray, groups: NDArray) -> tuple[NDArray, NDArray]:
    """AUCs ``(m,)`` of ``m`` scores on the same units, and their covariance ``(m, m)``.

    labels (n,) in {0, 1};  scores (m, n);  groups (n,): the patient of each unit.  The covariance is NaN where fewer
    than two patients have a positive unit, or fewer than two a negative one.  Raises ValueError without both classes.
    """
    scores = np.atleast_2d(np.asarray(scores, float))
    positive = np.asarray(labels) == 1
    cases, controls = int(positive.sum()), int((~positive).sum())
    if not cases or not controls:
        raise ValueError("the AUC needs both classes")
    # Placement value: the share of the other class that a unit beats, ties counting one half.
    above = (rankdata(scores, axis=1)[:, positive] - rankdata(scores[:, positive], axis=1)) / controls
    below = 1 - (rankdata(scores, axis=1)[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / cases
    aucs = above.mean(axis=1)

    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    patients = len(names)
    sums = [_sum_by(codes[member], values - aucs[:, None], patients) for member, values in
            ((positive, above), (~positive, below))]  # fmt: skip
    with_case, with_control = len(np.unique(codes[positive])), len(np.unique(codes[~positive]))
    if with_case < 2 or with_control < 2:
        return aucs, np.full((len(aucs), len(aucs)), np.nan)
    covariance = with_case / (with_case - 1) * sums[0] @ sums[0].T / cases**2
    covariance += with_control / (with_control - 1) * sums[1] @ sums[1].T / controls**2
    cross = patients / (patients - 1) * sums[0] @ sums[1].T / (cases * controls)
    return aucs, covariance + cross + cross.T


def _sum_by(codes: NDArray, values: NDArray, size: int) -> NDArray:
    return np.stack([np.bincount(codes, weights=row, minlength=size) for row in values])


def interval(labels: NDArray, scores: NDArray, groups: NDArray, confidence: float) -> dict[str, Any] | None:
    """``{"low", "high"}`` of one AUC by the normal approximation, cut to 0..1.

    None where it has no variance, and below ``MIN_PATIENTS`` in a class: no variance is known from so few.
    """
    if _too_few(labels, groups):
        return None
    aucs, covariance = auc_covariance(labels, scores, groups)
    found = _normal(float(aucs[0]), float(covariance[0, 0]), confidence)
    return found and {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def difference(
    labels: NDArray, first: NDArray, second: NDArray, groups: NDArray, confidence: float
) -> dict[str, Any] | None:
    """``{"low", "high", "p"}`` of AUC(first) - AUC(second), paired, two-sided; None as in :func:`interval`."""
    if _too_few(labels, groups):
        return None
    aucs, covariance = auc_covariance(labels, np.stack([first, second]), groups)
    contrast = np.array([1.0, -1.0])
    value, variance = float(contrast @ aucs), float(contrast @ covariance @ contrast)
    found = _normal(value, variance, confidence)
    return found and {**found, "p": float(2 * norm.sf(abs(value) / np.sqrt(variance)))}


def _too_few(labels: NDArray, groups: NDArray) -> bool:
    positive, groups = np.asarray(labels) == 1, np.asarray(groups, dtype=str)
    return any(len(np.unique(groups[member])) < MIN_PATIENTS for member in (positive, ~positive))


def _normal(value: float, variance: float, confidence: float) -> dict[str, float] | None:
    if not np.isfinite(variance) or variance < 1e-15:
        return None
    half = float(norm.ppf((1 + confidence) / 2) * np.sqrt(variance))
    return {"low": value - half, "high": value + half}
