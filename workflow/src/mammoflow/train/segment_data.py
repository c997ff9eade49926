"""Segmentation's samples: a whole packed image and its class map, small integers until they reach the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mammoflow.lesions import IGNORE, Key, Lesion, class_map
from mammoflow.pack import PackedImages
from mammoflow.train.frames import collate_frames, read_frames


class MarkedImages(Dataset[dict[str, Any]]):
    """Samples of ``keys``: ``views`` (1, 1, H, W) uint8 or uint16, ``mask`` (1, H, W) uint8 (see
    :func:`mammoflow.lesions.class_map`) and ``index``."""

    def __init__(self, keys: Sequence[Key], images: PackedImages, lesions: dict[Key, list[Lesion]]) -> None:
        self.keys, self.images, self.lesions = list(keys), images, lesions

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples, which a DataLoader asks for at once: their views lie one behind the other in memory."""
        views = read_frames(self.images, [self.keys[index] for index in indices])
        return [
            {"views": part, "mask": torch.from_numpy(self._class_map(index, part.shape[-2:]))[None], "index": index}
            for index, part in zip(indices, views.split(1), strict=True)
        ]

    def _class_map(self, index: int, size: tuple[int, int]) -> np.ndarray:
        return class_map(self.lesions.get(self.keys[index], ()), tuple(size))

    def has_lesion(self) -> list[int]:
        """1 for each image that has a lesion of a class to learn, else 0: what a balanced draw balances."""
        return [int(any(one.value != IGNORE for one in self.lesions.get(key, ()))) for key in self.keys]


def collate_marked(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """``views`` (N, 1, H, W), ``mask`` (N, H, W), ``index`` (N,)."""
    return {
        "views": collate_frames([sample["views"] for sample in samples]),
        "mask": torch.cat([sample["mask"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
    }


def split_images(batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """A batch of :func:`collate_marked` cut into ``parts``, or as many as it has images."""
    count = min(parts, len(batch["views"]))
    pieces = {name: values.tensor_split(count) for name, values in batch.items()}
    return [{name: pieces[name][number] for name in batch} for number in range(count)]


def shares(mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Class shares (N, classes, H, W) float, and validity (N, 1, H, W) float, of class maps (N, H, W) uint8.

    Pixels to ignore have validity 0; in the shares they count as background.
    """
    valid = mask != IGNORE
    known = torch.where(valid, mask, 0).long()
    onehot = torch.nn.functional.one_hot(known, classes).permute(0, 3, 1, 2).float()
    return onehot, valid[:, None].float()


def lesion_pixels(mask: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Where a class map holds a class to learn."""
    return (mask != 0) & (mask != IGNORE)
