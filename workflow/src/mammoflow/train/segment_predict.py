"""Scoring with a segmentation: masks, lesion candidates, and scores of images, breasts and patients from them.

An image's score is that of its highest candidate: the mean probability of the hottest quarter of a region, for the
classes that a set counts as suspicious (the malignant ones where it knows them).
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mammoflow import files, lesions
from mammoflow.lesions import CLASS_SETS, IGNORE, SUSPICIOUS, Key, Lesion
from mammoflow.outlines import fill
from mammoflow.pack import PackedImages, member_name
from mammoflow.train.candidates import Candidate, candidates
from mammoflow.train.common import FoldModel, ignore_signals
from mammoflow.train.found import Collector, Found, pixel_counts
from mammoflow.train.model import to_unit_range
from mammoflow.train.segment_data import MarkedImages, collate_marked
from mammoflow.train.segmenter import decide, whole_image
from mammoflow.train.windows import window_at


@torch.inference_mode()
def segment(
    manifest: pd.DataFrame,
    findings: pd.DataFrame,
    images: PackedImages,
    folds: list[FoldModel],
    section: dict[str, Any],
    device: torch.device,
    masks: Path | None,
) -> tuple[dict[Key, float], Found]:
    """Scores by image, and what was found. Writes the class maps of test images to ``masks``, as :class:`MaskTar`."""
    options = section["segment"]
    classes, names = options["classes"], CLASS_SETS[options["classes"]]
    known = lesions.fully_marked(manifest, findings)
    marked = set(zip(manifest.loc[known, "dataset"], manifest.loc[known, "image_id"], strict=True))
    drawn = lesions.packed_lesions(manifest, findings, images, classes, options["boxes"])
    collector = Collector(manifest, images, drawn, classes)
    scores: dict[Key, float] = {}
    with MaskTar(masks, names) if masks is not None else nullcontext() as tar:
        for key, split, probability, truth, models in _maps(manifest, images, drawn, folds, section, device):
            suspicious = probability[list(SUSPICIOUS[classes])].sum(0)
            predicted = decide(torch.from_numpy(probability)[None])[0].numpy().astype(np.uint8)
            found = candidates(suspicious)
            scores[key] = found[0].score
            facts: dict[str, Any] = {"class_names": [names[_class_of(one, probability) - 1] for one in found]}
            if key in marked:
                dice = lesion_dice(predicted, drawn.get(key, []), truth)
                if options["sampling"] == "roi":
                    seen = _dice_in_windows(key, drawn.get(key, []), images, models, options, device)
                    for finding, value in seen.items():
                        dice[finding]["dice_roi"] = value
                facts |= {"pixels": pixel_counts(predicted, truth, names), "dice": dice}
            collector.add(key, found, suspicious.shape, measured=key in marked, **facts)
            if tar is not None and split == "test":
                tar.add(key, predicted[images.content(key)])
    return scores, collector.finish()


def _maps(
    manifest: pd.DataFrame,
    images: PackedImages,
    drawn: dict[Key, list[Lesion]],
    folds: list[FoldModel],
    section: dict[str, Any],
    device: torch.device,
) -> Iterator[tuple[Key, str, NDArray, NDArray, list[FoldModel]]]:
    """Each image's key, split, class probabilities (K, H, W), class map, and the folds that made the probabilities:
    its own for a train row, which never saw its patient, else all."""
    by_fold = {fold.fold: fold for fold in folds}
    fold_of = manifest["fold"].where(manifest["split"] == "train")
    for number, rows in manifest.groupby(fold_of.fillna(-1)):
        models = folds if number == -1 else [by_fold[int(number)]]
        keys = list(zip(rows["dataset"], rows["image_id"], strict=True))
        splits = rows["split"].tolist()
        loader = DataLoader(
            MarkedImages(keys, images, drawn),
            batch_size=section["batch_size"],
            collate_fn=collate_marked,
            num_workers=section["workers"],
            worker_init_fn=ignore_signals,
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            views = to_unit_range(batch["views"].to(device))
            probability = mean_map(models, views, section).cpu().numpy()
            for place, index in enumerate(batch["index"].tolist()):
                yield keys[index], splits[index], probability[place], batch["mask"][place].numpy(), models


def mean_map(folds: list[FoldModel], views: Tensor, section: dict[str, Any]) -> Tensor:
    """Class probabilities (N, K, H, W) of images in 0..1, mean over the folds."""
    return torch.stack([whole_image(fold.model, views, section["segment"]) for fold in folds]).mean(0)


def _class_of(candidate: Candidate, probability: NDArray) -> int:
    """The most probable lesion class of a region."""
    return 1 + int(probability[(slice(1, None), *candidate.region)].sum(1).argmax())


def lesion_dice(predicted: NDArray, marked: list[Lesion], truth: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """finding_id -> ``dice`` of each lesion that has a class, 0 where nothing touches it.

    A lesion is compared with the predicted regions (of any lesion class) that touch it, without what of them lies on
    another lesion or on pixels to ignore.
    """
    _, regions = cv2.connectedComponents((predicted > 0).astype(np.uint8), connectivity=8)
    found = {}
    for lesion in marked:
        if lesion.value == IGNORE:
            found[lesion.finding_id] = {}
            continue
        own = _pixels(lesion, predicted.shape)
        others = (truth > 0) & ~own
        touching = np.unique(regions[own & (regions > 0)])
        region = np.isin(regions, touching) & (regions > 0) & ~others
        size = int(own.sum()) + int(region.sum())
        found[lesion.finding_id] = {"dice": 2 * int((own & region).sum()) / size if size else 0.0}
    return found


def _dice_in_windows(
    key: Key,
    marked: list[Lesion],
    images: PackedImages,
    folds: list[FoldModel],
    options: dict[str, Any],
    device: torch.device,
) -> dict[str, float]:
    """finding_id -> Dice when the network sees a window about the lesion: its place is given, its shape is not."""
    views = to_unit_range(torch.from_numpy(images[key])[None, None].to(device))
    truth = lesions.class_map(marked, images.image_size)
    found = {}
    for lesion in marked:
        if lesion.value == IGNORE:
            continue
        x, y = np.concatenate(lesion.outline).min(0) / 2 + np.concatenate(lesion.outline).max(0) / 2
        place = window_at(views, x, y, tuple(options["window"]))
        seen = [whole_image(fold.model, views[(..., *place)], {**options, "sampling": "image"}) for fold in folds]
        predicted = np.zeros(images.image_size, np.uint8)
        predicted[place] = decide(torch.stack(seen).mean(0))[0].cpu().numpy()
        outside = np.full(images.image_size, IGNORE, np.uint8)
        outside[place] = truth[place]
        found |= {lesion.finding_id: lesion_dice(predicted, [lesion], outside)[lesion.finding_id]["dice"]}
    return found


def _pixels(lesion: Lesion, size: tuple[int, int]) -> NDArray[np.bool_]:
    pixels = np.zeros(size, bool)
    place, share = fill(size, lesion.outline)
    if share.size:
        pixels[place] = share >= min(0.5, float(share.max()))
    return pixels


class MaskTar:
    """Writes class maps into ``directory``/masks.tar as ``<dataset>__<image_id>.png``, and their list to masks.json.

    8-bit class indices that cover exactly the working image: stretch them over it, without interpolation. One file, for
    a file system pays per file. Both appear when the block ends well.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self.directory, self.names = directory, names
        self.listed: list[dict[str, str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "MaskTar":
        handle = self._stack.enter_context(files.replacing(self.directory / "masks.tar"))
        self.tar = self._stack.enter_context(tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None:
            listed = {"classes": ["background", *self.names], "images": self.listed}
            files.write_json(self.directory / "masks.json", listed)

    def add(self, key: Key, classes: NDArray[np.uint8]) -> None:
        """One image's class map (h, w)."""
        data = cv2.imencode(".png", np.ascontiguousarray(classes))[1].tobytes()
        member = tarfile.TarInfo(f"{member_name(*key)}.png")
        member.size = len(data)
        self.tar.addfile(member, io.BytesIO(data))
        self.listed.append({"dataset": key[0], "image_id": key[1], "file": member.name})
