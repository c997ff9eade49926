"""Exams, derived from an archive's images: one row per study."""

import numpy as np
import pandas as pd

from mammoflow import tables


def derive_exams(images: pd.DataFrame) -> pd.DataFrame:
    """One row per study from a finished ``images`` table. Labels are the maximum over images; NA where unknown."""
    keys = ["dataset", "study_id"]
    # Grouping sums over whole columns, never a Python loop over studies: RSNA has 11,913 of them.
    side, label = images["laterality"], images["label_malignant"]
    ranked = images[[*keys, "patient_id", "group_id", "age", "site", "split_official"]].assign(
        label_malignant=label,
        **{f"label_malignant_{name}": label.where((side == name).fillna(False)) for name in tables.LATERALITIES},
        label_3cat=_rank(images["label_3cat"], tables.CATEGORIES3),
        breast_density=_rank(images["breast_density"], tables.DENSITIES),
    )
    worst = [name for name in ranked if name.startswith("label_")]
    first = ["patient_id", "group_id", "site", "split_official"]  # the first known value of the study
    by_study = ranked.groupby(keys, sort=True)
    exams = by_study.agg(dict.fromkeys(first, "first") | dict.fromkeys([*worst, "age", "breast_density"], "max"))
    views = images[keys].assign(view=side + images["view_position"]).dropna().drop_duplicates()
    views = views.sort_values([*keys, "view"])
    starts = np.flatnonzero(~views.duplicated(keys))
    per_study = np.split(views["view"].to_numpy(object), starts[1:]) if len(views) else []
    joined = pd.Series([";".join(names) for names in per_study], pd.MultiIndex.from_frame(views[keys].iloc[starts]))
    four = views["view"].isin(["LCC", "LMLO", "RCC", "RMLO"]).groupby([views[key] for key in keys]).sum()
    exams = exams.assign(
        n_images=by_study.size(),
        views=joined.astype(tables.TEXT),
        complete_4view=(four.reindex(exams.index, fill_value=0) == 4).astype(tables.INTEGER),
        label_3cat=exams["label_3cat"].map(dict(enumerate(tables.CATEGORIES3))),
        breast_density=exams["breast_density"].map(dict(enumerate(tables.DENSITIES))),
    )
    return tables.finish("exams", exams.reset_index())


def _rank(values: pd.Series, order: list[str]) -> pd.Series:
    """Position of each word in ``order`` (Int64), so that the worst of a group is its maximum; NA stays NA."""
    return values.map({word: rank for rank, word in enumerate(order)}).astype(tables.INTEGER)
