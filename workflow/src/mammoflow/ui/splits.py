"""What the cohort view shows: sizes of the splits, the audit in words, how evenly attributes are shared."""

from pathlib import Path
from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.report.collect import Cohort, read_cohort


def cohorts(results: Path) -> list[Cohort]:
    """Every finished cohort below ``results``."""
    return [read_cohort(path.parent) for path in sorted(results.glob("cohorts/*/digest.json"))]


def sizes(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row per split: patients, images, malignant images and their share; rows that are left out do not count."""
    part = manifest[manifest["exclude_reason"].isna()]
    rows = []
    for split in tables.SPLITS:
        rows_of = part[part["split"] == split]
        malignant = int(rows_of["label_malignant"].fillna(0).sum())
        share = f"{100 * malignant / len(rows_of):.1f}" if len(rows_of) else ""
        rows.append({"split": split, "patients": rows_of["group_id"].nunique(), "images": len(rows_of),
                     "malignant images": malignant, "malignant share (%)": share})  # fmt: skip
    return pd.DataFrame(rows)


def verdict(audit: dict[str, Any]) -> str:
    """The audit in one sentence."""
    leaks = sum(check["leaks"] for check in audit.get("checks", []))
    checks = len(audit.get("checks", []))
    if not checks:
        return "not audited"
    return "no patient, file or picture stands on two sides" if audit["ok"] else f"{leaks} leaks: do not train on this"


def audit_table(audit: dict[str, Any]) -> pd.DataFrame:
    """One row per check: ``check, looked at, leaks``."""
    rows = [(one["name"], one["checked"], one["leaks"]) for one in audit.get("checks", [])]
    return pd.DataFrame(rows, columns=["check", "looked at", "leaks"])


def worst_balance(balance: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Values shared least evenly: shares in percent, points off the fair share beside the best attainable."""
    if balance.empty:
        return balance
    excess = balance["deviation_points"] - balance["attainable_points"]
    worst = balance.assign(excess=excess).sort_values(["excess", "total"], ascending=False).head(count)
    shown = worst[["attribute", "value", "total"]].astype({"value": "string"})
    for name in tables.SPLITS:
        shown[f"{name} (%)"] = (100 * worst[f"share_{name}"]).map("{:.1f}".format)
    shown["points off"] = worst["deviation_points"].map("{:.1f}".format)
    shown["attainable"] = worst["attainable_points"].map("{:.1f}".format)
    return shown.reset_index(drop=True)
