"""Heat maps of a few test images: where the models look."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mammoflow import files
from mammoflow.pack import PackedImages, member_name
from mammoflow.train.model import to_unit_range

MOST = 24


@torch.inference_mode()
def write_heatmaps(
    predictions: pd.DataFrame,
    images: PackedImages,
    heat_map: Callable[[torch.Tensor], torch.Tensor],
    kind: str,
    out: Path,
    device: torch.device,
) -> int:
    """Write at most :data:`MOST` heat maps of test images, malignant ones first, each group by falling score.

    ``out``/``<dataset>__<image_id>.png`` is 8-bit grey and covers exactly the working image (stretch it over it);
    ``out``/heatmaps.json lists them with score, label and kind. Kind ``localisation``: the probability of a marked
    lesion (255 is 1), where the run learned from boxes; ``segmentation``: of a suspicious class; else ``attention``:
    relative to the highest patch. ``heat_map``: from images (1, 1, H, W) in 0..1 to their map, the folds' mean.
    """
    test = predictions[(predictions["level"] == "image") & (predictions["split"] == "test")]
    chosen = test.sort_values(["label_malignant", "score", "unit_id"], ascending=[False, False, True]).head(MOST)
    places = images.index.set_index(["dataset", "image_id"])
    listed = []
    for row in chosen.itertuples():
        key = (row.dataset, row.image_id)
        views = torch.from_numpy(images[key])[None, None].to(device)
        heat = F.interpolate(heat_map(to_unit_range(views)), size=views.shape[-2:], mode="bilinear")[0, 0]
        name = f"{member_name(*key)}.png"
        pixels = (heat[images.content(key)].cpu().numpy() * 255).round().astype(np.uint8)
        with files.replacing(out / name) as handle:
            handle.write(cv2.imencode(".png", pixels)[1].tobytes())
        listed.append({
            "dataset": row.dataset,
            "image_id": row.image_id,
            "image_path": places.loc[key]["image_path"],
            "file": name,
            "kind": kind,
            "score": float(row.score),
            "label_malignant": None if pd.isna(row.label_malignant) else int(row.label_malignant),
        })  # fmt: skip
    files.write_json(out / "heatmaps.json", listed)
    return len(listed)
