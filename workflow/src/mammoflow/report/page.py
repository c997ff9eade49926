"""From what was read to the words and numbers of the page. No HTML here: the template lays it out."""

from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.headline import chosen_model, select
from mammoflow.metrics import METRIC_NAMES, RANKING, THRESHOLDED
from mammoflow.report import examples, figures
from mammoflow.report.collect import Cohort, Dataset, Run
from mammoflow.report.lesions import lesions_view
from mammoflow.report.sentences import headline_sentences
from mammoflow.truth import label_sources, truth_of

LEVEL_METRICS = [(name, METRIC_NAMES[name]) for name in [*RANKING[:3], "pf1", *RANKING[3:], "brier", "ece"]]
THRESHOLD_METRICS = [(name, METRIC_NAMES[name]) for name in THRESHOLDED]
SUBGROUP_NAMES = {
    "dataset": "Archive",
    "density": "Density",
    "age_band": "Age",
    "view": "View (image level)",
    "site": "Site",
    "manufacturer": "Manufacturer",
    "finding": "Marked finding",
    "lesion_size": "Largest marked lesion",
}
WORST_BALANCE = 12
FEATURE_NAMES = {
    "start": "image score, where boosting begins",
    "score_breast": "image score of the breast",
    "score_max": "highest image score",
    "score_mean": "mean image score",
    "score_max_cc": "highest image score, CC",
    "score_max_mlo": "highest image score, MLO",
    "score_mean_cc": "mean image score, CC",
    "score_mean_mlo": "mean image score, MLO",
    "score_minus_other": "image score minus other breast’s",
    "score_attended": "image score weighted by attention",
    "attention_cc": "attention on CC",
    "attention_mlo": "attention on MLO",
    "score_roi": "highest lesion probability",
    "score_roi_minus_other": "lesion probability minus other breast’s",
    "pixel_spacing_mm": "pixel spacing",
    "breast_birads": "BI-RADS",
    "breast_density": "density",
    "finding_birads": "BI-RADS of the finding",
    "finding_categories": "finding categories",
    "n_findings": "number of findings",
    "n_images": "number of images",
    "complete_views": "both views present",
}


def dataset_view(dataset: Dataset) -> dict[str, Any]:
    """Flow, labels, failures and speed of one archive."""
    summary = dataset.summary
    reasons = sorted(summary.get("exclude_reasons", {}).items(), key=lambda item: -item[1])
    return {
        "name": dataset.name,
        "archive": dataset.archive,
        "synthetic": dataset.synthetic,
        "summary": summary,
        "reasons": [(reason.replace("_", " "), count) for reason, count in reasons],
        "failures": _failures(dataset.quarantine),
        "speed": _speed(dataset.convert),
    }


def _failures(quarantine: pd.DataFrame) -> list[dict[str, Any]]:
    """Failed images and lesions by stage and kind of error, the most frequent first."""
    if quarantine.empty:
        return []
    # Behind the colon stands what differs from file to file.
    kinds = quarantine.assign(kind=quarantine["error"].fillna("unknown").str.split(":").str[0])
    counts = (
        kinds.groupby(["stage", "kind"]).agg(count=("image_id", "size"), example=("image_id", "first")).reset_index()
    )
    return counts.sort_values("count", ascending=False).to_dict("records")


def _speed(ledger: pd.DataFrame) -> list[dict[str, Any]]:
    """Seconds of work per image by decoder and transfer syntax."""
    done = ledger[(ledger["status"] == "ok") & ledger["seconds"].notna()]
    if done.empty:
        return []
    named = done.assign(
        decoder=done["decoder"].fillna("unknown"), transfer_syntax=done["transfer_syntax"].fillna("not DICOM")
    )
    times = named.groupby(["decoder", "transfer_syntax"])["seconds"].agg(["size", "median", "sum"]).reset_index()
    return [{**row, "rate": row["size"] / row["sum"] if row["sum"] else None} for row in times.to_dict("records")]


def cohort_view(cohort: Cohort) -> dict[str, Any]:
    """Split table, audit and balance of one cohort."""
    part = cohort.manifest[cohort.manifest["exclude_reason"].isna()]
    splits = []
    for (dataset, split), rows in part.groupby(["dataset", "split"]):
        splits.append({"dataset": dataset, "split": split, **_counts(rows)})
    totals = {split: _counts(part[part["split"] == split]) for split in tables.SPLITS}
    order = {split: position for position, split in enumerate(tables.SPLITS)}
    balance = cohort.balance
    if "deviation_points" in balance:
        balance = balance.sort_values("deviation_points", ascending=False).head(WORST_BALANCE)
    return {
        "name": cohort.name,
        "splits": sorted(splits, key=lambda row: (row["dataset"], order[row["split"]])),
        "totals": totals,
        "truth": truth_of(label_sources(part)),
        "audit": cohort.audit,
        "balance": balance.to_dict("records"),
        "balance_rows": len(cohort.balance),
        "digest": cohort.digest.get("manifest_sha256", ""),
        "sources": part.groupby(["dataset", "label_source"], dropna=False)
        .size()
        .reset_index(name="images")
        .to_dict("records"),
    }


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    malignant = rows[rows["label_malignant"] == 1]
    return {
        "images": len(rows),
        "patients": rows["group_id"].nunique(),
        "malignant": len(malignant),
        "malignant_patients": malignant["group_id"].nunique(),
    }


def run_view(run: Run, cohorts: dict[str, Cohort], store: Path) -> dict[str, Any]:
    """Everything the page says of one run; without an evaluation only its training."""
    view: dict[str, Any] = {
        "name": run.name,
        "folds": [{"fold": fold, **record} for fold, (_, record) in run.folds.items() if record],
        "learning": figures.learning(run.folds),
        "evaluated": bool(run.metrics),
        "speed": _training_speed(run),
    }
    if not run.metrics:
        return view
    metrics, model = run.metrics, chosen_model(run.metrics)
    blocks = metrics["results"]
    curves = [curve for curve in run.curves if curve["level"] == "breast"]
    test = {block["model"]: block for block in select(blocks, level="breast", split="test")}
    chosen = test[model]
    view |= {
        "metrics": metrics,
        "model": model,
        "test": test,
        "headline": headline_sentences(metrics, model),
        "truth": truth_of(metrics.get("label_sources", {})),
        "threshold": metrics["thresholds"]["breast"][model],
        "results": [block for block in select(blocks, split="test") if block["model"] != "calibrated"],
        "optimism": [
            {split: select(blocks, level="breast", split=split, model=name)[0] for split in tables.SPLITS}
            for name in ("image", "metadata", "fused")
        ],
        "datasets": [b for b in select(blocks, "dataset", split="test", level="breast") if b["model"] != "calibrated"],
        "subgroups": subgroups(blocks, model),
        "differences": [row for row in metrics["differences"] if (row["level"], row["split"]) == ("breast", "test")],
        "calibrations": metrics["calibrations"],
        "figures": [
            ("ROC, breast level, test", figures.roc([c for c in curves if c["model"] != "calibrated"])),
            (
                "Precision and recall, breast level, test",
                figures.precision_recall(
                    [c for c in curves if c["model"] != "calibrated"], chosen["n_positive"] / max(1, chosen["n_units"])
                ),
            ),
            (
                "Calibration, breast level, test",
                figures.calibration([c for c in curves if c["model"] in ("image", "calibrated")]),
            ),
        ],
        "shap": [
            {"title": title, "picture": figures.shap_summary(fitted["shap"], FEATURE_NAMES), "model": fitted}
            for name, title in [("fused", "image + metadata"), ("metadata", "metadata-only floor")]
            for fitted in [run.fuse.get("models", {}).get(name)]
            if fitted
        ],
        "feature_names": FEATURE_NAMES,
        "fuse": run.fuse,
        "examples": _example_cards(run, cohorts, store),
        "heat": _heat_cards(run, cohorts, store),
        "lesions": lesions_view(run, cohorts.get(run.metrics["cohort"]), store),
    }
    return view


def subgroups(blocks: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Rows of the forest plot: the chosen model per breast; views are a property of single images."""
    shown = []
    for column, title in SUBGROUP_NAMES.items():
        where = {"level": "image", "model": "image"} if column == "view" else {"level": "breast", "model": model}
        rows = select(blocks, column, split="test", **where)
        if len(rows) > 1 or (rows and column == "dataset"):
            shown.append({"title": title, "rows": rows})
    return shown


def _training_speed(run: Run) -> float | None:
    """Median images per second over all epochs and folds."""
    rates = [table["images_per_s"] for table, _ in run.folds.values() if "images_per_s" in table]
    rates = pd.concat(rates).dropna() if rates else pd.Series(dtype=float)
    return float(rates.median()) if len(rates) else None


def _example_cards(run: Run, cohorts: dict[str, Cohort], store: Path) -> list[dict[str, Any]]:
    threshold = run.metrics["thresholds"]["image"]["image"]["threshold"]
    cohort = cohorts.get(run.metrics["cohort"])
    if threshold is None or cohort is None or run.predictions is None:
        return []
    return examples.cards(run.predictions, threshold, cohort.manifest, cohort.findings, store, run.heatmaps)


def _heat_cards(run: Run, cohorts: dict[str, Cohort], store: Path) -> list[dict[str, Any]]:
    cohort = cohorts.get(run.metrics["cohort"])
    return [] if cohort is None else examples.heat_cards(run.heatmaps, cohort.manifest, cohort.findings, store)
