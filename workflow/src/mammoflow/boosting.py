"""The learner behind the fusion: boosted trees that correct a starting score, with a patient-grouped inner CV."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mammoflow.calibration import Platt, fit_platt, logit, sigmoid

# Below this many training breasts trees are stumps with strong shrinkage: LightGBM still runs, but corrects little.
SMALL = 200
MAX_ROUNDS = 300


@dataclass(frozen=True)
class Start:
    """Log-odds where boosting begins: the Platt-scaled image score, or one constant where there is no such score."""

    scale: Platt | None
    constant: float

    @classmethod
    def fit(cls, labels: NDArray, scores: NDArray | None, constant: float) -> "Start":
        """``constant`` comes from all training rows: a prevalence per fold would rank the folds by their labels."""
        usable = scores is not None and len(np.unique(labels)) == 2
        return cls(fit_platt(labels, scores) if usable else None, constant)

    def __call__(self, scores: NDArray | None, rows: int) -> NDArray:
        if self.scale is None:
            return np.full(rows, self.constant)
        return self.scale.slope * logit(scores) + self.scale.intercept


@dataclass(frozen=True)
class Fit:
    """``oof`` (n,): inner out-of-fold scores of the training rows.  ``predict``: scores of other rows."""

    oof: NDArray
    predict: Callable[[pd.DataFrame, NDArray | None], NDArray]
    rounds: int
    parameters: dict[str, Any]
    importance: list[dict[str, Any]]
    note: str | None


def parameters(breasts: int, seed: int, threads: int, features: pd.DataFrame) -> dict[str, Any]:
    """LightGBM's parameters for ``breasts`` training rows: small trees, deterministic for any number of threads."""
    small = breasts < SMALL
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": 0.05,
        "num_leaves": 2 if small else 6,
        "min_data_in_leaf": int(np.clip(breasts // 20, 3, 50)),
        "lambda_l2": 10.0 if small else 3.0,
        "max_bin": 63,
        # Rare categories (a machine with few patients) must not become a label of their own.
        "min_data_per_group": int(np.clip(breasts // 20, 5, 100)),
        "cat_smooth": 20.0,
        # A larger image score may only raise the result.
        "monotone_constraints": [int(name.startswith("score_")) for name in features],
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "seed": seed,
        "verbosity": -1,
    }


def fit(
    features: pd.DataFrame,
    scores: NDArray | None,
    labels: NDArray,
    folds: NDArray,
    categorical: list[str],
    seed: int,
    threads: int = 1,
) -> Fit:
    """Fit boosted trees on top of a starting score.

    features (n, k) floats;  scores (n,) in 0..1 where boosting starts, or None;  labels (n,) 0, 1 or NaN (unlabelled:
    scored, not fitted);  folds (n,) patient-grouped.  With too little data the result falls back to the starting score
    instead of to coarse steps. The number of rounds, 0 included, is the one with the least log loss over the folds.
    """
    known = np.isfinite(labels)
    settings = parameters(int(known.sum()), seed, threads, features)
    constant = float(logit((labels[known].sum() + 1) / (known.sum() + 2)))
    single = len(np.unique(labels[known])) < 2

    def boost(
        rows: NDArray, start: Start, rounds: int, tested: NDArray | None = None
    ) -> tuple[lgb.Booster, list[float]]:
        """Booster on ``rows`` and, on ``tested``, the log loss after 0, 1, ... rounds."""
        data, initial = _dataset(rows, start)
        record: dict[str, Any] = {}
        if tested is None:
            return lgb.train(settings, data, rounds), []
        valid, initial = _dataset(tested, start, data)
        booster = lgb.train(settings, data, rounds, [valid], callbacks=[lgb.record_evaluation(record)])
        curve = [
            float(np.mean(np.logaddexp(0, initial) - labels[tested] * initial)),
            *record["valid_0"]["binary_logloss"],
        ]
        # Training ends early where no split is left: later rounds add nothing.
        return booster, curve + [curve[-1]] * (rounds + 1 - len(curve))

    def _dataset(rows: NDArray, start: Start, reference: lgb.Dataset | None = None) -> tuple[lgb.Dataset, NDArray]:
        initial = start(_at(scores, rows), int(rows.sum()))
        data = lgb.Dataset(
            features[rows],
            labels[rows],
            init_score=initial,
            reference=reference,
            categorical_feature=categorical,
            params=settings,
        )
        return data, initial

    inner, losses, weights = [], [], []
    for fold in np.unique(folds):
        held, rest = folds == fold, known & (folds != fold)
        start, booster = Start.fit(labels[rest], _at(scores, rest), constant), None
        if features.shape[1] and len(np.unique(labels[rest])) == 2 and (held & known).any():
            booster, curve = boost(rest, start, MAX_ROUNDS, held & known)
            losses.append(curve)
            weights.append((held & known).sum())
        inner.append((held, start, booster))
    rounds = int(np.argmin(np.average(losses, axis=0, weights=weights))) if losses else 0

    oof = np.empty(len(labels))
    for held, start, booster in inner:
        oof[held] = sigmoid(start(_at(scores, held), int(held.sum())) + _trees(booster, features[held], rounds))
    start = Start.fit(labels[known], _at(scores, known), constant)
    booster = boost(known, start, rounds)[0] if rounds else None

    def predict(rows: pd.DataFrame, starting: NDArray | None) -> NDArray:
        return sigmoid(start(starting, len(rows)) + _trees(booster, rows, rounds))

    note = None if rounds else "no round of boosting lowered the inner loss: the starting score is used as it is"
    note = "training holds one class: the score is constant" if single else note
    importance = _importance(booster, features[known], start(_at(scores, known), int(known.sum())))
    return Fit(oof, predict, rounds, settings, importance, note)


def _at(scores: NDArray | None, rows: NDArray) -> NDArray | None:
    return None if scores is None else scores[rows]


def _trees(booster: lgb.Booster | None, features: pd.DataFrame, rounds: int) -> NDArray:
    """Sum of the first ``rounds`` trees in log-odds; 0 without a booster."""
    if booster is None or rounds == 0 or not len(features):
        return np.zeros(len(features))
    return booster.predict(features, raw_score=True, num_iteration=rounds)


def _importance(booster: lgb.Booster | None, features: pd.DataFrame, start: NDArray) -> list[dict[str, Any]]:
    """Per feature: gain, and the mean absolute SHAP value in log-odds (Lundberg 2020), largest first.

    The starting score stands first, as its mean absolute deviation from its mean, in the same unit.
    """
    spread = float(np.abs(start - start.mean()).mean()) if len(start) else 0.0
    first = {"feature": "start", "gain": None, "mean_abs_shap": spread}
    if booster is None:
        return [first]
    gain = booster.feature_importance("gain")
    shap = np.abs(booster.predict(features, pred_contrib=True)[:, :-1]).mean(axis=0)
    rows = [
        {"feature": name, "gain": float(gain[k]), "mean_abs_shap": float(shap[k])} for k, name in enumerate(features)
    ]
    return [first, *sorted(rows, key=lambda row: -row["mean_abs_shap"])]
