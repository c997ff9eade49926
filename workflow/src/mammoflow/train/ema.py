"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn

DECAY = 0.999


class MovingAverage:
    """A shadow of ``model`` whose weights follow it slowly; it is the shadow that is validated and kept.

    The decay rises as (1 + n) / (10 + n) up to :data:`DECAY`, so that a short training forgets its random start.
    The statistics of batch normalisation are averaged alike: those of the last few batches belong to weights that the
    average has not reached, and validation would jump with every batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow ``model`` after an optimiser step."""
        decay = min(DECAY, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for shadow, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            shadow.lerp_(buffer, 1 - decay) if buffer.is_floating_point() else shadow.copy_(buffer)
        self.updates += 1

    def state_dict(self) -> dict[str, Tensor | int]:
        """Weights and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        """The reverse of :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.updates = int(state["updates"])
