"""What is counted: the images, breasts or patients of a run, with their scores and the columns that subgroups use."""

import numpy as np
import pandas as pd

from mammoflow.errors import UserError
from mammoflow.features import age_band, categories, most_frequent, unit_key

LEVELS = ["image", "breast", "patient"]
SUBGROUPS = ["dataset", "density", "age_band", "view", "site", "manufacturer", "finding", "lesion_size"]
# Upper ends in mm, after the size classes of TNM: T1a and T1b end at 10 mm, T1c at 20, T2 at 50.
LESION_SIZES = {"< 10 mm": (0, 10), "10-19 mm": (10, 20), "20-49 mm": (20, 50), "50 mm +": (50, np.inf)}


def level_units(
    level: str,
    manifest: pd.DataFrame,
    predictions: pd.DataFrame,
    fused: pd.DataFrame,
    findings: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """:func:`scored_units` with the subgroup columns of :func:`attributes`."""
    return scored_units(level, predictions, fused).join(attributes(manifest, level, findings))


def scored_units(level: str, predictions: pd.DataFrame, fused: pd.DataFrame) -> pd.DataFrame:
    """Units of a level, indexed by :func:`unit_key`: ``label`` (0, 1, NA), split, group_id, a column per model's score.

    A patient's fused score is that of the higher breast, as with the image score; only breasts are calibrated.
    Raises UserError where a score is missing.
    """
    rows = predictions[predictions["level"] == level]
    if rows["score"].isna().any():
        raise UserError(
            f"{int(rows['score'].isna().sum())} {level} rows of the predictions have no score: run predict again"
        )
    units = pd.DataFrame(
        {"group_id": rows["group_id"], "split": rows["split"], "label": rows["label_malignant"], "image": rows["score"]}
    ).set_axis(pd.Index(unit_key(rows, level)), axis=0)
    if level == "image":
        return units
    scores = fused.set_index(pd.Index(unit_key(fused, level)))
    missing = units.index.difference(scores.index)
    if len(missing):
        raise UserError(f"{level} {missing[0]!r} is missing in fused.parquet: run fuse again on these predictions")
    for name in ("metadata", "fused") if level == "patient" else ("metadata", "fused", "calibrated"):
        units[name] = scores[f"score_{name}"].groupby(level=0).max().reindex(units.index)
    return units


def attributes(manifest: pd.DataFrame, level: str, findings: pd.DataFrame | None = None) -> pd.DataFrame:
    """Subgroup columns of every unit of a level, indexed by :func:`unit_key`; ``finding`` is a tuple of categories.

    ``lesion_size`` needs the cohort's ``findings``: the band of the largest marked lesion.
    """
    rows = manifest[manifest["exclude_reason"].isna()]
    key = unit_key(rows, level)
    columns = {
        "dataset": rows["dataset"],
        "density": rows["breast_density"],
        "age_band": age_band(rows["age"]),
        "site": rows["dataset"] + " site " + rows["site"],
        "manufacturer": rows["manufacturer"],
    }
    if level == "image":
        columns["view"] = rows["view_position"]
    found = pd.DataFrame({name: most_frequent(key, values) for name, values in columns.items()})
    cells = rows["finding_categories"].dropna()
    found["finding"] = cells.groupby(key[cells.index]).agg(lambda words: ";".join(categories(words))).replace("", pd.NA)
    if findings is not None:
        found["lesion_size"] = lesion_sizes(rows, level, findings)
    return found.reindex(sorted(key.unique()))


def lesion_sizes(rows: pd.DataFrame, level: str, findings: pd.DataFrame) -> pd.Series:
    """Band of the largest marked lesion per unit of included manifest ``rows``: the longer side of its box, in mm.

    A box without a known pixel spacing is ``size unknown``; units without a box are absent.
    """
    images = rows.assign(key=unit_key(rows, level)).set_index(["dataset", "image_id"])
    marks = findings.dropna(subset=["xmin", "ymin", "xmax", "ymax"])
    marks = marks.join(images[["key", "pixel_spacing_mm"]], on=["dataset", "image_id"], how="inner")
    sides = [marks["xmax"] - marks["xmin"], marks["ymax"] - marks["ymin"]]
    longest = pd.concat(sides, axis=1).max(axis=1) * marks["pixel_spacing_mm"]
    largest = longest.astype("Float64").groupby(marks["key"]).max()
    bands = pd.Series("size unknown", index=largest.index, dtype="string")
    for name, (low, high) in LESION_SIZES.items():
        bands[((largest >= low) & (largest < high)).fillna(False)] = name
    return bands
