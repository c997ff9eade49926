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
# Where the classes of validation are separable, no temperature is low enough: stop at this inverse.
MAX_SLOPE = 20.0


def logit(scores: NDArray) -> NDArray:
    """Log-odds of scores, kept finite by clipping to [1e-6, 1 - 1e-6]."""
    clipped = np.clip(np.asarray(scores, float), _EDGE, 1 - _EDGE)
    return np.log(clipped / (1 - clipped))


def sigmoid(values: NDArray) -> NDArray:
    """Inverse of :func:`logit`."""
    return 1 / (1 + np.exp(-np.asarray(values, float)))


@dataclass(frozen=True)
class Platt:
    """probability = sigmoid(slope * logit(score) + intercept). The slope is never negative: the order is kept.

    Temperature scaling is the same without an intercept.
    """

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
    labels = np.asarray(labels, float)
    positives, negatives = _both_classes(labels)
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = _least_log_loss(logit(scores), target, [(0, None), (None, None)])
    return Platt(slope, intercept, len(labels))


def fit_temperature(labels: NDArray, scores: NDArray) -> Platt:
    """Temperature scaling (Guo et al., ICML 2017): the log-odds divided by one number, which is 1 / ``slope``.

    It mends confidence alone: a wrong prevalence stays wrong.  Raises ValueError where one class is missing.
    """
    labels = np.asarray(labels, float)
    _both_classes(labels)
    slope, intercept = _least_log_loss(logit(scores), labels, [(0, MAX_SLOPE), (0, 0)])
    return Platt(slope, intercept, len(labels), method="temperature")


def _both_classes(labels: NDArray) -> tuple[float, float]:
    positives, negatives = float(labels.sum()), float((1 - labels).sum())
    if not positives or not negatives:
        raise ValueError("scaling a score needs both classes")
    return positives, negatives


def _least_log_loss(log_odds: NDArray, target: NDArray, bounds: list[tuple[float | None, float | None]]) -> Any:
    from scipy.optimize import minimize

    def loss(parameters: NDArray) -> tuple[float, NDArray]:
        value = parameters[0] * log_odds + parameters[1]
        error = sigmoid(value) - target
        return float(np.mean(np.logaddexp(0, value) - target * value)), np.array([error @ log_odds, error.sum()]) / len(
            target
        )

    tight = {"ftol": 1e-13, "gtol": 1e-9}
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds, options=tight)
    return float(found.x[0]), float(found.x[1])


def fit_isotonic(labels: NDArray, scores: NDArray) -> Isotonic:
    """Isotonic regression (Zadrozny and Elkan, KDD 2002): the best non-decreasing fit, flat outside the scores seen."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    return Isotonic(tuple(map(float, model.X_thresholds_)), tuple(map(float, model.y_thresholds_)), len(labels))


FITS = {"temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}
METHOD_NAMES = {
    "none": "no calibration",
    "temperature": "temperature scaling",
    "platt": "Platt scaling",
    "isotonic": "isotonic regression",
}


def fit_calibration(labels: NDArray, scores: NDArray, method: str = "auto") -> Platt | Isotonic | Identity:
    """A method of :data:`FITS`, or ``auto``: isotonic regression where there is much validation data, else Platt
    scaling. No calibration where a class is missing.
    """
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    smaller = min(labels.sum(), len(labels) - labels.sum())
    if smaller == 0:
        return Identity(len(labels), "validation holds one class or none")
    if method == "auto":
        method = "platt" if len(labels) < ISOTONIC_UNITS or smaller < ISOTONIC_PER_CLASS else "isotonic"
    return FITS[method](labels, scores)


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
