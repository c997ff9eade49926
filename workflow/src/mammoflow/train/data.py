"""The dataset: a sample is a unit (all views of a breast, or one image), read from a pack as unsigned integers.

Pixels cross to the device as they are stored, one channel of 8 or 16 bits: float or three channels would make every
copy on the way four to twelve times larger. Bags are not padded: a batch is the views of all its bags in one tensor,
with the number of the bag of each view.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from mammoflow.lesions import Key
from mammoflow.pack import PackedImages
from mammoflow.train.auxiliary import HEADS, bag_targets
from mammoflow.train.frames import collate_frames, read_frames
from mammoflow.train.units import Unit

TARGET_STRIDE = 8  # pixels per cell of the localisation target; finer than any encoder's features
Sample = dict[str, Any]


class Units(Dataset[Sample]):
    """Samples of ``units``: ``views`` (V, 1, H, W) uint8 or uint16, ``target`` (V, 1, H/8, W/8) float32,
    ``marked`` (V,) bool, ``label`` (float, NaN where unknown), ``index`` in ``units``, and ``auxiliary``, what the
    auxiliary heads learn (see :meth:`targets`).

    ``boxes`` maps an image's key to the (n, 4) boxes of its malignant lesions in packed pixels; see
    :func:`packed_boxes`. A view is ``marked`` where the whole heat map of malignancy is known: its malignant lesions
    are boxed, or the unit is not malignant. A malignant breast's view without a box may hide the lesion anywhere.

    ``auxiliary``: targets of every image, as :func:`mammoflow.train.auxiliary.image_targets` makes them.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        images: PackedImages,
        boxes: dict[Key, np.ndarray] | None = None,
        auxiliary: dict[Key, dict[str, float]] | None = None,
    ) -> None:
        self.units, self.images, self.boxes, self.auxiliary = list(units), images, boxes or {}, auxiliary

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples, which a DataLoader asks for at once: their views lie one behind the other in memory."""
        views = read_frames(self.images, [key for index in indices for key in self.units[index].images])
        parts = views.split([len(self.units[index].images) for index in indices])
        return [self._sample(index, part) for index, part in zip(indices, parts, strict=True)]

    def _sample(self, index: int, views: torch.Tensor) -> Sample:
        unit, size = self.units[index], views.shape[-2:]
        return {
            "index": index,
            "views": views,
            "label": float("nan") if unit.label is None else float(unit.label),
            "target": torch.stack([rasterise(self.boxes.get(key), size) for key in unit.images]),
            "marked": torch.tensor([unit.label == int(key in self.boxes) for key in unit.images]),
            "auxiliary": self.targets(unit),
        }

    def targets(self, unit: Unit) -> dict[str, torch.Tensor]:
        """Of the auxiliary heads, by head: (1,) or, for a head that is taught by each view, (V,); NaN where unknown."""
        return bag_targets([self.auxiliary[key] for key in unit.images]) if self.auxiliary else {}

    def known(self) -> dict[str, int]:
        """How many known targets each auxiliary head has."""
        counts: Counter[str] = Counter()
        for unit in self.units:
            counts.update({name: int((~each.isnan()).sum()) for name, each in self.targets(unit).items()})
        return dict(counts)


def collate(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """A batch of B bags with N views in all.

    ``views`` (N, 1, H, W), ``bag`` (N,) number of each view's bag, ``label`` (B,) float32, ``index`` (B,),
    ``target`` (N, 1, H/8, W/8), ``marked`` (N,), ``auxiliary`` by head (B,) or (N,).
    """
    counts = torch.tensor([len(sample["views"]) for sample in samples])
    return {
        "views": collate_frames([sample["views"] for sample in samples]),
        "bag": torch.repeat_interleave(torch.arange(len(samples)), counts),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=torch.float32),
        "index": torch.tensor([sample["index"] for sample in samples]),
        "target": torch.cat([sample["target"] for sample in samples]),
        "marked": torch.cat([sample["marked"] for sample in samples]),
        "auxiliary": {
            name: torch.cat([sample["auxiliary"][name] for sample in samples]) for name in samples[0]["auxiliary"]
        },
    }


def split_bags(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """A batch of :func:`collate` cut between its bags into ``parts``, or as many as it has bags; their sizes differ by
    one bag at most."""
    bags = len(batch["label"])
    pieces = []
    for numbers in torch.arange(bags, device=batch["bag"].device).tensor_split(min(parts, bags)):
        first, size = numbers[0], len(numbers)
        mine = (batch["bag"] >= first) & (batch["bag"] < first + size)
        piece = {name: batch[name][mine] for name in ("views", "target", "marked")}
        piece |= {name: batch[name][numbers] for name in ("label", "index")}
        piece["bag"] = batch["bag"][mine] - first
        piece["auxiliary"] = {
            name: values[mine if HEADS[name].per_view else numbers] for name, values in batch["auxiliary"].items()
        }
        pieces.append(piece)
    return pieces


def rasterise(boxes: np.ndarray | None, size: tuple[int, int], stride: int = TARGET_STRIDE) -> torch.Tensor:
    """The share of each stride x stride cell that is covered by a box: (1, H/stride, W/stride) float32 in 0..1.

    ``boxes`` are (n, 4) half-open xmin, ymin, xmax, ymax in pixels of an image of ``size`` (H, W); None gives zeros.
    Of overlapping boxes the larger share counts.
    """
    height, width = size[0] // stride, size[1] // stride
    target = np.zeros((height, width), np.float32)
    for xmin, ymin, xmax, ymax in np.empty((0, 4)) if boxes is None else boxes:
        rows = _overlap(ymin, ymax, height, stride)
        columns = _overlap(xmin, xmax, width, stride)
        np.maximum(target, rows[:, None] * columns[None], out=target)
    return torch.from_numpy(target)[None]


def _overlap(low: float, high: float, cells: int, stride: int) -> np.ndarray:
    """Share of each of ``cells`` intervals of length ``stride`` that [low, high) covers."""
    starts = np.arange(cells) * stride
    return (np.clip(np.minimum(high, starts + stride) - np.maximum(low, starts), 0, stride) / stride).astype(np.float32)


def packed_boxes(
    findings: pd.DataFrame, images: PackedImages, keys: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], np.ndarray]:
    """Boxes of the malignant findings on the images ``keys``, in packed pixels; images without one are absent."""
    wanted = set(keys)
    corners = ["out_xmin", "out_ymin", "out_xmax", "out_ymax"]
    marked = findings[findings["label_malignant"] == 1].dropna(subset=corners)
    return {
        key: images.place(key, group[corners].to_numpy(np.float64))
        for key, group in marked.groupby(["dataset", "image_id"])
        if key in wanted
    }
