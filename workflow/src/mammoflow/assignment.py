"""Which group goes where: published splits first, stratification for the rest, folds inside train."""

from typing import Any

import numpy as np
import pandas as pd

from mammoflow import tables
from mammoflow.attributes import attribute_table
from mammoflow.datasets import archive
from mammoflow.errors import UserError
from mammoflow.groups import Counts, count_matrix
from mammoflow.stratify import stratified_folds, stratify

CONFLICT = "official_conflict"
# Streams of random numbers, so that the draw of one does not depend on the size of another.
_CARVE, _FREE, _FOLDS = range(3)


def resolve_official_conflicts(manifest: pd.DataFrame, policy: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Settle the groups that stand in both published splits of their archives.

    ``policy`` test: they stay in the test set and their training rows are left out; drop: all their rows are left out
    (``exclude_reason=official_conflict``). Returns the new manifest and one entry per conflict.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    published = part.groupby("group_id")["split_official"].nunique()
    groups = published.index[published > 1]
    conflicting = part[part["group_id"].isin(groups)]
    dropped = conflicting if policy == "drop" else conflicting[conflicting["split_official"] == "training"]
    manifest = manifest.copy()
    manifest.loc[dropped.index, "exclude_reason"] = CONFLICT
    left_out = dropped.groupby("group_id").size()
    return manifest, [
        {
            "group_id": group,
            "patients": sorted(set(rows["dataset"] + "|" + rows["patient_id"])),
            "policy": policy,
            "images_left_out": int(left_out[group]),
        }
        for group, rows in conflicting.groupby("group_id", sort=True)
    ]


def assign(manifest: pd.DataFrame, config: dict[str, Any], seed: int) -> tuple[pd.DataFrame, Counts, list[str]]:
    """Fill ``split`` and ``fold`` of the rows that take part.

    ``config`` is a resolved ``cohort`` section; conflicts are resolved already. Returns the manifest, the count matrix
    the split was balanced on, and warnings. Raises UserError in one sentence where no sound split exists.
    """
    part = manifest[manifest["exclude_reason"].isna()]
    _require_labels(manifest, part)
    counts = count_matrix(attribute_table(part, config["attributes"]), "group_id", config["attributes"])
    fate, warnings = _published_fate(part, counts.ids, config["official"])

    ratios = config["splits"]
    split = np.full(len(counts.ids), None, dtype=object)
    split[fate == "test"] = "test"
    carve = {name: ratios[name] / (ratios["train"] + ratios["val"]) for name in ("train", "val")}
    for kind, shares, stream in (("training", carve, _CARVE), ("free", ratios, _FREE)):
        chosen = fate == kind
        if chosen.any():
            _require_groups(int(chosen.sum()), len(shares), f"into {', '.join(shares)}")
            split[chosen] = stratify(counts.counts[chosen], shares, [seed, stream])
    for name in tables.SPLITS:
        if not (split == name).any():
            raise UserError(f"no patient is left for {name}: the published split leaves it empty, set official: ignore")

    train = split == "train"
    _require_groups(int(train.sum()), config["folds"], f"of train into {config['folds']} folds")
    folds = np.full(len(counts.ids), -1)
    folds[train] = stratified_folds(counts.counts[train], config["folds"], [seed, _FOLDS])

    manifest = manifest.assign(split=pd.array([pd.NA] * len(manifest), dtype="string"), fold=pd.NA)
    by_group = pd.DataFrame({"split": split, "fold": folds}, index=counts.ids).loc[part["group_id"]]
    manifest.loc[part.index, "split"] = by_group["split"].to_numpy()
    manifest["fold"] = manifest["fold"].astype("Int64")
    manifest.loc[part.index, "fold"] = by_group["fold"].where(by_group["fold"] >= 0).astype("Int64").array
    return manifest, counts, warnings + _class_warnings(manifest)


def _published_fate(part: pd.DataFrame, ids: np.ndarray, official: str) -> tuple[np.ndarray, list[str]]:
    """``test``, ``training`` or ``free`` for each group id, and warnings."""
    if official == "ignore":
        return np.full(len(ids), "free", dtype=object), []
    published = part["split_official"]
    warnings = []
    for dataset, values in published.groupby(part["dataset"]):
        if set(values.dropna()) == {"training"}:
            warnings.append(f"{dataset}: no image of the published test set takes part, so it is split anew")
            published = published.mask(part["dataset"] == dataset)
    test = set(part.loc[(published == "test").fillna(False).astype(bool), "group_id"])
    training = set(part.loc[(published == "training").fillna(False).astype(bool), "group_id"])
    return np.array(
        ["test" if g in test else "training" if g in training else "free" for g in ids], dtype=object
    ), warnings


def _require_labels(manifest: pd.DataFrame, part: pd.DataFrame) -> None:
    for dataset in sorted(set(manifest["dataset"]) - set(part["dataset"])):
        reasons = manifest.loc[manifest["dataset"] == dataset, "exclude_reason"].value_counts().head(3)
        shown = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        cure = archive(dataset).not_supervised or "take it out, or change the `labels` section"
        raise UserError(f"no labelled image of {dataset} takes part ({shown}): {cure}")
    known = sorted(part["label_malignant"].dropna().unique())
    if len(known) == 1:
        raise UserError(
            f"all {len(part)} images have label_malignant {known[0]}: training needs both classes; "
            "add a dataset, or change the `labels` section"
        )


def _require_groups(number: int, needed: int, what: str) -> None:
    if number < needed:
        raise UserError(f"{number} patient(s) cannot be split {what}: at least {needed} are needed, add data")


def _class_warnings(manifest: pd.DataFrame) -> list[str]:
    """Splits and folds without one of the classes: metrics there are undefined."""
    warnings = []
    for column in ("split", "fold"):
        labels = manifest.groupby(column)["label_malignant"]
        for side, classes in labels.unique().items():
            if len(set(classes)) < 2:
                warnings.append(
                    f"{column} {side} holds only label_malignant {classes[0]}: too few patients of the other class"
                )
    return warnings
