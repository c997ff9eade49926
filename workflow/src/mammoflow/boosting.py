"""The learner behind the fusion: boosted trees that correct a starting score, with a patient-grouped nested CV."""

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
# Below this many, threads wait for each other longer than they work.
THREADED = 5000
MAX_ROUNDS = 300
PATIENCE = 30
# What the SHAP picture shows: more points would not be told apart.
SHAP_FEATURES, SHAP_ROWS = 10, 250


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
    shap: list[dict[str, Any]]
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
        "num_threads": threads if breasts >= THREADED else 1,
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
    instead of to coarse steps.

    The number of rounds, 0 included, is found by early stopping on the folds' mean log loss. It is nested: the scores
    of a held fold come from a model whose rounds were chosen among the other folds alone. With two folds there is
    nothing left to choose on, and both share one number.
    """
    known = np.isfinite(labels)
    settings = parameters(int(known.sum()), seed, threads, features)
    constant = float(logit((labels[known].sum() + 1) / (known.sum() + 2)))
    single = len(np.unique(labels[known])) < 2

    def dataset(rows: NDArray, start: Start, reference: lgb.Dataset | None = None) -> lgb.Dataset:
        return lgb.Dataset(
            features[rows],
            labels[rows],
            init_score=start(_at(scores, rows), int(rows.sum())),
            reference=reference,
            categorical_feature=categorical,
            params=settings,
            free_raw_data=False,
        )

    def start_of(rows: NDArray) -> Start:
        return Start.fit(labels[rows], _at(scores, rows), constant)

    def learns(rows: NDArray) -> bool:
        return bool(features.shape[1]) and len(np.unique(labels[rows])) == 2

    def choose_rounds(rows: NDArray) -> int:
        """Boost one model per fold of ``rows`` in step; stop when their mean loss has not fallen for a while."""
        boosters, weights, losses = [], [], []
        for fold in np.unique(folds[rows]):
            tested, rest = rows & (folds == fold), rows & (folds != fold)
            if not learns(rest):
                continue
            start = start_of(rest)
            data = dataset(rest, start)
            booster = lgb.Booster(settings, data).add_valid(dataset(tested, start, data), "inner")
            boosters.append(booster)
            weights.append(int(tested.sum()))
            initial = start(_at(scores, tested), int(tested.sum()))
            losses.append(float(np.mean(np.logaddexp(0, initial) - labels[tested] * initial)))
        if not boosters:
            return 0
        best, best_loss = 0, float(np.average(losses, weights=weights))
        for number in range(1, MAX_ROUNDS + 1):
            finished = [booster.update() for booster in boosters]
            loss = float(np.average([booster.eval_valid()[0][2] for booster in boosters], weights=weights))
            if loss < best_loss:
                best, best_loss = number, loss
            if all(finished) or number - best >= PATIENCE:
                break
        return best

    def boost(rows: NDArray, rounds: int) -> tuple[Start, lgb.Booster | None]:
        start = start_of(rows)
        return start, lgb.train(settings, dataset(rows, start), rounds) if rounds and learns(rows) else None

    rounds = choose_rounds(known)
    names = np.unique(folds)
    oof = np.empty(len(labels))
    for fold in names:
        held, rest = folds == fold, known & (folds != fold)
        start, booster = boost(rest, choose_rounds(rest) if len(names) > 2 else rounds)
        oof[held] = sigmoid(start(_at(scores, held), int(held.sum())) + _trees(booster, features[held]))
    start, booster = boost(known, rounds)

    def predict(rows: pd.DataFrame, starting: NDArray | None) -> NDArray:
        return sigmoid(start(starting, len(rows)) + _trees(booster, rows))

    note = None if rounds else "no round of boosting lowered the inner loss: the starting score is used as it is"
    note = "training holds one class: the score is constant" if single else note
    importance, shap = _explain(
        booster, features[known], start(_at(scores, known), int(known.sum())), categorical, seed
    )
    return Fit(oof, predict, rounds, settings, importance, shap, note)


def _at(scores: NDArray | None, rows: NDArray) -> NDArray | None:
    return None if scores is None else scores[rows]


def _trees(booster: lgb.Booster | None, features: pd.DataFrame) -> NDArray:
    """Sum of the trees in log-odds; 0 without a booster."""
    if booster is None or not len(features):
        return np.zeros(len(features))
    return booster.predict(features, raw_score=True)


def _explain(
    booster: lgb.Booster | None, features: pd.DataFrame, start: NDArray, categorical: list[str], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """SHAP summary (Lundberg et al. 2020; LightGBM's exact tree values) of the rows that were fitted.

    First list, per feature: gain, mean absolute SHAP value in log-odds and its direction (rank correlation of value
    and SHAP value; None for categories and constants), largest first. The starting score stands first, as its mean
    absolute deviation from its mean, in the same unit.  Second list: of the strongest features the SHAP values of a
    sample of rows, each with the feature's value as a rank in 0..1 (None where unknown).
    """
    spread = float(np.abs(start - start.mean()).mean()) if len(start) else 0.0
    first = {"feature": "start", "gain": None, "mean_abs_shap": spread, "direction": None}
    if booster is None:
        return [first], []
    gain = booster.feature_importance("gain")
    contributions = booster.predict(features, pred_contrib=True)[:, :-1]
    ranks = features.rank(pct=True).to_numpy(float)
    rows = []
    for k, name in enumerate(features):
        pair = pd.DataFrame({"value": ranks[:, k], "shap": contributions[:, k]}).dropna()
        ordered = name not in categorical and len(pair) and (pair.nunique() > 1).all()
        direction = float(pair["value"].corr(pair["shap"].rank())) if ordered else None
        strength = float(np.abs(contributions[:, k]).mean())
        rows.append({"feature": name, "gain": float(gain[k]), "mean_abs_shap": strength, "direction": direction})
    rows = sorted(rows, key=lambda row: -row["mean_abs_shap"])
    shown = [row["feature"] for row in rows[:SHAP_FEATURES] if row["mean_abs_shap"] > 0]
    sample = np.sort(np.random.default_rng(seed).permutation(len(features))[:SHAP_ROWS])
    values = [
        {
            "feature": name,
            "rank": [None if np.isnan(rank) else round(float(rank), 3) for rank in ranks[sample, k]],
            "shap": [round(float(value), 4) for value in contributions[sample, k]],
        }
        for name in shown
        for k in [features.columns.get_loc(name)]
    ]
    return [first, *rows], values
