"""The network: an encoder from timm, gated attention over the patches of all views, and a heat map.

Patches of every view of a breast form one bag (multiple instance learning), pooled by the gated attention of Ilse,
Tomczak and Welling (ICML 2018, equation 9). The same head scores a single view as a bag of its own. A 1x1 convolution
on the same features draws a heat map of malignancy, which the localisation loss compares with the marked lesions; its
hottest cells add to the score (top-t pooling, Shen et al., Medical Image Analysis 68:101908, 2021).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mammoflow.train import guard  # noqa: F401  # isort: skip (before timm)

import timm
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.models._features_fx import FeatureGraphNet

from mammoflow.errors import UserError
from mammoflow.train.auxiliary import HEADS

MEAN, STD = 0.2, 0.25  # grey values of cropped mammograms, as shares of white; any fixed pair near these will do
WIDTH, HIDDEN = 128, 64  # channels of a patch, and of the attention's two gates
TOP_SHARE = 0.03  # share of a view's cells whose mean heat is its evidence: about a lesion's area
COLD = -2.0  # first logit of the heat map: most cells hold no malignant lesion


class Output(NamedTuple):
    """For B bags with N views: logits of bags (B,) and views (N,), heat-map logits (N, 1, h, w), each view's own
    attention (N, 1, h, w), which sums to 1, and each view's share of its bag's attention (N,), which sum to 1 per bag.
    ``auxiliary``: logits (B, outputs) of the auxiliary heads that judge a bag, (N, outputs) of those that judge a view.
    """

    bags: Tensor
    views: Tensor
    heat: Tensor
    attention: Tensor
    shares: Tensor
    auxiliary: dict[str, Tensor]


class BreastModel(nn.Module):
    """``encoder`` is the name of a timm model that yields feature maps; ``pretrained`` fetches its weights.

    ``auxiliary``: names out of :data:`mammoflow.train.auxiliary.HEADS`.
    """

    def __init__(self, encoder: str, *, pretrained: bool = False, auxiliary: Iterable[str] = ()) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, pretrained)
        fine, coarse = self.encoder.feature_info.channels()
        # The last stage sees far, the one before it sees where: a lesion needs both.
        self.fine = nn.Conv2d(fine, WIDTH, 1)
        self.coarse = nn.Conv2d(coarse, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH)
        self.gate_tanh = nn.Linear(WIDTH, HIDDEN)
        self.gate_sigmoid = nn.Linear(WIDTH, HIDDEN)
        self.gate = nn.Linear(HIDDEN, 1)
        self.head = nn.Linear(WIDTH, 1)
        self.localise = nn.Conv2d(WIDTH, 1, 1)
        nn.init.constant_(self.localise.bias, COLD)
        # Last, so that all before them begin with the same weights whether there are auxiliary heads or not.
        self.auxiliary = nn.ModuleDict({name: nn.Linear(WIDTH, HEADS[name].outputs) for name in auxiliary})

    @property
    def timm_encoder(self) -> nn.Module:
        """The encoder as timm made it."""
        return self.encoder

    @property
    def keeps_unused_parts(self) -> bool:
        """Whether the encoder may hold parameters that no output depends on (DDP has to be told)."""
        return isinstance(self.encoder, FeatureGetterNet | FeatureGraphNet | FeatureHookNet)

    def forward(self, views: Tensor, bag: Tensor, bags: int) -> Output:
        """``views`` (N, 1, H, W) normalised, ``bag`` (N,) int64 below ``bags``, each bag holding a view or more."""
        fine, coarse = self.encoder(views)
        maps = self.fine(fine) + F.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="nearest")
        maps = F.gelu(self.norm(maps.permute(0, 2, 3, 1)))  # (N, h, w, C)
        count, height, width, _ = maps.shape
        patches = maps.flatten(1, 2)
        gates = torch.tanh(self.gate_tanh(patches)) * torch.sigmoid(self.gate_sigmoid(patches))
        scores = self.gate(gates).squeeze(-1)  # (N, h * w)
        each, attention = pool(patches, scores, torch.arange(count, device=bag.device), count)
        together, weights = pool(patches, scores, bag, bags)
        heat = self.localise(maps.permute(0, 3, 1, 2)).float()
        view_evidence = evidence(heat)
        bag_evidence = view_evidence.new_full((bags,), -torch.inf).scatter_reduce(0, bag, view_evidence, "amax")
        return Output(
            bags=self.head(together).squeeze(-1).float() + bag_evidence,
            views=self.head(each).squeeze(-1).float() + view_evidence,
            heat=heat,
            attention=attention.view(count, 1, height, width),
            shares=weights.sum(1),
            auxiliary=self._auxiliary(patches.mean(1), bag, bags) if len(self.auxiliary) else {},
        )

    def _auxiliary(self, views: Tensor, bag: Tensor, bags: int) -> dict[str, Tensor]:
        """Logits of the auxiliary heads, from the views' mean features (N, C)."""
        size = views.new_zeros(bags).index_add(0, bag, torch.ones_like(views[:, 0]))
        means = views.new_zeros(bags, views.shape[1]).index_add(0, bag, views) / size[:, None]
        return {name: head(views if HEADS[name].per_view else means).float() for name, head in self.auxiliary.items()}


def evidence(heat: Tensor) -> Tensor:
    """Mean logit of each view's hottest cells: (N, 1, h, w) to (N,), relative to a cold view."""
    cells = heat.flatten(1)
    return cells.topk(max(1, round(TOP_SHARE * cells.shape[1])), dim=1).values.mean(1) - COLD


def pool(patches: Tensor, scores: Tensor, bag: Tensor, bags: int) -> tuple[Tensor, Tensor]:
    """Attention-weighted mean of the patches (N, P, C) of each bag: (bags, C), and the weights (N, P) in their bag.

    ``scores`` (N, P) are the attention's logits; the softmax runs over all patches of all views of a bag.
    """
    scores = scores.float()
    highest = scores.new_full((bags,), -torch.inf).scatter_reduce(0, bag, scores.detach().amax(1), "amax")
    weights = torch.exp(scores - highest[bag, None])
    total = scores.new_zeros(bags).index_add(0, bag, weights.sum(1))
    weights = weights / total[bag, None]
    views = torch.bmm(weights[:, None].to(patches.dtype), patches).squeeze(1)  # (N, C), each view's part of its bag
    return views.new_zeros(bags, views.shape[1]).index_add(0, bag, views), weights


def make_encoder(name: str, pretrained: bool) -> nn.Module:
    """The last two stages of a timm model for one-channel images. Raises UserError where timm or the hub cannot."""
    if name not in timm.list_models():
        raise UserError(f"run.encoder: timm {timm.__version__} has no model {name!r}: see timm.list_models()")
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=1, features_only=True, out_indices=(-2, -1))
    except Exception as error:  # timm, huggingface_hub and requests each raise kinds of their own
        if pretrained:
            raise UserError(
                f"run.pretrained: the weights of {name!r} could not be fetched ({type(error).__name__}): connect to "
                "the network once, or set pretrained to false"
            ) from error
        raise UserError(
            f"run.encoder: {name!r} gives no feature maps ({error}): choose a convolutional timm model such as "
            "convnext_nano or resnet18"
        ) from error


def normalise(views: Tensor) -> Tensor:
    """From grey values in 0..1 to the model's input."""
    return (views - MEAN) / STD


def to_unit_range(views: Tensor) -> Tensor:
    """From uint8 or uint16 to float32 in 0..1."""
    return views.float() / torch.iinfo(views.dtype).max
