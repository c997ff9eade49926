"""Heat maps of a few test images: where the models look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mammoflow import files
from mammoflow.pack import PackedImages, member_name
from mammoflow.train.model import normalise, to_unit_range

if TYPE_CHECKING:
    from mammoflow.train.predict import FoldModel

MOST = 24


def learned_from_boxes(folds: list[FoldModel]) -> bool:
    """Whether the heat maps of all folds mean the probability of a marked lesion."""
    return all(fold.record["images_with_boxes"] and fold.record["settings"]["localisation_weight"] for fold in folds)


@torch.inference_mode()
def write_heatmaps(
    predictions: pd.DataFrame, images: PackedImages, folds: list[FoldModel], out: Path, device: torch.device
) -> int:
    """Write at most :data:`MOST` heat maps of test images, malignant ones first, each group by falling score.

    ``out``/``<dataset>__<image_id>.png`` is 8-bit grey and covers exactly the working image (stretch it over it);
    ``out``/heatmaps.json lists them with score, label and kind. Kind ``localisation``: the probability of a marked
    lesion (255 is 1), where the run learned from boxes; else ``attention``: relative to the highest patch. Means over
    the folds.
    """
    learned = learned_from_boxes(folds)
    test = predictions[(predictions["level"] == "image") & (predictions["split"] == "test")]
    chosen = test.sort_values(["label_malignant", "score", "unit_id"], ascending=[False, False, True]).head(MOST)
    places = images.index.set_index(["dataset", "image_id"])
    listed = []
    for row in chosen.itertuples():
        key = (row.dataset, row.image_id)
        views = torch.from_numpy(images[key])[None, None].to(device)
        bag = torch.zeros(1, dtype=torch.int64, device=device)
        outputs = [fold.model(normalise(to_unit_range(views)), bag, 1) for fold in folds]
        maps = [torch.sigmoid(o.heat) if learned else o.attention / o.attention.max() for o in outputs]
        heat = F.interpolate(torch.stack(maps).mean(0), size=views.shape[-2:], mode="bilinear")[0, 0]
        place = places.loc[key]
        rows = slice(int(place["offset_y"]), int(place["offset_y"] + place["content_height"]))
        columns = slice(int(place["offset_x"]), int(place["offset_x"] + place["content_width"]))
        name = f"{member_name(*key)}.png"
        pixels = (heat[rows, columns].cpu().numpy() * 255).round().astype(np.uint8)
        with files.replacing(out / name) as handle:
            handle.write(cv2.imencode(".png", pixels)[1].tobytes())
        listed.append({
            "dataset": row.dataset,
            "image_id": row.image_id,
            "image_path": place["image_path"],
            "file": name,
            "kind": "localisation" if learned else "attention",
            "score": float(row.score),
            "label_malignant": None if pd.isna(row.label_malignant) else int(row.label_malignant),
        })  # fmt: skip
    files.write_json(out / "heatmaps.json", listed)
    return len(listed)
