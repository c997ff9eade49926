"""Score images, breasts and patients with the trained folds of a run.

Train rows get the score of the one model that never saw their patient (out of fold); val and test rows the mean
probability of all folds' models. A breast is scored over all its views together (unit breast) or by its highest image
(unit image), a patient by the higher breast. A segmentation scores single images.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from mammoflow import lesions, provenance, settings, tables
from mammoflow.errors import UserError
from mammoflow.features import unit_key
from mammoflow.lesions import Key
from mammoflow.pack import PackedImages
from mammoflow.train.candidates import candidates
from mammoflow.train.classifier import Classifier
from mammoflow.train.common import (
    RECORD,
    WEIGHTS,
    FoldModel,
    ignore_signals,
    open_cohort,
    open_pack,
    say,
    set_threads,
    uses_cuda,
)
from mammoflow.train.data import Units, collate
from mammoflow.train.found import NAMES, Collector, Found
from mammoflow.train.heatmaps import write_heatmaps
from mammoflow.train.model import BreastModel, normalise, to_unit_range
from mammoflow.train.segment_predict import mean_map, segment
from mammoflow.train.segmenter import Segmenter
from mammoflow.train.units import Unit, build_units, shuffle_labels
from mammoflow.unit_labels import LABELS

# Keys of a run that must be the same in training and here.
MODEL_KEYS = ("task", "cohort", "encoder", "image_size", "unit", "shuffle_labels")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow predict``."""
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--pack", type=Path, required=True, help="directory of the packed images")
    parser.add_argument("--folds", type=Path, nargs="+", required=True, help="directories of the trained folds")
    parser.add_argument("--settings", default="{}", help="JSON of the run's section of the configuration")
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--heatmaps", type=Path, help="directory for heat maps of a few test images")
    parser.add_argument("--lesions", type=Path, help="directory for candidates, targets and overlaps")
    parser.add_argument("--masks", type=Path, help="segment: directory for masks.tar, the class maps of test images")


def run(args: argparse.Namespace) -> None:
    """Entry of ``mammoflow predict``."""
    section = settings.parse_section("run", args.settings)
    set_threads(1)
    manifest, cohort_digest = open_cohort(args.cohort)
    findings = tables.read(args.cohort / "findings.parquet", "manifest_findings")
    images = open_pack(args.pack, manifest, section)
    device = torch.device("cuda" if uses_cuda(section) else "cpu")
    folds = load_folds(args.folds, section, cohort_digest, device)
    if section["shuffle_labels"]:
        manifest = shuffle_labels(manifest, folds[0].record["seed"])
    check_folds(manifest, folds)
    if section["task"] == "segment":
        scores, found = segment(manifest, findings, images, folds, section, device, args.masks)
        by_image = {f"{dataset}|{image_id}": score for (dataset, image_id), score in scores.items()}
        predictions = by_level(manifest, pd.DataFrame({"score": by_image}))
    else:
        predictions, found = predict(manifest, images, folds, section, device, findings)
    weights = {f"fold {fold.fold}": fold.directory / WEIGHTS for fold in folds}
    record = provenance.record(
        "predict", section, folds[0].record["seed"], args.cohort, weights, provenance.TRAINING_PACKAGES
    )
    predictions.attrs["reproduction"] = record  # pandas keeps it in the parquet file's own metadata
    tables.write(predictions, args.out)
    if args.lesions is not None:
        for name, table in zip(NAMES, found, strict=True):
            tables.write(table, args.lesions / f"{name}.parquet")
    if args.heatmaps is not None:
        written = write_heatmaps(predictions, images, *heat_map(folds, section), args.heatmaps, device)
        say(f"{written} heat maps: {args.heatmaps}")
    counts = predictions.groupby("level").size()
    print(f"{counts['image']} images, {counts['breast']} breasts, {counts['patient']} patients: {args.out}")


def load_folds(
    directories: list[Path], section: dict[str, Any], cohort_digest: str, device: torch.device
) -> list[FoldModel]:
    """Load every fold, sorted. Raises UserError where one is unfinished, repeated, or of other settings or cohort."""
    folds = []
    for directory in directories:
        path = directory / RECORD
        if not path.is_file():
            raise UserError(f"{path} does not exist: train this fold first")
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["cohort_digest"] != cohort_digest:
            raise UserError(f"{directory} was trained on another version of the cohort: train it again")
        for key in (*MODEL_KEYS, *(["segment"] if section["task"] == "segment" else [])):
            if record["settings"][key] != section[key]:
                raise UserError(
                    f"{directory} was trained with {key} {record['settings'][key]!r}, the run now says "
                    f"{section[key]!r}: train it again"
                )
        if folds and record["seed"] != folds[0].record["seed"]:
            raise UserError(f"{directory} was trained with another seed than {directories[0]}: train it again")
        folds.append(load_fold(directory, record, device))
    if len({fold.fold for fold in folds}) < len(folds):
        raise UserError("--folds names a fold twice")
    return sorted(folds, key=lambda fold: fold.fold)


def load_fold(directory: Path, record: dict[str, Any], device: torch.device) -> FoldModel:
    """One trained fold. ``record``: its train.json. Raises UserError where the weights cannot be read."""
    learner = Segmenter if record["settings"]["task"] == "segment" else Classifier
    section = settings.resolve_section("run", record["settings"])  # of an older version: without the newest keys
    model = learner.build(section, pretrained=False)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except SafetensorError as error:
        raise UserError(f"{directory / WEIGHTS} is damaged ({error}): train this fold again") from error
    model = model.eval().to(device, memory_format=torch.channels_last)
    return FoldModel(record["fold"], model, record, directory)


def check_folds(manifest: pd.DataFrame, folds: list[FoldModel]) -> None:
    """Raise UserError where a train fold has no model."""
    wanted = set(manifest.loc[manifest["split"] == "train", "fold"].dropna())
    missing = wanted - {fold.fold for fold in folds}
    if missing:
        raise UserError(f"--folds lacks fold {min(missing)}: without its model those rows have no out-of-fold score")


def predict(
    manifest: pd.DataFrame,
    images: PackedImages,
    folds: list[FoldModel],
    section: dict[str, Any],
    device: torch.device,
    findings: pd.DataFrame,
) -> tuple[pd.DataFrame, Found]:
    """The ``predictions`` of a classification for a cohort's participants, and what its heat maps find.

    Without marked lesions in training the heat maps mean nothing, and nothing is found.
    """
    units = build_units(manifest, section["unit"])
    learned = learned_from_boxes(folds) and not section["shuffle_labels"]
    by_unit: dict[str, list[float]] = {}
    by_image: dict[str, list[View]] = {}
    heat: dict[Key, list[np.ndarray]] = {}
    for fold in folds:
        own = [unit for unit in units if unit.split != "train" or unit.fold == fold.fold]
        for scored in score_units(fold.model, own, images, section, device):
            by_unit.setdefault(scored.unit.unit_id, []).append(scored.score)
            for (dataset, image_id), view, cells in zip(scored.unit.images, scored.views, scored.heat, strict=True):
                by_image.setdefault(f"{dataset}|{image_id}", []).append(view)
                if learned:
                    heat.setdefault((dataset, image_id), []).append(cells)
    told = pd.DataFrame({key: np.mean(views, axis=0) for key, views in by_image.items()}, index=View._fields).T
    if section["unit"] != "breast":  # an image that is a unit of its own has all the attention
        told = told.drop(columns="attention")
    if not learned_from_boxes(folds):
        told = told.drop(columns="score_roi")
    breasts = {key: float(np.mean(values)) for key, values in by_unit.items()} if section["unit"] == "breast" else None
    return by_level(manifest, told, breasts), localise(manifest, findings, images, heat)


def localise(
    manifest: pd.DataFrame, findings: pd.DataFrame, images: PackedImages, heat: dict[Key, list[np.ndarray]]
) -> Found:
    """Candidates of heat maps of malignancy, beside the marked lesions. ``heat``: maps (h, w) of each image."""
    known = lesions.fully_marked(manifest, findings)
    marked = set(zip(manifest.loc[known, "dataset"], manifest.loc[known, "image_id"], strict=True))
    # A heat map knows no class: any set that takes every lesion will do.
    drawn = lesions.packed_lesions(manifest, findings, images, "lesion") if heat else {}
    collector = Collector(manifest, images, drawn, None)
    for key, maps in heat.items():
        mean = np.mean(np.asarray(maps, np.float32), axis=0)
        collector.add(key, candidates(mean), mean.shape, measured=key in marked)
    return collector.finish()


def learned_from_boxes(folds: list[FoldModel]) -> bool:
    """Whether the heat maps were learned from marked lesions."""
    return all(fold.record["images_with_boxes"] and fold.record["settings"]["localisation_weight"] for fold in folds)


def heat_map(folds: list[FoldModel], section: dict[str, Any]) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """A function from images (1, 1, H, W) in 0..1 to their mean heat map (1, 1, h, w) in 0..1, and its kind."""
    if section["task"] == "segment":
        suspicious = list(lesions.SUSPICIOUS[section["segment"]["classes"]])
        return lambda views: mean_map(folds, views, section)[:, suspicious].sum(1, keepdim=True), "segmentation"
    learned = learned_from_boxes(folds)

    def heat(views: torch.Tensor) -> torch.Tensor:
        bag = torch.zeros(1, dtype=torch.int64, device=views.device)
        outputs = [fold.model(normalise(views), bag, 1) for fold in folds]
        maps = [torch.sigmoid(one.heat) if learned else one.attention / one.attention.max() for one in outputs]
        return torch.stack(maps).mean(0)

    return heat, "localisation" if learned else "attention"


def by_level(manifest: pd.DataFrame, images: pd.DataFrame, breasts: dict[str, float] | None = None) -> pd.DataFrame:
    """The ``predictions`` table from ``score`` and further columns of images and, where they were scored as one, the
    scores of breasts, both by unit_id."""
    keys = unit_key(manifest, "image")
    rows = manifest.assign(score=keys.map(images["score"]))
    image_rows = rows.assign(unit_id=keys, **{name: keys.map(images[name]) for name in images.columns})
    breast_rows = _gather(rows, "breast", ["study_id", "laterality"])
    if breasts is not None:
        breast_rows["score"] = breast_rows["unit_id"].map(breasts)
    scored = rows.assign(score=unit_key(rows, "breast").map(breast_rows.set_index("unit_id")["score"]))
    levels = {"image": image_rows, "breast": breast_rows, "patient": _gather(scored, "patient", [])}
    frame = pd.concat([part.assign(level=level) for level, part in levels.items()], ignore_index=True)
    keep = [name for name in tables.PREDICTIONS if name in frame]
    frame = tables.finish("predictions", frame[keep])
    # Only an image row is about one image.
    frame.loc[frame["level"] != "image", ["image_id", "view_position"]] = pd.NA
    return frame


def _gather(rows: pd.DataFrame, level: str, extra: list[str]) -> pd.DataFrame:
    """One row per unit of ``level``: its label, its images' highest score, and what they share."""
    shared = ["dataset", "patient_id", "group_id", "split", "fold", *extra]
    grouped = rows.assign(unit_id=unit_key(rows, level)).groupby("unit_id", sort=True)
    columns = {"label_malignant": LABELS[level], "score": "score"}
    return grouped[shared].first().assign(**{to: grouped[name].max() for to, name in columns.items()}).reset_index()


class View(NamedTuple):
    """What the model says of one image: probability of malignancy, its share of the unit's attention, and the highest
    probability in its heat map."""

    score: float
    attention: float
    score_roi: float


class Scored(NamedTuple):
    """A unit's probability, what is said of its views, and each view's heat map (h, w) float16 of probabilities."""

    unit: Unit
    score: float
    views: list[View]
    heat: np.ndarray


@torch.inference_mode()
def score_units(
    model: BreastModel, units: list[Unit], images: PackedImages, section: dict[str, Any], device: torch.device
) -> list[Scored]:
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
        heat = torch.sigmoid(output.heat)[:, 0].half().cpu().numpy()
        owners = batch["bag"].numpy()
        for number, index in enumerate(batch["index"].tolist()):
            mine = np.flatnonzero(owners == number)
            scored.append(Scored(units[index], bags[number], [View(*told[view]) for view in mine], heat[mine]))
    return scored
