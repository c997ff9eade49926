"""How well two readers agree: Cohen's kappa, plain and weighted, over breasts."""

from typing import Any

import pandas as pd
from sklearn.metrics import cohen_kappa_score

from mammoflow import tables
from mammoflow.datasets.vindr_mammo import CATEGORIES
from mammoflow.reading.files import Readings

BREAST = ["study_id", "laterality"]
SCALES = {"breast_birads": tables.BIRADS, "breast_density": tables.DENSITIES}


def agreement(first: Readings, second: Readings) -> dict[str, Any]:
    """Agreement of two readings of the same exams, over the breasts that both read.

    ``breast_birads`` and ``breast_density``: kappa plain, linearly and quadratically weighted; the weights count steps
    between the grades in use. ``findings``: kappa of "the breast has such a finding", for any and for each category. A
    kappa is None where it is undefined: both readers used one and the same grade.
    """
    one, other = (side.breasts.drop_duplicates(BREAST).set_index(BREAST) for side in (first, second))
    shared = one.index.intersection(other.index).sort_values()
    result: dict[str, Any] = {"exams": int(shared.get_level_values("study_id").nunique()), "breasts": len(shared)}
    for name, scale in SCALES.items():
        pair = pd.DataFrame({"one": one.loc[shared, name], "other": other.loc[shared, name]}).dropna()
        weights = {"kappa": None, "kappa_linear": "linear", "kappa_quadratic": "quadratic"}
        result[name] = {
            **_share(pair),
            **{key: _kappa(pair, scale, weight) for key, weight in weights.items()},
            "table": _cross_table(pair, scale),
        }
    marks = [_marks(side, shared) for side in (first, second)]
    result["findings"] = {}
    for word in ["any", *CATEGORIES]:
        pair = pd.DataFrame({"one": marks[0][word], "other": marks[1][word]})
        counts = {"breasts_1": int(pair["one"].sum()), "breasts_2": int(pair["other"].sum())}
        result["findings"][word] = {**_share(pair), **counts, "kappa": _kappa(pair, [False, True], None)}
    return result


def _share(pair: pd.DataFrame) -> dict[str, Any]:
    same = float((pair["one"] == pair["other"]).mean()) if len(pair) else None
    return {"n": len(pair), "same": None if same is None else round(same, 6)}


def _kappa(pair: pd.DataFrame, scale: list[Any], weights: str | None) -> float | None:
    """Cohen's kappa (Cohen 1960; weighted: Cohen 1968); None where both used one and the same grade, or nothing."""
    used = {*pair["one"], *pair["other"]}
    if len(used) < 2:
        return None
    number = {word: index for index, word in enumerate(scale)}
    codes = [pair[side].map(number).astype(int) for side in ("one", "other")]
    # Only the grades in use: 4A beside 4 would else widen the scale of those who do not divide 4. The order stays.
    steps = sorted({*codes[0], *codes[1]})
    return round(float(cohen_kappa_score(*codes, labels=steps, weights=weights)), 6)


def _cross_table(pair: pd.DataFrame, scale: list[str]) -> dict[str, dict[str, int]]:
    """First reader's grade -> second reader's grade -> breasts."""
    counts = pair.groupby(["one", "other"]).size()
    return {a: {b: int(counts[a, b]) for b in scale if (a, b) in counts} for a in scale if a in set(pair["one"])}


def _marks(side: Readings, shared: pd.MultiIndex) -> pd.DataFrame:
    """For each shared breast: does the reader mark a finding at all, and of each category?"""
    marked = side.findings.set_index(BREAST)["finding_categories"]
    found = {"any": shared.isin(marked.index)}
    for word in CATEGORIES:
        # A name stands between quotes: Asymmetry is not Focal Asymmetry.
        found[word] = shared.isin(marked.index[marked.str.contains(f"'{word}'", regex=False)])
    return pd.DataFrame(found, index=shared)
