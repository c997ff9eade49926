"""What the data-quality view shows: counts against expected, what was set aside and why, pictures with their boxes."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from mammoflow import tables
from mammoflow.datasets import archive
from mammoflow.files import read_json
from mammoflow.status import dataset_status

THUMBNAIL_PX = 320
BOX_RGB = (255, 170, 0)
SHOWN = 8

# What a reason in the tables means, for a person. Others are shown as they are.
REASONS = {
    "missing_file": "listed in the archive's tables, but the file is not there",
    "convert_failed": "the file could not be decoded: see the list below",
    "no_label": "no label that says benign or malignant",
    "not_selected": "beyond max_images",
    "excluded_by_config": "left out by the configuration",
}


@dataclass(frozen=True)
class Quality:
    """counts: (what, expected or None, found), in the order of the work.  part: only a part was asked for, so that the
    archive's published counts are no measure.  left_out: reason -> images.  errors: reason of the failure -> images.
    quarantine: one row per file or lesion that could not be read."""

    dataset: str
    part: bool = False
    counts: list[tuple[str, int | None, int]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    quarantine: pd.DataFrame = field(default_factory=pd.DataFrame)
    labels: dict[str, int] = field(default_factory=dict)
    checked: bool = False

    @property
    def good(self) -> bool:
        """Nothing failed and nothing listed is missing."""
        return self.checked and not self.errors and not self.left_out.get("missing_file")


def quality(results: Path, dataset: str, root: Path, shards: int | None = None) -> Quality:
    """What is known of a dataset: from its collect, its inventory, its ledgers and its manifest, where they exist.

    ``shards``: of the configuration; None: see :func:`mammoflow.layout.shard_count`.
    """
    collected, summary = read_json(root / "collected.json"), read_json(results / dataset / "summary.json")
    request = collected.get("request", {})
    part = any(request.get(key) for key in ("patients", "max_series", "max_gb", "modality"))
    expected = {} if part else archive(dataset).expected
    counts: list[tuple[str, int | None, int]] = []
    if collected:
        counts.append(("files collected", None, collected["file_count"]))
    if (results / dataset / "inventory" / "images.parquet").is_file():
        status = dataset_status(results, dataset, shards)
        counts.append(("images listed", expected.get("images"), status["images"]))
        counts.append(("images on disk", status["images"], status["present"]))
        if status["shards_done"]:
            counts.append(("images converted", status["present"], status["converted"]))
    if summary:
        counts.append(("patients", expected.get("patients"), summary["patients"]))
        counts.append(("findings", expected.get("findings"), summary["findings"]))
        counts.append(("images with a usable label", None, summary["participating"]))
    quarantine = results / dataset / "quarantine.csv"
    rows = pd.read_csv(quarantine, dtype="string") if quarantine.is_file() else pd.DataFrame()
    errors = Counter(rows["error"].fillna("unknown").str.split(":").str[0]) if len(rows) else Counter()
    names = {"0": "benign", "1": "malignant"}
    return Quality(
        dataset=dataset,
        part=part,
        counts=counts,
        left_out=summary.get("exclude_reasons", {}),
        errors=dict(errors.most_common()),
        quarantine=rows,
        labels={names.get(key, key): number for key, number in summary.get("labels", {}).items()},
        checked=bool(summary),
    )


def reason_in_words(reason: str) -> str:
    """A reason of the tables as a person reads it."""
    kind, _, detail = reason.partition(":")
    return f"{REASONS.get(kind, kind)}{f' ({detail})' if detail else ''}"


def pictures(results: Path, dataset: str, store: Path, count: int = SHOWN) -> list[tuple[np.ndarray, str]]:
    """Thumbnails (H, W, 3) uint8 with the marked lesions, and a line for each: one image a patient, lesions first."""
    path = results / dataset / "manifest.parquet"
    if not path.is_file():
        return []
    manifest = tables.read(path, "manifest")
    findings = tables.read(results / dataset / "findings.parquet", "manifest_findings")
    rows = manifest[manifest["image_path"].notna()]
    boxed = findings.dropna(subset=["out_xmin", "out_ymin", "out_xmax", "out_ymax"])
    marked = rows["image_id"].isin(boxed["image_id"])
    rows = rows.assign(marked=marked).sort_values(["marked", "image_id"], ascending=[False, True])
    shown = []
    for row in rows.drop_duplicates("patient_id").to_dict("records"):
        marks = boxed.loc[boxed["image_id"] == row["image_id"], ["out_xmin", "out_ymin", "out_xmax", "out_ymax"]]
        picture = thumbnail(store / row["image_path"], marks.to_numpy(float))
        if picture is not None:
            shown.append((picture, _caption(row, len(marks))))
        if len(shown) == count:
            break
    return shown


def thumbnail(path: Path, boxes: np.ndarray) -> np.ndarray | None:
    """A working image shrunk to 8-bit RGB, with boxes (N, 4: xmin ymin xmax ymax, its pixels); None: no such file."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if stored is None:
        return None
    grey = (stored >> 8).astype(np.uint8) if stored.dtype == np.uint16 else stored
    scale = min(1.0, THUMBNAIL_PX / max(grey.shape[:2]))
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    colour = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    for box in np.round(boxes * scale).astype(int).tolist():
        cv2.rectangle(colour, (box[0], box[1]), (box[2], box[3]), BOX_RGB, max(1, THUMBNAIL_PX // 160))
    return colour


def _caption(row: dict[str, Any], marks: int) -> str:
    side = " ".join(str(row[key]) for key in ("laterality", "view_position") if pd.notna(row[key]))
    label = "no label" if pd.isna(row["label_malignant"]) else ("benign", "malignant")[int(row["label_malignant"])]
    lesions = f", {marks} marked" if marks else ""
    return f"{row['patient_id']} {side}: {label}{lesions}"
