"""The page of one cohort's split: sizes, leak audit, and every attribute's share beside the best attainable."""

from typing import Any

import pandas as pd

from mammoflow import tables
from mammoflow.assignment import CONFLICT
from mammoflow.groups import MISSING, ROWS
from mammoflow.truth import label_sources, truth_of

FULL_BAR = 10.0  # percentage points
NAMES = {
    "label_malignant": "Malignant (0 no, 1 yes)",
    "breast_density": "Breast density",
    "breast_birads": "BI-RADS of the breast",
    "finding_categories": "Findings",
    "views": "Four views complete",
    "age_band": "Age",
    "site": "Site",
    "dataset": "Archive",
    ROWS: "Images",
}


def balance_view(name: str, manifest: pd.DataFrame, audit: dict[str, Any], balance: pd.DataFrame) -> dict[str, Any]:
    """What balance.html.j2 shows.

    manifest: finished cohort manifest; audit: what audit.audit() returned; balance: what balance.balance_table() did.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    groups = part["group_id"].nunique()
    splits = []
    for split in tables.SPLITS:
        rows = part[part["split"] == split]
        splits.append({
            "name": split,
            "groups": rows["group_id"].nunique(),
            "share": rows["group_id"].nunique() / groups,
            "positive": rows.loc[rows["label_malignant"] == 1, "group_id"].nunique(),
            "images": len(rows),
            "malignant": int((rows["label_malignant"] == 1).sum()),
            "datasets": {dataset: len(of) for dataset, of in rows.groupby("dataset")},
        })  # fmt: skip
    excess = (balance["deviation_points"] - balance["attainable_points"]).clip(lower=0)
    return {
        "name": name,
        "datasets": sorted(part["dataset"].unique()),
        "splits": splits,
        "truth": truth_of(label_sources(part)),
        "groups": groups,
        "patients": int((part["dataset"] + "|" + part["patient_id"]).nunique()),
        "images": len(part),
        "left_out": _left_out(manifest["exclude_reason"]),
        "folds": int(part["fold"].max()) + 1,
        "audit": audit,
        "attributes": _attributes(balance),
        "worst": float(balance["deviation_points"].max()) if len(balance) else None,
        "mean": float(balance["deviation_points"].mean()) if len(balance) else None,
        "excess": float(excess.max()) if len(balance) else None,
        "values": len(balance),
        "full_bar": FULL_BAR,
    }


def _left_out(reasons: pd.Series) -> list[tuple[str, int]]:
    names = {CONFLICT: "training rows of patients who also stand in a published test set"}
    counts = reasons.dropna().value_counts()
    return [(names.get(reason, reason.replace("_", " ").replace(":", ": ")), int(n)) for reason, n in counts.items()]


def _attributes(balance: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per attribute, in the order of the configuration, with its values."""
    result = []
    for attribute, rows in balance.groupby("attribute", sort=False):
        parts = [NAMES.get(part, part.replace("_", " ")) for part in str(attribute).split(":")]
        values = [
            {**row, "value": _value(str(row["value"])), "bar": _bar(row["deviation_points"]),
             "mark": _bar(row["attainable_points"])}
            for row in rows.to_dict("records")
        ]  # fmt: skip
        result.append({"name": " × ".join(parts), "rows": values})
    return result


def _value(text: str) -> str:
    return text.replace(MISSING, "unknown").replace(" x ", " × ") if text else "all"


def _bar(points: float) -> float:
    return round(min(points / FULL_BAR, 1) * 100, 1)
