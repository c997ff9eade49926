"""Losses that add up over processes to what one process would have computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mammoflow.train.auxiliary import HEADS
from mammoflow.train.model import Output


def batch_losses(output: Output, label: Tensor, target: Tensor, marked: Tensor) -> tuple[Tensor, Tensor]:
    """Sums, not means, over this process's share: cross-entropy of the bags, and localisation of the marked views.

    ``label`` (B,) in 0, 1; ``target`` (N, 1, h, w) in 0..1 at any resolution; ``marked`` (N,) bool.
    """
    classification = F.binary_cross_entropy_with_logits(output.bags, label, reduction="sum")
    # An unmarked view may hold a lesion anywhere, so it teaches the heat map nothing: its weight is 0. Multiplying
    # keeps the parameters in the graph, which DDP needs even in a step without any marked view.
    return classification, (localisation(output.heat, target) * marked).sum()


def auxiliary_losses(output: Output, targets: dict[str, Tensor]) -> list[Tensor]:
    """Sums over this process's share, of each auxiliary head over its known targets.

    ``targets``: by head (B,) or, for a head that is taught by each view, (N,); NaN where unknown.
    """
    return [HEADS[name].losses(logits, targets[name]).sum() for name, logits in output.auxiliary.items()]


def localisation(heat: Tensor, target: Tensor) -> Tensor:
    """Per view (N,): cross-entropy over the cells plus soft Dice (Milletari, Navab and Ahmadi, 3DV 2016)."""
    # Maximum, not mean: a lesion smaller than a cell of the heat map still marks that cell.
    target = F.adaptive_max_pool2d(target, heat.shape[-2:])
    entropy = F.binary_cross_entropy_with_logits(heat, target, reduction="none").mean((1, 2, 3))
    probability = torch.sigmoid(heat)
    overlap = (probability * target).sum((1, 2, 3))
    size = probability.square().sum((1, 2, 3)) + target.square().sum((1, 2, 3))
    return entropy + 1 - (2 * overlap + 1) / (size + 1)
