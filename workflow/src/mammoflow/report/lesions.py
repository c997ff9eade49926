"""The page's part on marked lesions: FROC, overlap, and pictures with the truth's and the prediction's contours."""

import tarfile
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd

from mammoflow.features import categories
from mammoflow.imaging.geometry import Geometry
from mammoflow.lesions import CLASS_SETS, OUT_BOX
from mammoflow.outlines import box_ring, rings
from mammoflow.report import figures
from mammoflow.report.examples import thumbnail

if TYPE_CHECKING:
    from pathlib import Path

    from mammoflow.report.collect import Cohort, Run

CARDS = 8
GROUPS = {"lesion_size": "Size", "kind": "Kind", "dataset": "Archive"}
KINDS = {"other": "other kinds"}


def lesions_view(run: "Run", cohort: "Cohort | None", store: "Path") -> dict[str, Any] | None:
    """What the page says of a run's lesions; None where nothing was measured."""
    block = run.metrics.get("lesions") or {"reason": "not measured"}
    if block["reason"] or block["splits"]["test"]["reason"]:
        return None
    test = block["splits"]["test"]
    record = next((record for _, record in run.folds.values() if record), {})
    classes = record.get("settings", {}).get("segment", {}).get("classes")
    return {
        "segment": run.metrics.get("task") == "segment",
        "classes": CLASS_SETS.get(classes, ()),
        "test": test,
        "figure": figures.froc(test["curve"]),
        "groups": [
            {"title": title, "rows": [group for group in test["groups"] if group["column"] == column]}
            for column, title in GROUPS.items()
        ],
        "kinds": KINDS,
        "left_out": record.get("images_left_out"),
        "cards": [] if cohort is None else _cards(run, cohort, store),
    }


def _cards(run: "Run", cohort: "Cohort", store: "Path") -> list[dict[str, Any]]:
    """Test images with drawn lesions from the best to the worst mean Dice, evenly spaced: nobody's hand chose them."""
    if run.targets is None or not run.masks or run.mask_tar is None:
        return []
    test = run.targets[(run.targets["split"] == "test") & run.targets["dice"].notna()]
    means = test.groupby(["dataset", "image_id"])["dice"].mean().sort_values(ascending=False, kind="stable")
    picked = means.iloc[np.unique(np.linspace(0, len(means) - 1, min(CARDS, len(means))).round().astype(int))]
    images = cohort.manifest.set_index(["dataset", "image_id"])
    masks = _read_masks(run, [key for key in picked.index if key in run.masks])
    shown = []
    for key, dice in picked.items():
        image = images.loc[key]
        picture = thumbnail(store / image["image_path"])
        mask = masks.get(key)
        if picture is None or mask is None:
            continue
        size = int(image["out_width"]), int(image["out_height"])
        words = test[(test["dataset"] == key[0]) & (test["image_id"] == key[1])]
        shown.append({
            "picture": picture,
            "width": size[0],
            "height": size[1],
            "dice": float(dice),
            "truth": _truth(key, image, cohort.findings),
            "drawn": contours(mask, size),
            "what": ", ".join([key[0], *sorted(words["class_name"].dropna().unique())]),
        })  # fmt: skip
    return shown


def _read_masks(run: "Run", keys: list[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    """Class maps (h, w) uint8 of those images."""
    with tarfile.open(run.mask_tar) as tar:
        data = {key: tar.extractfile(run.masks[key]).read() for key in keys}
    return {key: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE) for key, png in data.items()}


def _truth(key: tuple[str, str], image: pd.Series, findings: pd.DataFrame) -> list[dict[str, str]]:
    """Outlines of the image's marked lesions as SVG points in working pixels."""
    marks = findings[(findings["dataset"] == key[0]) & (findings["image_id"] == key[1])].dropna(subset=OUT_BOX)
    geometry = Geometry.from_row(image)
    found = []
    for mark in marks.astype(object).where(marks.notna(), None).to_dict("records"):
        outline = rings(mark, geometry) if mark["points"] else None
        outline = outline or [box_ring([mark[name] for name in OUT_BOX])]
        named = ", ".join(categories(pd.Series([mark["finding_categories"]]))) or "lesion"
        found += [{"points": _points(ring), "name": named} for ring in outline]
    return found


def contours(mask: np.ndarray, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Contours of each class of a class map (h, w), as SVG points in an image of ``size`` (width, height)."""
    scale = np.array(size) / mask.shape[::-1]
    found = []
    for value in sorted(set(np.unique(mask).tolist()) - {0}):
        lines, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        found += [{"points": _points((line.reshape(-1, 2) + 0.5) * scale), "class": value} for line in lines]
    return found


def _points(ring: np.ndarray) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in ring)
