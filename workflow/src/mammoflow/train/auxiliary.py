"""Auxiliary heads of a classification: density, BI-RADS assessment, age and view, learned beside malignancy.

What a head learns stands in the manifest; a missing value has weight 0 and is never a class. The heads read the mean of
all patches, not the attention's choice, so that they teach the encoder and leave the attention to malignancy.

Grades are learned by one logit per threshold, "is it above this grade?" (Cheng, Wang and Pollastri, IJCNN 2008), so
that a mistake of two grades costs more than one of a single grade.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from mammoflow import tables
from mammoflow.lesions import Key

# Any fixed pair near a screening population's years will do, and a fixed one means the same in every run of a chain.
AGE_MEAN, AGE_STD = 58.0, 11.0
DENSITY_GRADES = {word: grade for grade, word in enumerate(tables.DENSITIES)}
# 4A to 4C are one grade. 0 (incomplete) and 6 (cancer known from a biopsy) stand at no place of the order.
BIRADS_GRADES = {f"BI-RADS {word}": int(word[0]) - 1 for word in ["1", "2", "3", "4", "4A", "4B", "4C", "5"]}
VIEWS = {"CC": 0, "MLO": 1}


@dataclass(frozen=True)
class Head:
    """One auxiliary task. A target is a number per image: a grade from 0, years, or 0 and 1; NaN where it is unknown.

    ``column`` of the manifest; ``grades`` from its words to numbers, None where it holds numbers; ``outputs``: logits.
    A head with ``per_view`` is taught by each image, the others by each bag.
    """

    column: str
    grades: dict[str, int] | None
    outputs: int
    per_view: bool = False

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """Target of each row of a manifest (n,) float32."""
        values = rows[self.column] if self.grades is None else rows[self.column].map(self.grades)
        return pd.to_numeric(values).to_numpy(np.float32, na_value=np.nan)

    def of_bag(self, values: np.ndarray) -> float:
        """The bag's target from its images': the highest grade (BI-RADS' rule where two differ), the mean age."""
        known = values[~np.isnan(values)]
        if not len(known):
            return float("nan")
        return float(known.mean() if self.grades is None else known.max())

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each of ``logits`` (n, outputs) with ``target`` (n,): (n,), exactly 0 where the target is NaN."""
        known = ~target.isnan()
        target = torch.where(known, target, 0.0)  # before the loss: 0 times NaN would be NaN
        if self.grades is None:
            loss = F.smooth_l1_loss(logits[:, 0], (target - AGE_MEAN) / AGE_STD, reduction="none")
        else:
            above = (target[:, None] > torch.arange(self.outputs, device=target.device)).float()
            loss = F.binary_cross_entropy_with_logits(logits, above, reduction="none").mean(1)
        return loss * known

    def values(self, logits: Tensor) -> Tensor:
        """What is predicted, in the unit of the targets: (n,)."""
        if self.grades is None:
            return logits[:, 0] * AGE_STD + AGE_MEAN
        return (logits > 0).sum(1).float()


HEADS = {
    "density": Head("breast_density", DENSITY_GRADES, len(DENSITY_GRADES) - 1),
    "birads": Head("breast_birads", BIRADS_GRADES, max(BIRADS_GRADES.values())),
    "age": Head("age", None, 1),
    "view": Head("view_position", VIEWS, 1, per_view=True),
}


def image_targets(rows: pd.DataFrame, names: Iterable[str]) -> dict[Key, dict[str, float]]:
    """Targets of each image of a manifest's ``rows``, by head."""
    columns = {name: HEADS[name].targets(rows) for name in names}
    keys = zip(rows["dataset"], rows["image_id"], strict=True)
    return {key: {name: float(column[row]) for name, column in columns.items()} for row, key in enumerate(keys)}


def bag_targets(images: list[dict[str, float]]) -> dict[str, Tensor]:
    """Targets of one bag by head: (V,) float32 for a head that is taught by each of the V images, else (1,)."""
    values = {name: np.array([image[name] for image in images], np.float32) for name in images[0]}
    return {
        name: torch.from_numpy(each) if HEADS[name].per_view else torch.tensor([HEADS[name].of_bag(each)])
        for name, each in values.items()
    }


def agreement(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 where all agree, about 0 by chance; NaN where nothing is known or nothing varies.

    The concordance coefficient (Lin, Biometrics 45:255, 1989), which for grades is the quadratically weighted kappa.
    Pairs without a known ``true`` do not count.
    """
    known = ~np.isnan(true)
    predicted, true = predicted[known].astype(float), true[known].astype(float)
    if not len(true):
        return float("nan")
    expected = predicted.var() + true.var() + (predicted.mean() - true.mean()) ** 2
    return float(1 - np.mean((predicted - true) ** 2) / expected) if expected > 0 else float("nan")
