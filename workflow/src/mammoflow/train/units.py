"""From a cohort's manifest to the units that are learned and scored: images, breasts, patients."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mammoflow.features import unit_key
from mammoflow.unit_labels import LABELS, with_unit_labels

UNKNOWN_SIDE = "NA"
SMALL_CLASS = 10  # below this many groups a permutation leaves too many where they were


@dataclass(frozen=True)
class Unit:
    """One sample: a bag of images with one label.

    ``images`` are (dataset, image_id) keys; ``label`` is 0, 1 or None (unknown); ``split`` and ``fold`` as in the
    manifest, fold None outside of train.
    """

    unit_id: str
    images: tuple[tuple[str, str], ...]
    label: int | None
    split: str
    fold: int | None


def participants(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest's rows that take part (not excluded, converted, in a split), with :func:`with_unit_labels`.

    Those are read off the whole manifest: also an image that is left out may show a cancer.
    """
    taking_part = manifest["exclude_reason"].isna() & manifest["image_path"].notna() & manifest["split"].notna()
    return with_unit_labels(manifest).loc[taking_part].reset_index(drop=True)


def build_units(rows: pd.DataFrame, unit: str) -> list[Unit]:
    """Units of :func:`participants`' rows, sorted by id, with the label of ``unit``'s level."""
    units = []
    for unit_id, group in rows.groupby(unit_key(rows, unit), sort=True):
        label, fold = group[LABELS[unit]].max(), group["fold"].iloc[0]
        units.append(
            Unit(
                unit_id=str(unit_id),
                images=tuple(zip(group["dataset"], group["image_id"], strict=True)),
                label=None if pd.isna(label) else int(label),
                split=str(group["split"].iloc[0]),
                fold=None if pd.isna(fold) else int(fold),
            )
        )
    return units


def shuffle_labels(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Negative control: give each group of patients the labels of another one in the same split.

    Nothing in the pixels can predict such labels, so an honest pipeline must end at AUC 0.5. Groups (``group_id``) are
    the unit: the breasts of a patient keep their labels' company. Labels are exchanged among groups with the same
    labelled sides, so that a left label lands on a left breast and the numbers per class stay; where few groups share
    their sides, those are pooled, and a breast without counterpart takes the giver's maximum. Unlabelled images stay
    unlabelled; breasts and patients have the highest label of their images. Depends on the rows and ``seed`` only;
    every process and every later step must pass the same ``seed``.
    """
    generator = np.random.default_rng(seed)
    labelled = rows.loc[rows["label_malignant"].notna()].assign(side=rows["laterality"].fillna(UNKNOWN_SIDE))
    by_side = labelled.groupby(["split", "group_id", "side"])["label_malignant"].max()
    groups: dict[str, dict[str, dict[str, int]]] = {}
    for (split, group, side), label in by_side.items():
        groups.setdefault(split, {}).setdefault(group, {})[side] = int(label)
    received: dict[tuple[str, str], int] = {}
    for split in sorted(groups):
        classes: dict[tuple[str, ...], list[str]] = {}
        for group, sides in sorted(groups[split].items()):
            classes.setdefault(tuple(sorted(sides)), []).append(group)
        large = [members for _, members in sorted(classes.items()) if len(members) >= SMALL_CLASS]
        pooled = [group for _, members in sorted(classes.items()) if len(members) < SMALL_CLASS for group in members]
        if 0 < len(pooled) < SMALL_CLASS and large:
            large[-1] = large[-1] + pooled
            pooled = []
        for members in [*large, *([pooled] if pooled else [])]:
            for taker, giver in zip(members, generator.permutation(members), strict=True):
                given = groups[split][giver]
                for side in groups[split][taker]:
                    received[taker, side] = given.get(side, max(given.values()))
    labels = [
        received.get((group, side), pd.NA) if known else pd.NA
        for group, side, known in zip(
            rows["group_id"],
            rows["laterality"].fillna(UNKNOWN_SIDE),
            rows["label_malignant"].notna(),
            strict=True,
        )
    ]
    return with_unit_labels(rows.assign(label_malignant=pd.array(labels, dtype="Int64")))
