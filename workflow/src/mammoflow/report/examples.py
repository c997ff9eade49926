"""Example images: what the model called right and wrong, with the marked lesions."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

# (title, is malignant, is called, most telling first: highest or lowest score)
KINDS = [
    ("True positives", 1, True, False),
    ("False positives", 0, True, False),
    ("False negatives", 1, False, True),
    ("True negatives", 0, False, True),
]
PER_KIND = 4
THUMBNAIL_PX = 300
JPEG_QUALITY = 82
HEAT_CARDS = 8
HEAT_BGR = (20, 120, 255)
HEAT_OPACITY = 0.7


def pick(predictions: pd.DataFrame, threshold: float) -> list[tuple[str, pd.DataFrame]]:
    """Test images by kind, the most confident first, at most one per patient: no hand has chosen them."""
    test = predictions[(predictions["level"] == "image") & (predictions["split"] == "test")]
    test = test[test["label_malignant"].notna()]
    chosen = []
    for title, label, called, ascending in KINDS:
        rows = test[(test["label_malignant"] == label) & ((test["score"] >= threshold) == called)]
        rows = rows.sort_values(["score", "unit_id"], ascending=[ascending, True]).drop_duplicates("group_id")
        chosen.append((title, rows.head(PER_KIND)))
    return chosen


def cards(
    predictions: pd.DataFrame,
    threshold: float,
    manifest: pd.DataFrame,
    findings: pd.DataFrame,
    store: Path,
    listed: list[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Groups of cards for the page: picture as data URI, lesion boxes in its pixels, score, and what the image is.

    ``listed``: heat maps; a card whose image has one carries it as ``heat``.
    """
    maps = {(row["dataset"], row["image_id"]): row["file"] for row in listed}
    images = manifest.set_index(["dataset", "image_id"])
    groups = []
    for title, rows in pick(predictions, threshold):
        shown = []
        for row in rows.itertuples():
            key = (row.dataset, row.image_id)
            card = _card(*key, row.score, images.loc[key], findings, store)
            heat = overlay(maps[key]) if key in maps and card["picture"] else None
            shown.append({**card, "heat": heat} if heat else card)
        groups.append({"title": title, "cards": shown})
    return groups


def heat_cards(
    listed: list[dict[str, Any]], manifest: pd.DataFrame, findings: pd.DataFrame, store: Path
) -> list[dict[str, Any]]:
    """Cards of the first heat maps that have both pictures; the heat lies over the image as a second data URI."""
    images = manifest.set_index(["dataset", "image_id"])
    shown = []
    for row in listed:
        key = (row["dataset"], row["image_id"])
        if key not in images.index or len(shown) == HEAT_CARDS:
            continue
        card = _card(*key, row["score"], images.loc[key], findings, store)
        heat = overlay(row["file"])
        if card["picture"] and heat:
            shown.append({**card, "heat": heat, "kind": row["kind"], "malignant": row["label_malignant"] == 1})
    return shown


def _card(
    dataset: str, image_id: str, score: float, image: pd.Series, findings: pd.DataFrame, store: Path
) -> dict[str, Any]:
    marks = findings[(findings["dataset"] == dataset) & (findings["image_id"] == image_id)]
    marks = marks.dropna(subset=["out_xmin", "out_ymin", "out_xmax", "out_ymax"])
    side_view = f"{_word(image['laterality'])} {_word(image['view_position'])}".strip()
    words = [dataset, side_view, _word(image["breast_density"]).replace("DENSITY", "density")]
    return {
        "picture": thumbnail(store / image["image_path"]) if pd.notna(image["image_path"]) else None,
        "width": image["out_width"],
        "height": image["out_height"],
        "boxes": [_box(mark) for mark in marks.itertuples()],
        "score": float(score),
        "what": ", ".join(word for word in words if word),
    }


def overlay(path: Path) -> str | None:
    """An 8-bit heat map as a transparent orange PNG, data URI; None where the file is not there."""
    heat = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if heat is None:
        return None
    scale = THUMBNAIL_PX / 2 / max(heat.shape)
    if scale < 1:
        heat = cv2.resize(heat, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels = np.empty((*heat.shape, 4), np.uint8)
    pixels[..., :3] = HEAT_BGR
    pixels[..., 3] = (HEAT_OPACITY * heat).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()


def thumbnail(path: Path) -> str | None:
    """A small 8-bit JPEG of a PNG as data URI; None where the file is not there."""
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if stored is None:
        return None
    grey = (stored >> 8).astype(np.uint8) if stored.dtype == np.uint16 else stored
    scale = THUMBNAIL_PX / max(grey.shape[:2])
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _box(mark: Any) -> dict[str, Any]:
    malignant = pd.notna(mark.label_malignant) and mark.label_malignant == 1
    return {
        "x": mark.out_xmin,
        "y": mark.out_ymin,
        "width": mark.out_xmax - mark.out_xmin,
        "height": mark.out_ymax - mark.out_ymin,
        "kind": "malignant" if malignant else "other",
    }


def _word(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
