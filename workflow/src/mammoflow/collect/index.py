"""``training_manifest.csv``: what was collected, as the archive's adapter reads it, one row per image on disk.

It is for a first look and for other tools; the workflow's own ``manifest`` stage goes on to check pixels and policies.
"""

import csv
from pathlib import Path
from typing import Any

from mammoflow.files import replacing

COLUMNS = [
    "dataset", "image_id", "patient_id", "group_id", "study_id", "series_id", "laterality", "view_position", "path",
    "age", "breast_density", "breast_birads", "pathology", "label_malignant", "label_source", "split_official", "use",
    "excluded_reason",
]  # fmt: skip


def write_training_manifest(dataset: str, root: Path, collected: dict[str, Any]) -> int:
    """Write ``root/training_manifest.csv`` and return its number of rows; ``bytes`` and ``md5`` as verified on arrival.

    Raises UserError where the archive cannot be listed yet, for want of its tables for example.
    """
    import pandas as pd

    from mammoflow.inventory import take_inventory

    images = take_inventory(dataset, root, []).images
    images = images[images["path"].notna()]
    files = {f"{series['folder']}/{one['path']}": one for series in collected["series"] for one in series["files"]}
    columns = [name for name in COLUMNS if name in images]
    with replacing(root / "training_manifest.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*columns, "bytes", "md5"])
        for row in images[columns].itertuples(index=False):
            one = files.get(row.path, {})
            values = ["" if pd.isna(value) else value for value in row]
            writer.writerow([*values, one.get("bytes", ""), one.get("md5", "")])
    return len(images)
