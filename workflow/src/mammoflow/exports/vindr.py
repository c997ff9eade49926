"""VinDr-Mammo's two CSVs (Nguyen et al., Sci Data 10:277, 2023), for code that was written for that archive.

``breast-level_annotations.csv`` has one row per image, ``finding_annotations.csv`` one per finding and one ``No
Finding`` row per image without any. Boxes are pixels of the archive's own files. VinDr-Mammo has no validation part:
``split`` is ``training`` for train and val. Behind its columns stand ours: dataset, patient_id, cohort_split and fold.
"""

from pathlib import Path

import pandas as pd

from mammoflow import tables
from mammoflow.exports.common import NO_FINDING, UNNAMED, Export

BREASTS, FINDINGS = "breast-level_annotations.csv", "finding_annotations.csv"
BREAST_COLUMNS = ["study_id", "series_id", "image_id", "laterality", "view_position", "height", "width",
                  "breast_birads", "breast_density", "split"]  # fmt: skip
FINDING_COLUMNS = list(tables.FINDINGS)[:16]
OURS = ["dataset", "patient_id", "cohort_split", "fold"]


def write(cohort: Export, out: Path) -> list[str]:
    """Write both tables. Returns notes for the user."""
    images = cohort.images.assign(
        cohort_split=cohort.images["split"],
        split=cohort.images["split"].map({"train": "training", "val": "training", "test": "test"}),
    )
    keys = ["dataset", "image_id"]
    breasts = images[[*BREAST_COLUMNS, *OURS]]
    own = [name for name in FINDING_COLUMNS if name not in BREAST_COLUMNS]
    findings = finding_table(breasts, cohort.findings[[*keys, *own]], keys, OURS)
    tables.write(breasts, out / BREASTS)
    tables.write(findings, out / FINDINGS)
    return [f"{BREASTS}: {len(images)} rows; {FINDINGS}: {len(findings)} rows"]


def finding_table(images: pd.DataFrame, findings: pd.DataFrame, keys: list[str], extra: list[str]) -> pd.DataFrame:
    """VinDr's finding table: one row per finding with its image's columns, and a ``No Finding`` row for the others.

    images: BREAST_COLUMNS and ``extra``; findings: ``keys``, finding_categories, finding_birads and the box. A finding
    without a category becomes a ``Lesion``.
    """
    named = findings.assign(finding_categories=findings["finding_categories"].fillna(tables.list_literal([UNNAMED])))
    rows = images.merge(named, on=keys, how="left", validate="one_to_many")
    rows["finding_categories"] = rows["finding_categories"].fillna(tables.list_literal([NO_FINDING]))
    return rows[[*FINDING_COLUMNS, *extra]].sort_values([*keys, "xmin", "ymin"], kind="stable", ignore_index=True)
