"""The attributes that a cohort balances over its splits, out of a manifest."""

import pandas as pd

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.groups import MISSING

FOUR_VIEWS = {"LCC", "LMLO", "RCC", "RMLO"}


def attribute_table(manifest: pd.DataFrame, attributes: list[str]) -> pd.DataFrame:
    """``group_id`` and one column per attribute, row by row as ``manifest``, ready for groups.count_matrix().

    An attribute is a manifest column, ``views`` (is the exam a complete four-view one), ``age_band`` (decade), or some
    of these joined by colons (``dataset:label_malignant`` balances the labels within each dataset). Classes become
    text; other numbers stay counts. Raises UserError for an unknown attribute.
    """
    columns = {name: _attribute(manifest, name) for name in attributes}
    return pd.DataFrame({"group_id": manifest["group_id"], **columns})


def _attribute(manifest: pd.DataFrame, name: str) -> pd.Series:
    if ":" in name:
        parts = [_attribute(manifest, part).astype("string").fillna(MISSING) for part in name.split(":")]
        return parts[0].str.cat(parts[1:], sep=" x ")
    if name == "views":
        return _views(manifest)
    if name == "age_band":
        decade = (manifest["age"] // 10 * 10).astype("Int64")
        return decade.astype("string") + "-" + (decade + 9).astype("string")
    if name not in tables.MANIFEST:
        raise UserError(f"unknown attribute {name!r} to balance; known: views, age_band, {', '.join(tables.MANIFEST)}")
    return manifest[name].astype("string") if tables.MANIFEST[name].values else manifest[name]


def _views(manifest: pd.DataFrame) -> pd.Series:
    """``complete`` where the image's study shows CC and MLO of both breasts, else ``partial``."""
    view = manifest["laterality"] + manifest["view_position"]
    study = [manifest["dataset"], manifest["study_id"]]
    standard = view.where(view.isin(FOUR_VIEWS))
    number = standard.groupby(study).transform("nunique")
    return (number == len(FOUR_VIEWS)).map({True: "complete", False: "partial"}).astype("string")
