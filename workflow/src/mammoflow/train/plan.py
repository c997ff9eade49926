"""What a fold is trained on: the samples of its task, and the learner for them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.data import Dataset

from mammoflow import lesions, tables
from mammoflow.errors import UserError
from mammoflow.pack import PackedImages
from mammoflow.train.auxiliary import HEADS, image_targets
from mammoflow.train.classifier import Classifier
from mammoflow.train.common import say
from mammoflow.train.data import Units, collate, packed_boxes
from mammoflow.train.module import Learner
from mammoflow.train.sampler import GlobalBatches
from mammoflow.train.segment_data import MarkedImages, collate_marked
from mammoflow.train.segmenter import Segmenter
from mammoflow.train.units import Unit, build_units


@dataclass(frozen=True)
class Plan:
    """``classes``: 0 or 1 per training sample, what a balanced sampler balances. ``facts``: for train.json."""

    train: Dataset
    val: Dataset
    classes: list[int]
    collate: Callable
    learner: type[Learner]
    noun: str
    sampler: str
    facts: dict[str, Any] = field(default_factory=dict)


def make_plan(
    manifest: pd.DataFrame, cohort: Path, images: PackedImages, section: dict[str, Any], fold: int, world_size: int
) -> Plan:
    """The plan of a run's task. ``manifest``: participants, pseudo-labelled rows included.

    Raises UserError where training would be impossible or meaningless.
    """
    findings = tables.read(cohort / "findings.parquet", "manifest_findings")
    known_folds = sorted(int(number) for number in manifest["fold"].dropna().unique())
    if fold not in known_folds:
        raise UserError(f"--fold {fold}: {cohort} has folds {', '.join(map(str, known_folds)) or 'none'}")
    make = _segment if section["task"] == "segment" else _classify
    plan = make(manifest, findings, images, section, fold, cohort)
    if len(plan.classes) < world_size:
        raise UserError(f"{cohort}: {len(plan.classes)} training samples cannot feed {world_size} processes")
    steps = GlobalBatches(plan.classes, section["batch_size"], world_size=world_size).steps
    parts = section["accumulate"]
    if section["task"] == "segment" and len(plan.classes) // steps // world_size // parts < 2:
        raise UserError(
            f"run.batch_size {section['batch_size']} leaves a process with a single image in some "
            f"{'step' if parts == 1 else f'part (accumulate {parts})'}, on which DeepLabV3+ cannot normalise: take "
            f"{4 * world_size * parts} or more"
        )
    return plan


def _classify(
    manifest: pd.DataFrame,
    findings: pd.DataFrame,
    images: PackedImages,
    section: dict[str, Any],
    fold: int,
    cohort: Path,
) -> Plan:
    """Units with a known label; the fold's own rows and the test split are never opened."""
    units = [unit for unit in build_units(manifest, section["unit"]) if unit.label is not None]
    train = [unit for unit in units if unit.split == "train" and unit.fold != fold]
    val = [unit for unit in units if unit.split == "val"]
    if not val:
        raise UserError(f"{cohort}: no labelled {section['unit']} in split val: raise cohort.splits.val")
    counts = _count(train)
    if min(counts.values()) == 0:
        raise UserError(
            f"{cohort}: outside fold {fold} the train split holds {counts['1']} malignant and {counts['0']} other "
            f"{section['unit']}s: training needs both"
        )
    boxes = packed_boxes(findings, images, [key for unit in train for key in unit.images])
    auxiliary = image_targets(manifest, section["auxiliary"]) if section["auxiliary"] else None
    samples = {"train": Units(train, images, boxes, auxiliary), "val": Units(val, images, auxiliary=auxiliary)}
    known = {split: one.known() for split, one in samples.items()}
    for name, count in known["train"].items():
        if count == 0:
            raise UserError(
                f"run.auxiliary.{name}: no {section['unit']} to train on outside fold {fold} has a known "
                f"{HEADS[name].column}: leave this head out"
            )
    return Plan(
        train=samples["train"],
        val=samples["val"],
        classes=[unit.label for unit in train],
        collate=collate,
        learner=Classifier,
        noun=section["unit"],
        sampler=section["sampler"],
        facts={
            "samples": {"train": counts, "val": _count(val)},
            "images_with_boxes": len(boxes),
            "auxiliary_known": known,
        },
    )


def _segment(
    manifest: pd.DataFrame,
    findings: pd.DataFrame,
    images: PackedImages,
    section: dict[str, Any],
    fold: int,
    cohort: Path,
) -> Plan:
    """Images on which every lesion is marked."""
    options = section["segment"]
    known = lesions.fully_marked(manifest, findings)
    rows = manifest[known]
    drawn = lesions.packed_lesions(rows, findings, images, options["classes"], options["boxes"])

    def samples(part: pd.DataFrame) -> MarkedImages:
        return MarkedImages(list(zip(part["dataset"], part["image_id"], strict=True)), images, drawn)

    outside = (rows["split"] == "train") & (rows["fold"] != fold).fillna(True)
    train, val = samples(rows[outside]), samples(rows[rows["split"] == "val"])
    classes = train.has_lesion()
    if options["sampling"] == "roi":  # a window around a lesion needs one
        train = samples(rows[outside][[bool(has) for has in classes]])
        classes = train.has_lesion()
    if not any(classes):
        raise UserError(
            f"{cohort}: outside fold {fold} no image of the train split shows a lesion of the class set "
            f"{options['classes']!r} that is marked{' by more than a box' if options['boxes'] == 'ignore' else ''}: "
            "segment needs an archive that marks lesions"
        )
    if not len(val):
        raise UserError(f"{cohort}: no image of split val has all its lesions marked: raise cohort.splits.val")
    every = [one for key in train.keys for one in drawn.get(key, ())]
    sampler = section["sampler"]
    if sampler == "balanced" and all(classes):
        if options["sampling"] != "roi":
            say("every training image shows a lesion: there is nothing to balance, each is taken once per epoch")
        sampler = "natural"
    left_out = int((~known & (manifest["split"] == "train").fillna(False)).sum())
    return Plan(
        train=train,
        val=val,
        classes=classes,
        collate=collate_marked,
        learner=Segmenter,
        noun="image",
        sampler=sampler,
        facts={
            "samples": {"train": _held(classes), "val": _held(val.has_lesion())},
            "lesions": dict(sorted(Counter(one.drawn for one in every).items())),
            "lesions_ignored": sum(one.value == lesions.IGNORE for one in every),
            "images_left_out": left_out,  # of train: a lesion may be there unmarked
        },
    )


def _count(units: list[Unit]) -> dict[str, int]:
    """Samples per label."""
    labels = Counter(unit.label for unit in units)
    return {"0": labels[0], "1": labels[1]}


def _held(classes: list[int]) -> dict[str, int]:
    return {"0": classes.count(0), "1": classes.count(1)}
