"""Patient-clustered bootstrap: patients are drawn with replacement, each with all of its images and breasts.

Images of one patient are alike; drawing images would make every interval too narrow (Field and Welsh 2007). A drawn
sample is only a count per patient, so all replicates are rows of one matrix and a metric sees them as weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from mammoflow.metrics import Metrics, minimum_counts

# Units x replicates handled at once: about 8 MB of weights, which stays in a core's cache hierarchy.
_CHUNK = 1_000_000
# With fewer usable replicates than this share, percentiles would describe the lucky draws only.
_MIN_USABLE = 0.8
# Four patients can be drawn in 35 ways, two in 3: percentiles of so few samples look like knowledge and are none.
MIN_PATIENTS = 5


@dataclass(frozen=True)
class Resampler:
    """``codes`` (n,): the patient of each unit.  ``counts`` (b, patients): how often each patient was drawn."""

    codes: NDArray[np.int64]
    counts: NDArray[np.int16]

    @classmethod
    def over(cls, groups: Any, replicates: int, seed: int) -> "Resampler":
        """Draw ``replicates`` samples of the patients in ``groups`` (one entry per unit), reproducibly by ``seed``."""
        names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        rng = np.random.default_rng(seed)
        size = len(names)
        counts = np.zeros((replicates, size), np.int16)
        for row in counts:
            row[:] = np.bincount(rng.integers(0, size, size), minlength=size)
        return cls(codes.ravel(), counts)

    def apply(self, metric: Callable[[NDArray], Metrics]) -> Metrics:
        """Values ``(b,)`` of each metric over all replicates."""
        rows = max(1, _CHUNK // max(1, len(self.codes)))
        parts = [
            metric(self.counts[start : start + rows][:, self.codes].astype(float))
            for start in range(0, len(self.counts), rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(values: NDArray, confidence: float) -> tuple[float | None, float | None, str | None]:
    """(low, high, reason). Undefined replicates are dropped; too few left, or no variation, gives no interval."""
    defined = values[np.isfinite(values)]
    if len(defined) < _MIN_USABLE * len(values):
        return (
            None,
            None,
            f"no interval: {len(values) - len(defined)} of {len(values)} replicates are not defined (one class)",
        )
    if np.ptp(defined) < 1e-12:
        return None, None, "no interval: all replicates give the same value"
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high), None


def exact_bound(value: float, patients: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion that is 0 or 1, where resampling shows no variation.

    ``patients`` (not units) is the number of trials, since units of one patient are not independent.
    """
    tail = (1 - confidence) / 2
    return (0.0, float(beta.ppf(1 - tail, 1, patients))) if value == 0 else (float(beta.ppf(tail, patients, 1)), 1.0)


def summarise(
    metric: Callable[[NDArray | None], Metrics],
    resampler: Resampler,
    confidence: float,
    positives: int,
    negatives: int,
    trials: dict[str, int] | None = None,
    patients: tuple[int, int] | None = None,
) -> tuple[dict[str, dict[str, Any]], Metrics]:
    """Estimate, interval, dropped replicates and, where a number is missing, the reason; and the replicates.

    Each metric becomes ``{"value", "low", "high", "dropped", "reason"}`` with finite numbers or None. ``trials`` gives,
    for metrics that are proportions, the patients in the denominator: a proportion of 0 or 1 gets its exact bound.
    ``patients``: those with a positive unit and those with a negative one; below ``MIN_PATIENTS`` in a class that the
    metric needs there is no interval.
    """
    estimates = metric(None)
    replicates = resampler.apply(metric)
    summary = {}
    for name, estimate in estimates.items():
        need = minimum_counts(name)
        value = float(estimate[0])
        if positives < need[0] or negatives < need[1]:
            reason = f"needs at least {need[0]} positive and {need[1]} negative units; has {positives} and {negatives}"
            summary[name] = {"value": None, "low": None, "high": None, "dropped": 0, "reason": reason}
        elif not np.isfinite(value):
            reason = {"ppv": "no unit was called positive", "npv": "no unit was called negative"}.get(
                name, "not defined"
            )
            summary[name] = {"value": None, "low": None, "high": None, "dropped": 0, "reason": reason}
        else:
            low, high, reason = percentile_interval(replicates[name], confidence)
            if few := too_few(name, patients):
                low, high, reason = None, None, few
            dropped = int((~np.isfinite(replicates[name])).sum())
            if low is None and value in (0.0, 1.0) and trials and trials.get(name):
                low, high = exact_bound(value, trials[name], confidence)
                reason = f"exact bound from {trials[name]} patients"
            summary[name] = {"value": value, "low": low, "high": high, "dropped": dropped, "reason": reason}
    return summary, replicates


def too_few(metric: str, patients: tuple[int, int] | None) -> str | None:
    """Why a metric gets no interval by resampling; None where it gets one. ``patients``: as in :func:`summarise`."""
    for needed, count, kind in zip(minimum_counts(metric), patients or (), ("positive", "negative"), strict=False):
        if needed and count < MIN_PATIENTS:
            return f"no interval: {count} patients with a {kind} unit are too few to resample"
    return None


def difference(first: NDArray, second: NDArray, value: float, confidence: float) -> dict[str, Any]:
    """Paired difference first - second over the same replicates, with its percentile interval."""
    low, high, reason = percentile_interval(first - second, confidence)
    return {
        "value": value,
        "low": low,
        "high": high,
        "dropped": int((~np.isfinite(first - second)).sum()),
        "reason": reason,
    }
