"""Runs beside each other: from the numbers of :func:`mammoflow.comparison.compare` to the words of the page."""

import math
from typing import Any

from mammoflow.comparison import controls_sentence
from mammoflow.metrics import LOWER_IS_BETTER, METRIC_NAMES
from mammoflow.report import figures

LEVEL_ORDER = ["breast", "image", "patient"]
MODEL_NAMES = {"image": "image", "fused": "image + metadata", "metadata": "metadata only"}


def comparison_view(found: dict[str, Any]) -> dict[str, Any]:
    """Everything the page says of a comparison: sentences, one table per level and model, archives, curves."""
    reference, names = found["reference"], [run["name"] for run in found["runs"]]
    levels = []
    for level in LEVEL_ORDER:
        counts = next(row for row in found["units"] if row["level"] == level)
        models = [model for model in MODEL_NAMES if _numbers(found, level, model)]
        levels.append({
            "level": level,
            "counts": counts,
            "patients": max((row["n_patients"] for row in found["numbers"] if row["level"] == level), default=0),
            "tables": [_table(found, level, model) for model in models] if counts["shared"] else [],
        })  # fmt: skip
    forest = _forest(found)
    ends = [abs(row["number"][end]) for group in forest for row in group["rows"] for end in ("low", "high", "value")
            if row["number"][end] is not None]  # fmt: skip
    return {
        "names": names,
        "reference": reference,
        "controls": controls_sentence(found["controls"]) if found["controls"] else None,
        "runs": found["runs"],
        "settings": found["settings"],
        "sentences": [sentence for name in names[1:] for sentence in _sentences(found, name)],
        "levels": levels,
        "forest": forest,
        "limit": max(0.05, math.ceil(20 * max(ends, default=0)) / 20),
        "figures": [
            (f"ROC, {MODEL_NAMES[model]}, breast level, shared test units", figures.roc_of_runs(curves))
            for model in ("image", "fused")
            if (curves := [curve for curve in found["curves"] if curve["model"] == model])
        ],
        "confidence": found["settings"]["confidence"],
    }


def _numbers(found: dict[str, Any], level: str, model: str, dataset: str | None = None) -> list[dict[str, Any]]:
    return [row for row in found["numbers"] if (row["level"], row["model"], row["dataset"]) == (level, model, dataset)]


def _difference(
    found: dict[str, Any], level: str, model: str, dataset: str | None, run: str, metric: str
) -> dict[str, Any] | None:
    wanted = (level, model, dataset, run, metric)
    keys = ("level", "model", "dataset", "run", "metric")
    return next((row for row in found["differences"] if tuple(row[key] for key in keys) == wanted), None)


def _table(found: dict[str, Any], level: str, model: str) -> dict[str, Any]:
    numbers = _numbers(found, level, model)
    others = [row["run"] for row in numbers[1:]]
    rows = []
    for metric in METRIC_NAMES:
        if metric not in numbers[0]["metrics"]:
            continue
        rows.append({
            "metric": METRIC_NAMES[metric],
            "lower": metric in LOWER_IS_BETTER,
            "values": [row["metrics"].get(metric) for row in numbers],
            "differences": [_difference(found, level, model, None, run, metric) for run in others],
        })  # fmt: skip
    return {"model": model, "name": MODEL_NAMES[model], "rows": rows, "small": numbers[0]["small"]}


def _forest(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Differences of AUC at breast level, all archives together and each by itself."""
    groups = []
    for model, name in MODEL_NAMES.items():
        rows = [
            {
                "run": row["run"],
                "dataset": row["dataset"] or "all archives",
                "number": row,
                "small": _numbers(found, "breast", model, row["dataset"])[0]["small"],
                "n_patients": _numbers(found, "breast", model, row["dataset"])[0]["n_patients"],
            }
            for row in found["differences"]
            if (row["level"], row["model"], row["metric"]) == ("breast", model, "auc") and row["value"] is not None
        ]
        if rows:
            groups.append({"title": name, "model": model, "rows": rows})
    return groups


def _sentences(found: dict[str, Any], run: str) -> list[str]:
    """The difference to the first run in plain words, for the image score and the fused one."""
    told = []
    for model in ("image", "fused"):
        row = _difference(found, "breast", model, None, run, "auc")
        if row is None or row["low"] is None:
            continue
        what = {"image": "By the image alone", "fused": "With metadata"}[model]
        amount = f"{_signed(row['value'])} ({_signed(row['low'])} to {_signed(row['high'])})"
        if row["low"] > 0:
            verdict = f"{run} ranks better"
        elif row["high"] < 0:
            verdict = f"{run} ranks worse"
        else:
            verdict = "this test set does not tell the two apart"
        p = f", DeLong p {_p(row['delong']['p'])}" if row.get("delong") else ""
        told.append(f"{what}, the AUC of {run} minus that of {row['reference']} is {amount}{p}: {verdict}.")
    return told


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
