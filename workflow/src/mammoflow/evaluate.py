"""``mammoflow evaluate``: metrics with patient-clustered intervals, at image, breast and patient level side by side.

The unit moves the AUC more than the model does (on CMMD by 17 points), so no level is ever left out. Thresholds are
chosen on val and only applied to test; pooled numbers always come with each dataset's own. What the maps find of the
marked lesions is in :mod:`mammoflow.lesion_metrics`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import bootstrap, lesion_metrics, provenance, settings, tables
from mammoflow.files import write_json
from mammoflow.headline import lines, thousands
from mammoflow.lesion_metrics import measure_lesions
from mammoflow.levels import LEVELS, level_units
from mammoflow.measure import calibrations, choose_threshold, curve, measure, paired, subgroup_blocks
from mammoflow.truth import label_sources

CSV_COLUMNS = [
    "run", "split", "level", "model", "subgroup", "metric", "value", "low", "high", "n_units", "n_positive",
    "n_patients", "small", "reason", "delong_low", "delong_high", "delong_p",
    "config_digest", "cohort_digest", "code_version", "code_commit", "seed",
]  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--predictions", type=Path, required=True, help="predictions.parquet of the run")
    parser.add_argument("--fused", type=Path, required=True, help="fused.parquet of the run")
    parser.add_argument("--lesions", type=Path, help="directory of the run's candidates, targets and overlaps")
    parser.add_argument("--settings", default="{}", help="JSON of the run's configuration")
    parser.add_argument("--seed", type=int, required=True, help="seed of the bootstrap")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for metrics.json, metrics.csv and curves.json"
    )


def run(args: argparse.Namespace) -> None:
    section = settings.parse_section("run", args.settings)
    manifest = tables.read(args.cohort / "manifest.parquet", "manifest")
    findings = tables.read(args.cohort / "findings.parquet", "manifest_findings")
    predictions = tables.read(args.predictions, "predictions")
    fused = tables.read(args.fused, "fused")
    begin = time.perf_counter()
    blocks, curves, head = evaluate(manifest, predictions, fused, section["evaluate"], args.seed, findings)
    seconds = time.perf_counter() - begin
    replicates = thousands(section["evaluate"]["bootstrap"])
    print(f"{len(blocks)} sets of units with {replicates} replicates each: {seconds:.1f} s", file=sys.stderr)
    inputs = {"predictions": args.predictions, "fused": args.fused}
    record = provenance.record("evaluate", section, args.seed, args.cohort, inputs)
    lesions = {"reason": "not measured: no --lesions was given"}
    if args.lesions is not None:
        found = [tables.read(args.lesions / f"{name}.parquet", name) for name in ("candidates", "targets", "overlaps")]
        lesions = measure_lesions(*found, section["evaluate"], args.seed)
    metrics = {"run": args.name, "cohort": section["cohort"], "reproduction": record, **head, "results": blocks}
    metrics |= {"task": section["task"], "lesions": lesions}
    metrics["label_sources"] = label_sources(manifest[manifest["split"] == "test"])
    write_json(args.out / "metrics.json", metrics)
    write_json(args.out / "curves.json", {"run": args.name, "reproduction": record, "curves": curves})
    tables.write(tidy(args.name, blocks, head["differences"], record, lesions), args.out / "metrics.csv")
    print("\n".join(lines(metrics)))


def evaluate(
    manifest: pd.DataFrame,
    predictions: pd.DataFrame,
    fused: pd.DataFrame,
    options: dict[str, Any],
    seed: int,
    findings: pd.DataFrame | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """All results of a run. ``options``: the section ``evaluate``.  ``findings``: the cohort's, for lesion sizes.

    Returns blocks (one per level, model, split and subgroup, with every number or the reason why there is none),
    curves of the test split, and the thresholds, paired differences and calibrations.
    """
    blocks, curves, thresholds, differences, calibrated = [], [], {}, [], []
    for level in LEVELS:
        units = level_units(level, manifest, predictions, fused, findings)
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
            differences += paired(level, split, labelled, kept, options["confidence"])
            if split == "test" and level == "breast":
                for name in ("image", "fused"):
                    calibrated += calibrations(units, name, resampler, options)
        blocks += subgroup_blocks(level, units[units["split"] == "test"], models, thresholds[level], options, seed)
    head = {"settings": options, "thresholds": thresholds, "differences": differences, "calibrations": calibrated}
    return blocks, curves, head


def tidy(
    run_name: str,
    blocks: list[dict[str, Any]],
    differences: list[dict[str, Any]],
    record: dict[str, Any],
    lesions: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """One row per number: columns :data:`CSV_COLUMNS`. ``subgroup`` is ``all`` or ``column=value``.

    ``record``: the reproduction record, repeated in each row, so that rows of many runs can be put together.
    """
    source = {
        **{name: record[name] for name in ("config_digest", "code_version", "code_commit", "seed")},
        "cohort_digest": record["cohort_digest"]["sha256"],
        "run": run_name,
    }
    rows = []
    for block in blocks:
        subgroup = block["subgroup"]
        place = {
            **{
                name: block[name]
                for name in ("split", "level", "model", "n_units", "n_positive", "n_patients", "small")
            },
            **source,
            "subgroup": "all" if subgroup is None else f"{subgroup['column']}={subgroup['value']}",
        }
        rows += [{**place, "metric": name, **_flat(number)} for name, number in block["metrics"].items()]
        rows += [{**place, "metric": name, "value": count} for name, count in (block["confusion"] or {}).items()]
        if block["threshold"] is not None:
            rows.append({**place, "metric": "threshold", "value": block["threshold"]})
    for row in differences:
        models = f"{row['first']} - {row['second']}"
        rows.append({**_flat(row), **source, "subgroup": "all", "model": models, "metric": "auc_difference"})
    rows += [{**row, **source, "level": "lesion", "model": "image"} for row in lesion_metrics.tidy(lesions or {})]
    return pd.DataFrame(rows, columns=CSV_COLUMNS)


def _flat(number: dict[str, Any]) -> dict[str, Any]:
    return {**number, **{f"delong_{name}": end for name, end in (number.get("delong") or {}).items()}}
