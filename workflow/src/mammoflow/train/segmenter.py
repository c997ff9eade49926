"""Segmentation: DeepLabV3+ on mammograms, its loss, and how it is validated.

Chen, Zhu, Papandreou, Schroff and Adam, ECCV 2018, as segmentation-models-pytorch builds it: atrous spatial pyramid
pooling on the last feature map and a decoder that joins it with an early one. Encoders are timm's, so that a
classification's encoder can start a segmentation and the other way round.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mammoflow.train import guard  # noqa: F401  # isort: skip (before timm)

import segmentation_models_pytorch as smp
import timm
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.models._features_fx import FeatureGraphNet

from mammoflow.errors import UserError
from mammoflow.lesions import CLASS_SETS
from mammoflow.train.augment import jitter, random_affine, warp
from mammoflow.train.model import normalise, to_unit_range
from mammoflow.train.module import Learner, Share
from mammoflow.train.segment_data import lesion_pixels, shares, split_images
from mammoflow.train.windows import compose, random_windows, slide, soften

SMOOTH = 1.0  # pixel: keeps the Dice of tiny lesions from jumping


class SegmentModel(nn.Module):
    """Logits (N, 1 + classes, H, W) of normalised images (N, 1, H, W), H and W multiples of 32.

    ``encoder`` names a timm model; ``pretrained`` fetches its weights. Raises UserError where there is no such model or
    it cannot be an encoder here.
    """

    def __init__(self, encoder: str, classes: int, *, pretrained: bool = False, decoder_channels: int = 256) -> None:
        super().__init__()
        if encoder not in timm.list_models():
            raise UserError(f"run.encoder: timm {timm.__version__} has no model {encoder!r}: see timm.list_models()")
        try:
            self.net = smp.DeepLabV3Plus(
                f"tu-{encoder}",
                encoder_weights="imagenet" if pretrained else None,
                in_channels=1,
                classes=1 + classes,
                decoder_channels=decoder_channels,
            )
        except Exception as error:  # timm, huggingface_hub and requests each raise kinds of their own
            cure = (
                "connect to the network once, or set pretrained to false"
                if pretrained
                else "choose a convolutional timm model such as resnet34 or convnext_nano"
            )
            raise UserError(f"run.encoder: {encoder!r} cannot carry DeepLabV3+ ({error}): {cure}") from error

    @property
    def timm_encoder(self) -> nn.Module:
        """The encoder as timm made it."""
        return self.net.encoder.model

    @property
    def keeps_unused_parts(self) -> bool:
        """Whether the encoder may hold parameters that no output depends on (DDP has to be told)."""
        return isinstance(self.timm_encoder, FeatureGetterNet | FeatureGraphNet | FeatureHookNet)

    def forward(self, views: Tensor) -> Tensor:
        return self.net(views)


class Segmenter(Learner):
    """Trains :class:`SegmentModel` with Dice and cross-entropy."""

    merit = "val_dice"

    @staticmethod
    def build(settings: dict[str, Any], *, pretrained: bool) -> SegmentModel:
        """Without the hub's weights unless ``pretrained``."""
        section = settings["segment"]
        return SegmentModel(
            settings["encoder"],
            len(CLASS_SETS[section["classes"]]),
            pretrained=pretrained,
            decoder_channels=section["decoder_channels"],
        )

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return 1 + len(CLASS_SETS[self.settings["segment"]["classes"]])

    @property
    def weights(self) -> Tensor:
        """One term."""
        return torch.ones(1)

    def share(self, batch: dict[str, Tensor]) -> Share:
        """The images (or windows)."""
        count = len(batch["views"])
        return Share(torch.tensor([count], device=batch["views"].device), samples=count, images=count)

    def split(self, batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
        """Whole images."""
        return split_images(batch, parts)

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """Sum over the images (or windows)."""
        section = self.settings["segment"]
        views, target, valid = prepare(to_unit_range(batch["views"]), batch["mask"], self.classes, self.settings)
        logits = self.model(normalise(views).contiguous(memory_format=torch.channels_last))
        weight, border = section["dice_weight"], section["soft_border_px"]
        return segmentation_loss(logits.float(), target, valid, weight, border).sum()[None]

    def judge(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Loss of each image, and its mean Dice over the classes it holds (NaN without any)."""
        section = self.settings["segment"]
        target, valid = shares(batch["mask"], self.classes)
        probability = whole_image(self.ema.model, to_unit_range(batch["views"]), section)
        loss = segmentation_loss(probability.clamp(min=1e-7).log(), target, valid, section["dice_weight"])
        return loss.cpu(), hard_dice(decide(probability), batch["mask"], self.classes).cpu()

    def validation_figures(self, loss: Tensor, dice: Tensor) -> dict[str, float]:
        """Means over the images; Dice over those that hold a lesion."""
        return {"val_loss": float(loss.mean()), "val_dice": float(dice.nanmean())}


def prepare(views: Tensor, mask: Tensor, classes: int, settings: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Cut and augment: images (N, 1, h, w), class shares (N, classes, h, w) and validity (N, 1, h, w), in register.

    One map per image moves all three, so that a lesion stays where it is drawn. What comes in from outside of the image
    is background, as the padding of the pack.
    """
    section = settings["segment"]
    target, valid = shares(mask, classes)
    size = views.shape[-2:]
    theta = None
    if section["sampling"] != "image":
        size = tuple(section["window"])
        theta = random_windows(lesion_pixels(mask)[:, None], size, always=section["sampling"] == "roi")
    if settings["augment"]:
        moved = random_affine(len(views), *size, device=views.device)
        theta = moved if theta is None else compose(theta, moved)
    if theta is not None:
        # Ignored pixels travel as a channel of their own: 1 - valid is 0 outside, so what comes in is valid.
        together = warp(torch.cat([views, target[:, 1:], 1 - valid], 1), theta, size)
        views, lesions, valid = together[:, :1], together[:, 1:-1], (together[:, -1:] < 0.5).float()
        lesions = lesions.clamp(0, 1)
        if section["soft_border_px"] == 0:  # hard again: interpolation has softened the borders
            background = 1 - lesions.sum(1, keepdim=True)
            winner = torch.cat([background, lesions], 1).argmax(1)
            lesions = F.one_hot(winner, classes).permute(0, 3, 1, 2)[:, 1:].float()
        target = torch.cat([(1 - lesions.sum(1, keepdim=True)).clamp(0, 1), lesions], 1)
    if settings["augment"]:
        views = jitter(views)
    return views, target, valid


def segmentation_loss(
    logits: Tensor, target: Tensor, valid: Tensor, dice_weight: float, soft_border_px: float = 0
) -> Tensor:
    """Per image (N,): cross-entropy over the valid pixels plus ``dice_weight`` times 1 - soft Dice (Milletari, Navab
    and Ahmadi, 3DV 2016), a mean over the lesion classes the image holds.

    ``logits`` and ``target`` (shares of each class) (N, K, H, W), ``valid`` (N, 1, H, W) in 0, 1. ``soft_border_px``:
    standard deviation of the Gaussian that softens ``target``. An image without a lesion has no Dice: cross-entropy
    alone teaches it.
    """
    # Before it is softened: a lesion of a few pixels would sink below one half, as if the image held none.
    present = ((target[:, 1:] * valid).amax((2, 3)) > 0.5).float()
    target = soften(target, soft_border_px)
    log_probability = F.log_softmax(logits, 1)
    pixels = valid.sum((1, 2, 3)).clamp(min=1)
    entropy = (-(target * log_probability).sum(1, keepdim=True) * valid).sum((1, 2, 3)) / pixels
    probability, truth = log_probability.exp()[:, 1:] * valid, target[:, 1:] * valid
    both = (probability * truth).sum((2, 3))
    size = probability.square().sum((2, 3)) + truth.square().sum((2, 3))
    missed = (1 - (2 * both + SMOOTH) / (size + SMOOTH)) * present
    return entropy + dice_weight * missed.sum(1) / present.sum(1).clamp(min=1)


def hard_dice(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Mean Dice (N,) over the lesion classes that each image holds, NaN without any; pixels to ignore do not count.

    ``predicted`` (N, H, W) class indices, ``mask`` (N, H, W) as of :func:`mammoflow.lesions.class_map`.
    """
    truth, valid = shares(mask, classes)
    drawn = F.one_hot(predicted, classes).permute(0, 3, 1, 2).float() * valid
    truth, drawn = (truth * valid)[:, 1:], drawn[:, 1:]
    sizes = truth.sum((2, 3))
    dice = 2 * (truth * drawn).sum((2, 3)) / (sizes + drawn.sum((2, 3))).clamp(min=1)
    present = sizes > 0
    return torch.where(present, dice, 0).sum(1) / present.sum(1)  # 0 / 0 is NaN


def decide(probability: Tensor) -> Tensor:
    """Class indices (N, H, W) of class probabilities (N, K, H, W): a lesion where all lesion classes together are at
    least as probable as background, then the most probable of them.

    The highest class alone would call a pixel background that is surely a lesion, benign or malignant half each.
    """
    lesion = 1 + probability[:, 1:].argmax(1)
    return torch.where(probability[:, 0] > 0.5, 0, lesion)


def whole_image(model: nn.Module, views: Tensor, section: dict[str, Any]) -> Tensor:
    """Class probabilities (N, K, H, W) float32 of images (N, 1, H, W) in 0..1, at once or by a sliding window.

    ``section``: the run's section ``segment``.
    """

    def score(part: Tensor) -> Tensor:
        return model(normalise(part).contiguous(memory_format=torch.channels_last)).float().softmax(1)

    return slide(views, None if section["sampling"] == "image" else tuple(section["window"]), score)
