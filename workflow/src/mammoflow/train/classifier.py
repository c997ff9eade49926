"""Classification: malignancy of breasts or images, its losses, and how it is validated."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mammoflow import metrics
from mammoflow.train.augment import augment
from mammoflow.train.auxiliary import HEADS, agreement
from mammoflow.train.data import split_bags
from mammoflow.train.losses import auxiliary_losses, batch_losses
from mammoflow.train.model import BreastModel, normalise, to_unit_range
from mammoflow.train.module import Learner, Share


class Classifier(Learner):
    """Trains :class:`BreastModel`, with the localisation loss and the auxiliary heads beside malignancy."""

    merit = "val_auc"

    @staticmethod
    def build(settings: dict[str, Any], *, pretrained: bool) -> BreastModel:
        """Without the hub's weights unless ``pretrained``."""
        return BreastModel(settings["encoder"], pretrained=pretrained, auxiliary=settings["auxiliary"])

    @property
    def weights(self) -> Tensor:
        """Classification, localisation, the auxiliary heads."""
        return torch.tensor([1.0, self.settings["localisation_weight"], *self.settings["auxiliary"].values()])

    def share(self, batch: dict[str, Tensor]) -> Share:
        """The bags, the marked views, and the known targets of each auxiliary head."""
        bags = len(batch["label"])
        known = [(~batch["auxiliary"][name].isnan()).sum() for name in self.settings["auxiliary"]]
        counts = torch.stack([batch["marked"].new_tensor(bags, dtype=torch.int64), batch["marked"].sum(), *known])
        return Share(counts, samples=bags, images=len(batch["views"]))

    def split(self, batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
        """Whole bags."""
        return split_bags(batch, parts)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """Sums over the bags, over the marked views, and over what is known for each auxiliary head."""
        views, target = to_unit_range(batch["views"]), batch["target"]
        if self.settings["augment"]:
            views, target = augment(views, target)
        output = self.model(_ready(views), batch["bag"], len(batch["label"]))
        main = batch_losses(output, batch["label"], target, batch["marked"])
        return torch.stack([*main, *auxiliary_losses(output, batch["auxiliary"])])

    def judge(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits and labels of the bags, then of each auxiliary head what is predicted and what is true."""
        output = self.ema.model(_ready(to_unit_range(batch["views"])), batch["bag"], len(batch["label"]))
        told = [output.bags.float().cpu(), batch["label"].cpu()]
        for name in self.settings["auxiliary"]:
            told += [HEADS[name].values(output.auxiliary[name]).cpu(), batch["auxiliary"][name].cpu()]
        return tuple(told)

    def validation_figures(self, logits: Tensor, labels: Tensor, *auxiliary: Tensor) -> dict[str, float]:
        """Cross-entropy and AUC; beside them how far each auxiliary head agrees with what is known."""
        pairs = zip(self.settings["auxiliary"], auxiliary[::2], auxiliary[1::2], strict=True)
        return {
            "val_loss": float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)),
            "val_auc": float(metrics.auc(labels.numpy(), np.asarray(logits, float))[0]),
            **{f"val_{name}": agreement(told.numpy(), true.numpy()) for name, told, true in pairs},
        }


def _ready(views: Tensor) -> Tensor:
    return normalise(views).contiguous(memory_format=torch.channels_last)
