"""Runs side by side on the test units they share: every metric of each, and paired differences to the first run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import bootstrap, delong, tables
from mammoflow.errors import UserError
from mammoflow.files import read_json
from mammoflow.levels import LEVELS, scored_units
from mammoflow.measure import curve, measure, metric_difference

MODELS = ["image", "fused", "metadata"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a comparison needs of an evaluated run.

    ``metrics``: the content of its metrics.json.  ``control``: its labels were shuffled (``shuffle_labels``).
    """

    name: str
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    fused: pd.DataFrame
    control: bool = False


def read_scores(directory: Path) -> Scores:
    """An evaluated run's directory. Raises UserError where one of its files is missing."""
    path = directory / "evaluate" / "metrics.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist: {directory} is no evaluated run")
    return Scores(
        name=directory.name,
        metrics=read_json(path),
        predictions=tables.read(directory / "predictions.parquet", "predictions"),
        fused=tables.read(directory / "fuse" / "fused.parquet", "fused"),
        control=any(
            read_json(path).get("settings", {}).get("shuffle_labels", False) for path in directory.glob("*/train.json")
        ),
    )


def compare(runs: list[Scores], options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Compare runs with the first one. ``options``: a resolved section ``evaluate`` (bootstrap, confidence).

    Only units count that are labelled test units of every run, with the same label in each: a unit that one run was
    trained on would flatter it. Negative controls are left out: their labels are others, so that hardly a unit would
    be left to the real runs. All runs see the same resampled patients, so that differences are paired. The result is
    plain values: ``controls`` (names), ``units`` (per level, how many were shared), ``numbers`` (per level, archive,
    model and run), ``differences`` (run minus first run) and ``curves`` (breast level).

    Raises UserError for fewer than two runs, two of one name, or no shared unit at any level.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"two of the runs have the same name ({', '.join(names)}): give each its own")
    controls = [run.name for run in runs if run.control]
    runs = [run for run in runs if not run.control]
    names = [run.name for run in runs]
    if len(names) < 2:
        left_out = f": {controls_sentence(controls)}" if controls else ""
        raise UserError(f"compare needs two runs or more{left_out}")
    found: dict[str, Any] = {"units": [], "numbers": [], "differences": [], "curves": []}
    for level in LEVELS:
        units = {run.name: scored_units(level, run.predictions, run.fused) for run in runs}
        shared, counts = shared_units(units)
        found["units"].append({"level": level, **counts})
        datasets = shared.str.split("|").str[0]
        # The pool is never shown without its parts.
        for dataset in [None, *(sorted(datasets.unique()) if datasets.nunique() > 1 else [])]:
            keys = shared if dataset is None else shared[datasets == dataset]
            _compare_units(level, dataset, {run: units[run.name].loc[keys] for run in runs}, options, seed, found)
    if not any(row["shared"] for row in found["units"]):
        raise UserError(
            f"{' and '.join(names)} share no labelled test unit: their cohorts have no test patient in common, so that "
            "no paired comparison is possible"
        )
    settings = {name: options[name] for name in ("bootstrap", "confidence", "min_subgroup")}
    about = [
        {
            "name": run.name,
            "cohort": run.metrics["cohort"],
            "reproduction": run.metrics["reproduction"],
            "thresholds": {level: run.metrics["thresholds"][level] for level in LEVELS},
        }
        for run in runs
    ]
    return {"runs": about, "reference": names[0], "controls": controls, "settings": {**settings, "seed": seed}, **found}


def controls_sentence(names: list[str]) -> str:
    """That these runs are negative controls and not compared, without a full stop."""
    one = len(names) == 1
    what = "is a negative control" if one else "are negative controls"
    return (
        f"run{'' if one else 's'} {' and '.join(names)} {what} with shuffled labels and {'is' if one else 'are'} "
        "not compared"
    )


def shared_units(units: dict[str, pd.DataFrame]) -> tuple[pd.Index, dict[str, Any]]:
    """Keys of the units that are labelled test units of every run with one label, and how many each run had."""
    own = {name: table[(table["split"] == "test") & table["label"].notna()] for name, table in units.items()}
    tables_of_runs = list(own.values())
    common = tables_of_runs[0].index
    for table in tables_of_runs[1:]:
        common = common.intersection(table.index)
    labels = pd.concat([table.loc[common, "label"] for table in tables_of_runs], axis=1)
    agreed = common[(labels.nunique(axis=1) == 1).to_numpy()]
    counts = {"own": {name: len(table) for name, table in own.items()}, "other_label": len(common) - len(agreed)}
    return agreed.sort_values(), {**counts, "shared": len(agreed)}


def _compare_units(
    level: str,
    dataset: str | None,
    units: dict[Scores, pd.DataFrame],
    options: dict[str, Any],
    seed: int,
    found: dict[str, Any],
) -> None:
    """Append numbers, differences and curves of one set of units."""
    first, *others = units
    groups = units[first]["group_id"]
    resampler = bootstrap.Resampler.over(groups, options["bootstrap"], seed)
    for model in MODELS:
        if model not in units[first]:
            continue
        place = {"level": level, "dataset": dataset, "model": model}
        kept = {}
        for run, rows in units.items():
            threshold = run.metrics["thresholds"][level][model]["threshold"]
            kept[run] = measure(rows.assign(group_id=groups), model, threshold, resampler, options)
            found["numbers"].append({**place, "run": run.name, **kept[run][0]})
            if level == "breast" and dataset is None:
                drawn = curve(rows.assign(group_id=groups), model, resampler, options)
                found["curves"].append({**place, "run": run.name, **drawn})
        for run in others:
            for metric in kept[first][0]["metrics"]:
                difference = metric_difference(metric, kept[run], kept[first], options["confidence"])
                if metric == "auc" and difference["value"] is not None:
                    scores = [units[which][model].to_numpy(float) for which in (run, first)]
                    labels = units[first]["label"].to_numpy(int)
                    difference["delong"] = delong.difference(labels, *scores, groups, options["confidence"])
                row = {"run": run.name, "reference": first.name, "metric": metric}
                found["differences"].append({**place, **row, **difference})
