"""Score images, breasts and patients with the trained folds of a run.

Train rows get the score of the one model that never saw their patient (out of fold); val and test rows the mean
probability of all folds' models. A breast is scored over all its views together (unit breast) or by its highest image
(unit image), a patient by the higher breast.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from mammoflow import provenance, settings, tables
from mammoflow.errors import UserError
from mammoflow.pack import PackedImages
from mammoflow.train.common import ignore_signals, open_cohort, open_pack, say, set_threads, uses_cuda
from mammoflow.train.data import Units, collate
from mammoflow.train.heatmaps import learned_from_boxes, write_heatmaps
from mammoflow.train.model import BreastModel, normalise, to_unit_range
from mammoflow.train.units import Unit, build_units, shuffle_labels, unit_ids

# Keys of a run that must be the same in training and here.
MODEL_KEYS = ("cohort", "encoder", "image_size", "unit", "shuffle_labels")


@dataclass(frozen=True)
class FoldModel:
    """A trained fold: its model in evaluation mode, and what its train.json says."""

    fold: int
    model: BreastModel
    record: dict[str, Any]
    directory: Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow predict``."""
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--pack", type=Path, required=True, help="directory of the packed images")
    parser.add_argument("--folds", type=Path, nargs="+", required=True, help="directories of the trained folds")
    parser.add_argument("--settings", default="{}", help="JSON of the run's section of the configuration")
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--heatmaps", type=Path, help="directory for heat maps of a few test images")


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow predict``."""
    section = settings.parse_section("run", args.settings)
    set_threads(1)
    manifest, cohort_digest = open_cohort(args.cohort)
    images = open_pack(args.pack, manifest, section)
    device = torch.device("cuda" if uses_cuda(section) else "cpu")
    folds = load_folds(args.folds, section, cohort_digest, device)
    if section["shuffle_labels"]:
        manifest = shuffle_labels(manifest, folds[0].record["seed"])
    predictions = predict(manifest, images, folds, section, device)
    weights = {f"fold {fold.fold}": fold.directory / "weights.safetensors" for fold in folds}
    record = provenance.record(
        "predict", section, folds[0].record["seed"], args.cohort, weights, provenance.TRAINING_PACKAGES
    )
    predictions.attrs["reproduction"] = record  # pandas keeps it in the parquet file's own metadata
    tables.write(predictions, args.out)
    if args.heatmaps is not None:
        written = write_heatmaps(predictions, images, folds, args.heatmaps, device)
        say(f"{written} heat maps: {args.heatmaps}")
    counts = predictions.groupby("level").size()
    print(f"{counts['image']} images, {counts['breast']} breasts, {counts['patient']} patients: {args.out}")


def load_folds(
    directories: list[Path], section: dict[str, Any], cohort_digest: str, device: torch.device
) -> list[FoldModel]:
    """Load every fold, sorted. Raises UserError where one is unfinished, repeated, or of other settings or cohort."""
    folds = []
    for directory in directories:
        path = directory / "train.json"
        if not path.is_file():
            raise UserError(f"{path} does not exist: train this fold first")
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["cohort_digest"] != cohort_digest:
            raise UserError(f"{directory} was trained on another version of the cohort: train it again")
        for key in MODEL_KEYS:
            if record["settings"][key] != section[key]:
                raise UserError(
                    f"{directory} was trained with {key} {record['settings'][key]!r}, the run now says "
                    f"{section[key]!r}: train it again"
                )
        if folds and record["seed"] != folds[0].record["seed"]:
            raise UserError(f"{directory} was trained with another seed than {directories[0]}: train it again")
        model = BreastModel(section["encoder"])
        model.load_state_dict(load_file(directory / "weights.safetensors"))
        model = model.eval().to(device, memory_format=torch.channels_last)
        folds.append(FoldModel(record["fold"], model, record, directory))
    if len({fold.fold for fold in folds}) < len(folds):
        raise UserError("--folds names a fold twice")
    return sorted(folds, key=lambda fold: fold.fold)


def predict(
    manifest: pd.DataFrame,
    images: PackedImages,
    folds: list[FoldModel],
    section: dict[str, Any],
    device: torch.device,
) -> pd.DataFrame:
    """The ``predictions`` table for a cohort's participants. Raises UserError where a train fold has no model."""
    units = build_units(manifest, section["unit"])
    missing = {unit.fold for unit in units if unit.split == "train"} - {fold.fold for fold in folds}
    if missing:
        raise UserError(f"--folds lacks fold {min(missing)}: without its model those rows have no out-of-fold score")
    by_unit: dict[str, list[float]] = {}
    by_image: dict[str, list[View]] = {}
    for fold in folds:
        own = [unit for unit in units if unit.split != "train" or unit.fold == fold.fold]
        for unit, score, views in score_units(fold.model, own, images, section, device):
            by_unit.setdefault(unit.unit_id, []).append(score)
            for (dataset, image_id), view in zip(unit.images, views, strict=True):
                by_image.setdefault(f"{dataset}|{image_id}", []).append(view)

    means = pd.DataFrame({key: np.mean(views, axis=0) for key, views in by_image.items()}, index=View._fields).T
    keys = unit_ids(manifest, "image")
    rows = manifest.assign(score=keys.map(means["score"]))
    image_rows = rows.assign(unit_id=keys)
    if section["unit"] == "breast":  # an image that is a unit of its own has all the attention
        image_rows["attention"] = keys.map(means["attention"])
    if learned_from_boxes(folds):
        image_rows["score_roi"] = keys.map(means["score_roi"])
    breast_rows = _gather(rows, "breast", ["laterality"])
    if section["unit"] == "breast":
        breast_rows["score"] = breast_rows["unit_id"].map({key: np.mean(s) for key, s in by_unit.items()})
    scored = rows.assign(score=unit_ids(rows, "breast").map(breast_rows.set_index("unit_id")["score"]))
    levels = {"image": image_rows, "breast": breast_rows, "patient": _gather(scored, "patient", [])}
    frame = pd.concat([part.assign(level=level) for level, part in levels.items()], ignore_index=True)
    keep = [name for name in tables.PREDICTIONS if name in frame]
    frame = tables.finish("predictions", frame[keep])
    # Only an image row is about one image.
    frame.loc[frame["level"] != "image", ["image_id", "view_position"]] = pd.NA
    return frame


def _gather(rows: pd.DataFrame, level: str, extra: list[str]) -> pd.DataFrame:
    """One row per unit of ``level``: highest label and score, and what its images share."""
    shared = ["dataset", "patient_id", "group_id", "split", "fold", *extra]
    grouped = rows.assign(unit_id=unit_ids(rows, level)).groupby("unit_id", sort=True)
    return pd.concat([grouped[shared].first(), grouped[["label_malignant", "score"]].max()], axis=1).reset_index()


class View(NamedTuple):
    """What the model says of one image: probability of malignancy, its share of the unit's attention, and the highest
    probability in its heat map."""

    score: float
    attention: float
    score_roi: float


@torch.inference_mode()
def score_units(
    model: BreastModel, units: list[Unit], images: PackedImages, section: dict[str, Any], device: torch.device
) -> list[tuple[Unit, float, list[View]]]:
    """Each unit with its probability and what is said of its views."""
    loader = DataLoader(
        Units(units, images),
        batch_size=section["batch_size"],
        collate_fn=collate,
        num_workers=section["workers"],
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
    )
    scored = []
    for batch in loader:
        views = normalise(to_unit_range(batch["views"].to(device))).contiguous(memory_format=torch.channels_last)
        output = model(views, batch["bag"].to(device), len(batch["label"]))
        bags = torch.sigmoid(output.bags).tolist()
        hottest = output.heat.flatten(1).amax(1)
        told = torch.stack([torch.sigmoid(output.views), output.shares, torch.sigmoid(hottest)], dim=1).tolist()
        owners = batch["bag"].tolist()
        for number, index in enumerate(batch["index"].tolist()):
            mine = [View(*values) for values, owner in zip(told, owners, strict=True) if owner == number]
            scored.append((units[index], bags[number], mine))
    return scored
