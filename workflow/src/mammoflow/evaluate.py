"""``mammoflow evaluate``: metrics with patient-clustered intervals, at image, breast and patient level side by side.

The unit moves the AUC more than the model does (on CMMD by 17 points), so no level is ever left out. Thresholds are
chosen on val and only applied to test; pooled numbers always come with each dataset's own.
"""

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import __version__, bootstrap, settings, tables
from mammoflow.errors import UserError
from mammoflow.files import write_json
from mammoflow.headline import lines
from mammoflow.levels import LEVELS, level_units
from mammoflow.measure import choose_threshold, curve, measure, paired, subgroup_blocks

CSV_COLUMNS = [
    "run", "split", "level", "model", "subgroup", "metric", "value", "low", "high", "n_units", "n_positive",
    "n_patients", "small", "reason",
]  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--predictions", type=Path, required=True, help="predictions.parquet of the run")
    parser.add_argument("--fused", type=Path, required=True, help="fused.parquet of the run")
    parser.add_argument("--settings", default="{}", help="JSON of the run's configuration")
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for metrics.json, metrics.csv and curves.json"
    )


def run(args: argparse.Namespace) -> None:
    section = settings.parse_section("run", args.settings)
    manifest = tables.read(args.cohort / "manifest.parquet", "manifest")
    predictions = tables.read(args.predictions, "predictions")
    fused = tables.read(args.fused, "fused")
    blocks, curves, head = evaluate(manifest, predictions, fused, section["evaluate"], args.seed)
    record = {
        "config_digest": settings.recipe("evaluate", section),
        "cohort_digest": _digest_of(args.cohort / "digest.json"),
        "code_version": __version__,
        "seed": args.seed,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
    }
    metrics = {"run": args.name, "cohort": section["cohort"], "reproduction": record, **head, "results": blocks}
    write_json(args.out / "metrics.json", metrics)
    write_json(args.out / "curves.json", {"run": args.name, "curves": curves})
    tables.write(tidy(args.name, blocks, head["differences"]), args.out / "metrics.csv")
    print("\n".join(lines(metrics)))


def evaluate(
    manifest: pd.DataFrame, predictions: pd.DataFrame, fused: pd.DataFrame, options: dict[str, Any], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """All results of a run. ``options``: the section ``evaluate``.

    Returns blocks (one per level, model, split and subgroup, with every number or the reason why there is none),
    curves of the test split, and the thresholds and paired differences.
    """
    blocks, curves, thresholds, differences = [], [], {}, []
    for level in LEVELS:
        units = level_units(level, manifest, predictions, fused)
        models = [name for name in ("image", "metadata", "fused", "calibrated") if name in units]
        thresholds[level] = {name: choose_threshold(units, name, options["specificity"]) for name in models}
        for split in tables.SPLITS:
            rows = units[units["split"] == split]
            labelled = rows[rows["label"].notna()]
            resampler = bootstrap.Resampler.over(labelled["group_id"], options["bootstrap"], seed)
            kept = {}
            for name in models:
                place = {"level": level, "model": name, "split": split, "subgroup": None}
                block, replicates = measure(labelled, name, thresholds[level][name]["threshold"], resampler, options)
                blocks.append({**place, **block, "n_unlabelled": len(rows) - len(labelled)})
                kept[name] = (block, replicates)
                if split == "test":
                    curves.append({**place, **curve(labelled, name, resampler, options)})
            differences += paired(level, split, kept, options["confidence"])
        blocks += subgroup_blocks(level, units[units["split"] == "test"], models, thresholds[level], options, seed)
    return blocks, curves, {"settings": options, "thresholds": thresholds, "differences": differences}


def tidy(run_name: str, blocks: list[dict[str, Any]], differences: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per number: columns :data:`CSV_COLUMNS`. ``subgroup`` is ``all`` or ``column=value``."""
    rows = []
    for block in blocks:
        subgroup = block["subgroup"]
        place = {
            **{
                name: block[name]
                for name in ("split", "level", "model", "n_units", "n_positive", "n_patients", "small")
            },
            "run": run_name,
            "subgroup": "all" if subgroup is None else f"{subgroup['column']}={subgroup['value']}",
        }
        rows += [{**place, "metric": name, **number} for name, number in block["metrics"].items()]
        rows += [{**place, "metric": name, "value": count} for name, count in (block["confusion"] or {}).items()]
        if block["threshold"] is not None:
            rows.append({**place, "metric": "threshold", "value": block["threshold"]})
    rows += [
        {
            **row,
            "run": run_name,
            "subgroup": "all",
            "model": f"{row['first']} - {row['second']}",
            "metric": "auc_difference",
        }
        for row in differences
    ]
    return pd.DataFrame(rows, columns=CSV_COLUMNS)


def _digest_of(path: Path) -> dict[str, Any]:
    """SHA-256 of the cohort's digest file, and its content where that is a plain object."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the cohort step first")
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "content": json.loads(data)}
