"""Train one fold of a run: read top to bottom, this file is the whole training.

The same command runs as one process or as each of several under ``torchrun``, on one node or many. It goes on from
``checkpoints/last.ckpt`` where one of the same settings, fold, seed and cohort lies.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader

from mammoflow import __version__, files, provenance, settings, tables
from mammoflow.errors import UserError
from mammoflow.train.common import ignore_signals, open_cohort, open_pack, quieten, say, set_threads, uses_cuda
from mammoflow.train.data import Units, collate, packed_boxes
from mammoflow.train.module import Classifier
from mammoflow.train.recorder import BEST, LAST, InterruptedTraining, Recorder
from mammoflow.train.sampler import GlobalBatches, RankShare
from mammoflow.train.units import Unit, build_units, shuffle_labels

GRADIENT_CLIP = 1.0  # norm
PREFETCH = 4  # batches per loader process
INTERRUPTED = 143  # exit status after a signal: not 0, so that a workflow tries again
# What may change between a checkpoint and its resumption: it decides who computes, not what.
WHERE_NOT_WHAT = ("processes", "workers", "accelerator", "fuse", "evaluate", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow train``."""
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--fold", type=int, required=True, help="fold that is left out of training")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--pack", type=Path, required=True, help="directory of the packed images")
    parser.add_argument("--settings", default="{}", help="JSON of the run's section of the configuration")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory for weights, metrics and checkpoints")


@record  # torchrun then shows the first failing process's traceback
def run(args: argparse.Namespace) -> int:
    """Entry of ``mammoflow train``."""
    section = settings.parse_section("run", args.settings)
    try:
        train(args.name, args.fold, args.cohort, args.pack, section, args.seed, args.out)
    except InterruptedTraining as reason:
        say(f"mammoflow train: {reason}")
        return INTERRUPTED
    return 0


def train(name: str, fold: int, cohort: Path, pack: Path, section: dict[str, Any], seed: int, out: Path) -> None:
    """Fit a model on the train rows outside ``fold``; keep the weights that do best on the cohort's ``val`` split.

    Writes ``out``/weights.safetensors (moving average of the weights), metrics.csv and, last, train.json. Raises
    UserError where the cohort cannot be trained on, InterruptedTraining after SIGTERM or SIGUSR1.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    quieten()
    set_threads(local_world_size)
    if section["batch_size"] % world_size:
        raise UserError(f"run.batch_size {section['batch_size']} cannot be shared by {world_size} processes equally")

    # Data: units with a known label; the fold's own rows and the test split are never opened.
    manifest, cohort_digest = open_cohort(cohort)
    if section["shuffle_labels"]:
        manifest = shuffle_labels(manifest, seed)
    images = open_pack(pack, manifest, section)
    units = [unit for unit in build_units(manifest, section["unit"]) if unit.label is not None]
    train_units = [unit for unit in units if unit.split == "train" and unit.fold != fold]
    val_units = [unit for unit in units if unit.split == "val"]
    check_units(train_units, val_units, units, fold, cohort, section, world_size)
    findings = tables.read(cohort / "findings.parquet", "manifest_findings")
    boxes = packed_boxes(findings, images, [key for unit in train_units for key in unit.images])

    # Loaders: the sampler knows the processes, so Lightning must not add one of its own.
    batches = GlobalBatches(
        [unit.label for unit in train_units],
        section["batch_size"],
        mode=section["sampler"],
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    loading = {
        "collate_fn": collate,
        "num_workers": section["workers"],
        "persistent_workers": section["workers"] > 0,
        "prefetch_factor": PREFETCH if section["workers"] else None,
        "pin_memory": uses_cuda(section),
        "worker_init_fn": ignore_signals,
    }
    train_loader = DataLoader(Units(train_units, images, boxes), batch_sampler=batches, **loading)
    share = RankShare(len(val_units), rank, world_size)
    val_loader = DataLoader(
        Units(val_units, images), batch_size=section["batch_size"] // world_size, sampler=share, **loading
    )

    # Model, and where the last attempt got to.
    digest = settings_digest(section, fold, seed, cohort_digest)
    module = Classifier(section, steps=len(batches), seed=seed)
    recorder = Recorder(out, digest, section["patience"])
    checkpoint = find_checkpoint(out / "checkpoints" / LAST, digest)
    if checkpoint is not None:
        step = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        batches.resume(*divmod(step, len(batches)))
        say(f"{name} fold {fold}: goes on after {step} steps ({step // len(batches)} whole epochs)")
    else:
        say(f"{name} fold {fold}: {len(train_units)} {section['unit']}s to train, {len(val_units)} to validate")

    # Fit.
    distributed = DDPStrategy(
        process_group_backend="nccl" if uses_cuda(section) else "gloo",
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # a collective in every forward would hang where validation shares differ in length
        find_unused_parameters=module.model.keeps_unused_parts,
    )
    trainer = L.Trainer(
        accelerator="cuda" if uses_cuda(section) else "cpu",
        devices=local_world_size,
        num_nodes=world_size // local_world_size,
        strategy=distributed if world_size > 1 else "auto",
        # Named, so that Lightning does not requeue the SLURM job by itself when it finds one around it.
        plugins=[TorchElasticEnvironment() if world_size > 1 else LightningEnvironment()],
        precision="bf16-mixed" if section["precision"] == "bf16" else "32-true",
        max_epochs=section["epochs"],
        gradient_clip_val=GRADIENT_CLIP,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=rank == 0 and sys.stderr.isatty(),
        callbacks=[recorder, *([RichProgressBar()] if rank == 0 and sys.stderr.isatty() else [])],
        default_root_dir=out,
    )
    if rank == 0:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        (out / "train.json").unlink(missing_ok=True)
    trainer.fit(module, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)

    # Results; train.json last, as the sign that all is there.
    if not trainer.is_global_zero:
        return
    best = recorder.best
    by_auc = best["val_auc"] == best["val_auc"]
    if not by_auc:
        say(f"{name} fold {fold}: validation holds a single class, so the validation loss chose the epoch")
    with files.replacing(out / "weights.safetensors") as target, (out / "checkpoints" / BEST).open("rb") as source:
        shutil.copyfileobj(source, target)
    files.write_json(
        out / "train.json",
        {
            "run": name,
            "fold": fold,
            "settings": section,
            "settings_digest": digest,
            "cohort_digest": cohort_digest,
            "reproduction": provenance.record("train", section, seed, cohort, packages=provenance.TRAINING_PACKAGES),
            "seed": seed,
            "versions": {
                "mammoflow": __version__,
                "torch": torch.__version__,
                "timm": version("timm"),
                "lightning": L.__version__,
            },
            "device": torch.cuda.get_device_name() if uses_cuda(section) else "cpu",
            "world_size": world_size,
            "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
            "samples": {"train": count(train_units), "val": count(val_units)},
            "images_with_boxes": len(boxes),
            "epochs_run": len(recorder.rows),
            "best_epoch": best["epoch"],
            "best_val_auc": best["val_auc"] if by_auc else None,
            "best_val_loss": best["val_loss"],
            "selected_by": "val_auc" if by_auc else "val_loss",
        },
    )


def check_units(
    train_units: list[Unit],
    val_units: list[Unit],
    units: list[Unit],
    fold: int,
    cohort: Path,
    section: dict[str, Any],
    world_size: int,
) -> None:
    """Raise UserError where training would be impossible or meaningless."""
    folds = sorted({unit.fold for unit in units if unit.fold is not None})
    if fold not in folds:
        raise UserError(f"--fold {fold}: {cohort} has folds {', '.join(map(str, folds)) or 'none'}")
    if not val_units:
        raise UserError(f"{cohort}: no labelled {section['unit']} in split val: raise cohort.splits.val")
    counts = count(train_units)
    if min(counts.values()) == 0:
        raise UserError(
            f"{cohort}: outside fold {fold} the train split holds {counts['1']} malignant and {counts['0']} other "
            f"{section['unit']}s: training needs both"
        )
    if len(train_units) < world_size:
        raise UserError(f"{cohort}: {len(train_units)} training samples cannot feed {world_size} processes")


def settings_digest(section: dict[str, Any], fold: int, seed: int, cohort_digest: str) -> str:
    """Names everything that decides the weights; a checkpoint of another digest is not resumed."""
    what = {key: value for key, value in section.items() if key not in WHERE_NOT_WHAT}
    return settings.recipe("train", {"settings": what, "fold": fold, "seed": seed, "cohort": cohort_digest})


def find_checkpoint(path: Path, digest: str) -> Path | None:
    """``path`` if it can be resumed under ``digest``; says so when it is there but cannot."""
    if not path.is_file():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("mammoflow_digest")
    if found == digest:
        return path
    say(f"{path} was made with other settings, another seed or another cohort: training starts anew")
    return None


def count(units: list[Unit]) -> dict[str, int]:
    """Samples per label."""
    labels = Counter(unit.label for unit in units)
    return {"0": labels[0], "1": labels[1]}
