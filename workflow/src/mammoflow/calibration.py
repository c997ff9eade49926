"""Calibration: a score becomes a probability. Fitted on validation only; stored as plain numbers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammoflow.metrics import calibration_bins

# Isotonic regression overfits small sets; below about a thousand cases Platt scaling is better
# (Niculescu-Mizil and Caruana, ICML 2005).
ISOTONIC_UNITS, ISOTONIC_PER_CLASS = 1000, 50
_EDGE = 1e-6


def logit(scores: NDArray) -> NDArray:
    """Log-odds of scores, kept finite by clipping to [1e-6, 1 - 1e-6]."""
    clipped = np.clip(np.asarray(scores, float), _EDGE, 1 - _EDGE)
    return np.log(clipped / (1 - clipped))


def sigmoid(values: NDArray) -> NDArray:
    """Inverse of :func:`logit`."""
    return 1 / (1 + np.exp(-np.asarray(values, float)))


@dataclass(frozen=True)
class Platt:
    """probability = sigmoid(slope * logit(score) + intercept). The slope is never negative: the order is kept."""

    slope: float
    intercept: float
    units: int
    reason: str | None = None
    method: str = "platt"

    def __call__(self, scores: NDArray) -> NDArray:
        return sigmoid(self.slope * logit(scores) + self.intercept)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Isotonic:
    """Piecewise linear through the knots (x, y); constant outside."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    units: int
    reason: str | None = None
    method: str = "isotonic"

    def __call__(self, scores: NDArray) -> NDArray:
        return np.interp(np.asarray(scores, float), self.x, self.y)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Identity:
    """No calibration, with the reason why."""

    units: int
    reason: str | None = None
    method: str = "none"

    def __call__(self, scores: NDArray) -> NDArray:
        return np.asarray(scores, float)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_platt(labels: NDArray, scores: NDArray) -> Platt:
    """Platt scaling (Platt 1999) with his smoothed targets, which keep the fit finite where classes are separable.

    Raises ValueError where one class is missing.
    """
    from scipy.optimize import minimize

    labels, log_odds = np.asarray(labels, float), logit(scores)
    positives, negatives = labels.sum(), (1 - labels).sum()
    if not positives or not negatives:
        raise ValueError("Platt scaling needs both classes")
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: NDArray) -> tuple[float, NDArray]:
        value = parameters[0] * log_odds + parameters[1]
        error = sigmoid(value) - target
        return float(np.sum(np.logaddexp(0, value) - target * value)), np.array([error @ log_odds, error.sum()])

    start = np.array([1.0, 0.0])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return Platt(float(found.x[0]), float(found.x[1]), len(labels))


def fit_calibration(labels: NDArray, scores: NDArray) -> Platt | Isotonic | Identity:
    """Isotonic regression where there is much validation data, else Platt scaling; none where a class is missing."""
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    smaller = min(labels.sum(), len(labels) - labels.sum())
    if smaller == 0:
        return Identity(len(labels), "validation holds one class or none")
    if len(labels) < ISOTONIC_UNITS or smaller < ISOTONIC_PER_CLASS:
        return fit_platt(labels, scores)
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    return Isotonic(tuple(map(float, model.X_thresholds_)), tuple(map(float, model.y_thresholds_)), len(labels))


def reliability(labels: NDArray, scores: NDArray, bins: int = 10) -> list[dict[str, float]]:
    """Points of a reliability diagram: mean score, observed share of positives and units per equal-mass bin."""
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    member = calibration_bins(scores, bins)
    return [
        {
            "mean_score": float(scores[member == index].mean()),
            "observed": float(labels[member == index].mean()),
            "n_units": int((member == index).sum()),
        }
        for index in np.unique(member)
    ]
