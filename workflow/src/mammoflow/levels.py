"""What is counted: the images, breasts or patients of a run, with their scores and the columns that subgroups use."""

import pandas as pd

from mammoflow.errors import UserError
from mammoflow.features import age_band, breast_key, categories, most_frequent

LEVELS = ["image", "breast", "patient"]
SUBGROUPS = ["dataset", "density", "age_band", "view", "site", "manufacturer", "finding"]


def level_units(level: str, manifest: pd.DataFrame, predictions: pd.DataFrame, fused: pd.DataFrame) -> pd.DataFrame:
    """Units of a level: ``label`` (0, 1, NA), split, group_id, one column per model's score, the subgroup columns."""
    rows = predictions[predictions["level"] == level]
    if rows["score"].isna().any():
        raise UserError(
            f"{int(rows['score'].isna().sum())} {level} rows of the predictions have no score: run predict again"
        )
    key = unit_key(rows, level)
    units = pd.DataFrame(
        {"group_id": rows["group_id"], "split": rows["split"], "label": rows["label_malignant"], "image": rows["score"]}
    ).set_axis(pd.Index(key), axis=0)
    if level == "breast":
        scores = fused.set_index(pd.Index(breast_key(fused)))
        missing = units.index.difference(scores.index)
        if len(missing):
            raise UserError(f"breast {missing[0]!r} is missing in fused.parquet: run fuse again on these predictions")
        for name in ("metadata", "fused", "calibrated"):
            units[name] = scores[f"score_{name}"].reindex(units.index)
    return units.join(attributes(manifest, level))


def unit_key(rows: pd.DataFrame, level: str) -> pd.Series:
    """Name of each row's image, breast or patient, after its dataset."""
    if level == "breast":
        return breast_key(rows)
    return rows["dataset"] + "|" + rows[f"{level}_id"]


def attributes(manifest: pd.DataFrame, level: str) -> pd.DataFrame:
    """Subgroup columns of every unit of a level, indexed by :func:`unit_key`; ``finding`` is a tuple of categories."""
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
    return found.reindex(sorted(key.unique()))
