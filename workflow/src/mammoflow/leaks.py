"""Leaks on the way into the fusion: scores that are not out of fold, features that are the label, numbers too good."""

from typing import Any

import numpy as np
import pandas as pd

from mammoflow import delong
from mammoflow.errors import UserError
from mammoflow.features import breast_key

# A model that scores its own training breasts this much better than validation has seen them (AUC, and how many
# standard errors); metadata this good has usually been written after the diagnosis.
OUT_OF_FOLD_GAP, GAP_ERRORS = 0.1, 3.0
TOO_GOOD_FLOOR, TOO_GOOD_UNITS = 0.95, 50


def check_scores(predictions: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Breast rows of the predictions, indexed by :func:`breast_key`, once they are shown to be honest.

    Raises UserError where a train row has no fold, where fold or split differ from the cohort's (scores of another
    cohort, or in-fold scores), or where a group stands in two splits or two folds.
    """
    breasts = predictions[predictions["level"] == "breast"].copy()
    breasts.index = pd.Index(breast_key(breasts), name=None)
    if breasts.empty:
        raise UserError("the predictions hold no row of level 'breast': run predict again with this version")
    if not breasts.index.is_unique:
        raise UserError(
            f"the predictions hold breast {breasts.index[breasts.index.duplicated()][0]!r} twice: run predict again"
        )
    if breasts["score"].isna().any():
        raise UserError(f"breast {breasts.index[breasts['score'].isna()][0]!r} has no score: run predict again")
    cohort = manifest[manifest["exclude_reason"].isna()]
    cohort = cohort.assign(key=breast_key(cohort)).groupby("key")[["split", "fold"]].first()
    strangers = breasts.index.difference(cohort.index)
    if len(strangers):
        raise UserError(
            f"breast {strangers[0]!r} is not in the cohort: the predictions belong to another cohort; run predict again"
        )
    train = breasts["split"] == "train"
    for frame, what in [(breasts[train], "predictions"), (cohort[cohort["split"] == "train"], "cohort manifest")]:
        missing = frame.index[frame["fold"].isna()]
        if len(missing):
            raise UserError(
                f"{len(missing)} train rows of the {what} have no fold (first: {missing[0]!r}): their scores cannot be "
                "shown to be out of fold. Run cohort and predict again"
            )
    expected = cohort.reindex(breasts.index)
    for column, rows in [("split", breasts["split"].notna()), ("fold", train)]:
        wrong = breasts.index[rows & (breasts[column] != expected[column]).fillna(True)]
        if len(wrong):
            raise UserError(
                f"{len(wrong)} breasts have another {column} in the predictions than in the cohort "
                f"(first: {wrong[0]!r}): the scores are not out of fold. Run predict again on this cohort"
            )
    for column, frame in [("split", breasts), ("fold", breasts[train])]:
        torn = frame.groupby("group_id")[column].nunique()
        if (torn > 1).any():
            raise UserError(
                f"group {torn.index[torn > 1][0]!r} stands in several {column}s: the {column}s leak. Run cohort again"
            )
    return breasts.drop(columns=["level", "image_id", "view_position", "attention", "score_roi"])


def refuse_label_twins(names: list[str], manifest: pd.DataFrame) -> None:
    """Raise UserError where a BI-RADS feature stands beside labels that were made of BI-RADS grades."""
    twins = [name for name in names if name.endswith("birads")]
    proxies = manifest["exclude_reason"].isna() & (manifest["label_source"] == "birads")
    if twins and proxies.any():
        raise UserError(
            f"fuse.features: {twins[0]!r} is the label itself in {int(proxies.sum())} images, whose label was made of "
            "their BI-RADS grade (label_source birads). Remove it"
        )


def suspicions(fused: pd.DataFrame, models: dict[str, Any]) -> list[str]:
    """Sentences on numbers that are too good to be honest: what the names of features and folds cannot show.

    Image scores of train rows that are not really out of fold are far better than those of val; a feature that was
    written after the diagnosis makes the metadata-only floor nearly perfect.
    """
    found = []
    parts = {}
    for split in ("train", "val"):
        rows = fused[(fused["split"] == split) & fused["label_malignant"].notna()]
        labels = rows["label_malignant"].to_numpy(int)
        if len(np.unique(labels)) == 2:
            scores = rows[["score_image", "score_metadata"]].to_numpy(float).T
            parts[split] = (len(rows), *delong.auc_covariance(labels, scores, rows["group_id"]))
    if len(parts) == 2:
        (_, inside, spread), (_, outside, spread_out) = parts["train"], parts["val"]
        gap, error = inside[0] - outside[0], np.sqrt(spread[0, 0] + spread_out[0, 0])
        if gap > OUT_OF_FOLD_GAP and gap > GAP_ERRORS * error:
            found.append(
                f"image scores of training breasts (AUC {inside[0]:.3f}) are far better than those of validation "
                f"({outside[0]:.3f}): they do not look out of fold. Run predict again with every fold's own model"
            )
    if "train" in parts and parts["train"][0] >= TOO_GOOD_UNITS and parts["train"][1][1] >= TOO_GOOD_FLOOR:
        strongest = models["metadata"]["importance"][1:2]
        name = f", above all {strongest[0]['feature']!r}" if strongest else ""
        found.append(
            f"metadata alone reaches an out-of-fold AUC of {parts['train'][1][1]:.3f}{name}: make sure that no feature "
            "was written after the diagnosis"
        )
    return found
