"""The images of a dataset for a plan: those of its inventory, or as many as were published."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mammoflow import tables
from mammoflow.costs import rates
from mammoflow.costs.archives import SIZES
from mammoflow.datasets import archive
from mammoflow.shard import choose


def has_inventory(results: Path, name: str) -> bool:
    """Whether the dataset is listed below ``results``."""
    return (results / name / "inventory" / "images.parquet").is_file()


def listed_images(results: Path, name: str, max_images: int | None) -> pd.DataFrame:
    """image_id, patient_id, megabytes, seconds (assumed) and lesion (bool) of the images that will be converted."""
    folder = results / name / "inventory"
    images = choose(tables.read(folder / "images.parquet", "images"), max_images or 0)
    findings = tables.read(folder / "findings.parquet", "findings")
    placed = findings.loc[findings["geometry"].notna() & (findings["geometry"] != "none"), "image_id"]
    # Several frames of one file, or members of one archive, share its bytes.
    megabytes = (
        images["source_size"].astype("Float64") / images.groupby("path")["path"].transform("size") / 1e6
    ).fillna(0)
    codings = [
        rates.coding_of(*(None if pd.isna(value) else value for value in pair))
        for pair in zip(images["transfer_syntax"], images["file_format"], strict=True)
    ]
    return pd.DataFrame(
        {
            "image_id": images["image_id"],
            "patient_id": images["patient_id"],
            "megabytes": megabytes.astype(float),
            "seconds": [rates.image_seconds(*pair) for pair in zip(megabytes, codings, strict=True)],
            "lesion": images["image_id"].isin(placed),
        }
    )


def is_published(name: str) -> bool:
    """Whether the archive's number of images and of bytes are known."""
    return "images" in archive(name).expected and SIZES[name].gigabytes is not None


def published_images(name: str, max_images: int | None) -> pd.DataFrame | None:
    """Made-up rows of the published counts, in the columns of :func:`listed_images`; None where there are no counts."""
    expected, size = archive(name).expected, SIZES[name]
    if not is_published(name):
        return None
    count = expected["images"]
    each = size.gigabytes * 1000 / count
    views = max(1, round(count / expected.get("patients", count / 4)))
    numbers = np.arange(count)
    share = (size.lesion_images or 0) / count
    rows = pd.DataFrame(
        {
            "image_id": "image" + pd.Series(numbers.astype(str)),
            "patient_id": "patient" + pd.Series((numbers // views).astype(str)),
            "megabytes": each,
            "seconds": rates.image_seconds(each, size.coding),
            "lesion": np.floor((numbers + 1) * share) > np.floor(numbers * share),  # spread evenly
        }
    )
    return rows.head(max_images) if max_images else rows


def no_inventory(config: dict[str, Any]) -> list[str]:
    """Sentences on the datasets that are not listed yet."""
    missing = [name for name in config["datasets"] if not has_inventory(Path(config["results"]), name)]
    guessed = [name for name in missing if is_published(name)]
    unknown = [name for name in missing if name not in guessed]
    notes = []
    if guessed:
        notes.append(
            f"not listed yet, so the published counts stand for them: {', '.join(guessed)}; "
            "`snakemake inventory` counts your images"
        )
    if unknown:
        notes.append(f"not listed yet, and no size is published: {', '.join(unknown)}; run `snakemake inventory`")
    return notes
