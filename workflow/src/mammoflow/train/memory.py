"""What saves a training's memory: recomputing activations instead of keeping them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from mammoflow.train import guard  # noqa: F401  # isort: skip (before timm)

from timm.models._features import FeatureGetterNet

from mammoflow.errors import UserError


def checkpoint_encoder(encoder: nn.Module, name: str, image_size: tuple[int, int]) -> None:
    """Let a timm encoder keep its stages' inputs only and compute the rest again for the gradients.

    Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv:1604.06174. Which parts are
    computed again is timm's choice. Raises UserError where timm cannot, or does not although it takes the wish.
    """
    holder = encoder.model if isinstance(encoder, FeatureGetterNet) else encoder
    before = kept_for_backward(_outline(encoder), image_size)
    try:
        holder.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):  # no such method, and timm's way of saying that it cannot
        saved = False
    else:
        saved = kept_for_backward(_outline(encoder), image_size) < before
    if not saved:
        raise UserError(
            f"run.gradient_checkpointing: timm cannot do this with encoder {name!r}: leave it out and raise "
            "accumulate, or take an encoder such as resnet34, efficientnet_b0 or convnext_nano"
        )


def kept_for_backward(encoder: nn.Module, image_size: tuple[int, int], images: int = 1) -> int:
    """Bytes of the tensors that autograd keeps after a forward pass of one-channel images, weights included.

    Of a part that is computed again its input counts, as it is kept, and nothing within.
    """
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    device = next(encoder.parameters()).device
    with saved_tensors_hooks(count, lambda tensor: tensor):
        encoder(torch.zeros(images, 1, *image_size, device=device))
    return kept


def _outline(encoder: nn.Module) -> nn.Module:
    """A copy without values: what it would keep can be counted at any size without computing anything."""
    return copy.deepcopy(encoder).to("meta").eval()


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Within, batch normalisation normalises by its batch as ever, but its running statistics stay as they are.

    For the backward pass of a model that computes parts again: the same batch must not count twice.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, seen) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, seen
