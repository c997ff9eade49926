"""Train one fold of a run: read top to bottom, this file is the whole training.

The same command runs as one process or as each of several under ``torchrun``, on one node or many. It goes on from
``checkpoints/last.ckpt`` where one of the same settings, fold, seed and cohort lies.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader

from mammoflow import __version__, files, provenance, settings, tables
from mammoflow.errors import UserError
from mammoflow.train.common import (
    chosen_precision,
    loader_options,
    open_cohort,
    open_pack,
    quieten,
    say,
    set_threads,
    uses_cuda,
)
from mammoflow.train.from_run import SEEN, account, choose, fitting, seen_rows
from mammoflow.train.plan import make_plan
from mammoflow.train.pseudo import Pseudo, add_pseudo
from mammoflow.train.recorder import BEST, LAST, InterruptedTraining, Recorder
from mammoflow.train.sampler import GlobalBatches, RankShare
from mammoflow.train.units import shuffle_labels

INTERRUPTED = 143  # exit status after a signal: not 0, so that a workflow tries again
# What may change between a checkpoint and its resumption: it decides who computes and in what pieces, not what.
WHERE_NOT_WHAT = (
    *("processes", "workers", "accelerator", "fuse", "evaluate", "seed"),
    *("gradient_checkpointing", "accumulate", "compile"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``mammoflow train``."""
    parser.add_argument("name", metavar="RUN", help="name of the run")
    parser.add_argument("--fold", type=int, required=True, help="fold that is left out of training")
    parser.add_argument("--cohort", type=Path, required=True, help="directory of the cohort")
    parser.add_argument("--pack", type=Path, required=True, help="directory of the packed images")
    parser.add_argument("--settings", default="{}", help="JSON of the run's section of the configuration")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--from-run", type=Path, nargs="+", default=[], metavar="DIR", help="folds to start from")
    parser.add_argument("--pseudo", type=Path, metavar="DIR", help="pseudo-labels of this fold")
    parser.add_argument("--pseudo-pack", type=Path, metavar="DIR", help="packed images of the pseudo-labels")
    parser.add_argument("--out", type=Path, required=True, help="directory for weights, metrics and checkpoints")


@record  # torchrun then shows the first failing process's traceback
def run(args: argparse.Namespace) -> int:
    """Entry of ``mammoflow train``."""
    section = settings.parse_section("run", args.settings)
    try:
        pseudo = Pseudo(args.pseudo, args.pseudo_pack) if args.pseudo else None
        train(args.name, args.fold, args.cohort, args.pack, section, args.seed, args.out, args.from_run, pseudo)
    except InterruptedTraining as reason:
        say(f"mammoflow train: {reason}")
        return INTERRUPTED
    return 0


def train(
    name: str,
    fold: int,
    cohort: Path,
    pack: Path,
    section: dict[str, Any],
    seed: int,
    out: Path,
    from_run: Sequence[Path] = (),
    pseudo: Pseudo | None = None,
) -> None:
    """Fit a model on the train rows outside ``fold``; keep the weights that do best on the cohort's ``val`` split.

    ``from_run``: folds of the run that ``section`` names, to start from (see :mod:`mammoflow.train.from_run`).
    Writes ``out``/weights.safetensors (moving average of the weights), metrics.csv, seen.parquet and, last, train.json.
    Raises UserError where the cohort cannot be trained on, InterruptedTraining after SIGTERM or SIGUSR1.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    quieten()
    set_threads(local_world_size)
    if section["batch_size"] % world_size:
        raise UserError(f"run.batch_size {section['batch_size']} cannot be shared by {world_size} processes equally")
    if section["batch_size"] // world_size < section["accumulate"]:
        raise UserError(
            f"run.accumulate {section['accumulate']}: each of {world_size} processes gets "
            f"{section['batch_size'] // world_size} samples of a batch, which cannot be cut into more parts"
        )

    # Data: samples with a known truth; the fold's own rows and the test split are never opened.
    manifest, cohort_digest = open_cohort(cohort)
    if section["shuffle_labels"]:
        manifest = shuffle_labels(manifest, seed)
    images = open_pack(pack, manifest, section)
    source = choose(list(from_run), manifest, fold, cohort_digest) if section["from_run"] else None
    rows, images, taught = add_pseudo(manifest, images, pseudo, section)
    plan = make_plan(rows, cohort, images, section, fold, world_size)
    outside = (rows["split"] == "train") & (rows["fold"] != fold).fillna(True)
    seen = seen_rows(name, rows[outside], rows[rows["split"] == "val"], [*([source] if source else []), *taught])

    # Loaders: the sampler knows the processes, so Lightning must not add one of its own.
    batches = GlobalBatches(
        plan.classes, section["batch_size"], mode=plan.sampler, seed=seed, rank=rank, world_size=world_size
    )
    loading = loader_options(section, plan.collate)
    train_loader = DataLoader(plan.train, batch_sampler=batches, **loading)
    share = RankShare(len(plan.val), rank, world_size)
    val_loader = DataLoader(plan.val, batch_size=section["batch_size"] // world_size, sampler=share, **loading)

    # Model, and where the last attempt got to.
    started, start = None, None
    if source is not None:
        start, what = fitting(plan.learner.build(section, pretrained=False), source)
        started = account(source, what, section, sorted(manifest["label_policy"].unique()))
    digest = settings_digest(section, fold, seed, cohort_digest, started, rows)
    module = plan.learner(section, steps=len(batches), seed=seed, start=start)
    recorder = Recorder(out, digest, section["patience"], plan.learner.merit)
    checkpoint = find_checkpoint(out / "checkpoints" / LAST, digest)
    if checkpoint is not None:
        step = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        batches.resume(*divmod(step, len(batches)))
        say(f"{name} fold {fold}: goes on after {step} steps ({step // len(batches)} whole epochs)")
    else:
        say(f"{name} fold {fold}: {len(plan.train)} {plan.noun}s to train, {len(plan.val)} to validate")
        if started:
            anew = f", {len(started['started_anew'])} start anew" if started["started_anew"] else ""
            unused = f", {len(started['not_used'])} of the source are not used" if started["not_used"] else ""
            say(f"{name} fold {fold}: starts from {source.name}: {started['loaded']} weights loaded{anew}{unused}")

    # Fit.
    precision = chosen_precision(section)
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
        precision={"bf16": "bf16-mixed", "32": "32-true"}[precision],
        max_epochs=section["epochs"],
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
        tables.write(seen, out / SEEN)
    trainer.fit(module, train_loader, val_loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)

    # Results; train.json last, as the sign that all is there.
    if not trainer.is_global_zero:
        return
    best, merit = recorder.best, plan.learner.merit
    by_merit = best[merit] == best[merit]
    if not by_merit:
        say(f"{name} fold {fold}: validation holds a single class, so the validation loss chose the epoch")
    recorder.write_curve()  # Snakemake deletes it before a job that then finds all epochs done in the checkpoint
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
            "precision": precision,
            "world_size": world_size,
            "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
            **plan.facts,
            "label_policy": sorted(manifest["label_policy"].unique()),
            "label_sources": rows.loc[outside, "label_source"].fillna("none").value_counts().to_dict(),
            "started_from": started,
            "epochs_run": len(recorder.rows),
            "best_epoch": best["epoch"],
            f"best_{merit}": best[merit] if by_merit else None,
            "best_val_loss": best["val_loss"],
            "selected_by": merit if by_merit else "val_loss",
        },
    )


def settings_digest(
    section: dict[str, Any],
    fold: int,
    seed: int,
    cohort_digest: str,
    started: dict[str, Any] | None,
    rows: pd.DataFrame,
) -> str:
    """Names everything that decides the weights; a checkpoint of another digest is not resumed.

    ``started``: what :func:`mammoflow.train.from_run.account` said.  ``rows``: the manifest, pseudo-labels included.
    """
    what = {key: value for key, value in section.items() if key not in WHERE_NOT_WHAT}
    del what["segment" if section["task"] == "classify" else "auxiliary"]
    pseudo = rows.loc[rows["label_source"].str.startswith(tables.PSEUDO).fillna(False)]
    taught = pseudo[["dataset", "image_id", "label_malignant"]].astype(str).to_numpy().tolist()
    start = started and started["weights_sha256"]
    return settings.recipe(
        "train",
        {"settings": what, "fold": fold, "seed": seed, "cohort": cohort_digest, "start": start, "pseudo": taught},
    )


def find_checkpoint(path: Path, digest: str) -> Path | None:
    """``path`` if it can be resumed under ``digest``; says so when it is there but cannot."""
    if not path.is_file():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("mammoflow_digest")
    if found == digest:
        return path
    say(f"{path} was made with other settings, another seed or another cohort: training starts anew")
    return None
