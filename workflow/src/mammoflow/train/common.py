"""What training and scoring share: opening their inputs, choosing the device, and speaking."""

import hashlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mammoflow import tables
from mammoflow.errors import UserError
from mammoflow.pack import PackedImages
from mammoflow.train.units import participants

WEIGHTS, RECORD = "weights.safetensors", "train.json"  # of a trained fold
PREFETCH = 4  # batches per loader process
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM: end of the time limit, and the warning before it


def open_cohort(cohort: Path) -> tuple[pd.DataFrame, str]:
    """The manifest's participants, and the hash of digest.json. Raises UserError where one of them is missing."""
    path = cohort / "digest.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist: run cohort first")
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return participants(tables.read(cohort / "manifest.parquet", "manifest")), digest


def open_pack(pack: Path, manifest: pd.DataFrame, section: dict[str, Any]) -> PackedImages:
    """Open the pack. Raises UserError where it is not the pack of these images at this size."""
    images = PackedImages(pack)
    if images.image_size != tuple(section["image_size"]):
        raise UserError(f"{pack} holds images of {images.image_size}, the run wants {tuple(section['image_size'])}")
    packed = set(zip(images.index["dataset"], images.index["image_id"], images.index["image_path"], strict=True))
    wanted = zip(manifest["dataset"], manifest["image_id"], manifest["image_path"], strict=True)
    missing = [row for row in wanted if row not in packed]
    if missing:
        raise UserError(
            f"{pack} lacks {len(missing)} images of the cohort as it is now (first: {missing[0][1]}): run pack again"
        )
    return images


class JoinedPacks:
    """Several packs of the same size and type read as one; an image comes from the first that has it."""

    def __init__(self, packs: list[PackedImages]) -> None:
        self.packs, self.image_size, self.dtype = packs, packs[0].image_size, packs[0].dtype

    def __contains__(self, key: tuple[str, str]) -> bool:
        return any(key in pack for pack in self.packs)

    def __getitem__(self, key: tuple[str, str]) -> np.ndarray:
        return self._pack(key)[key]

    def read_into(self, key: tuple[str, str], out: np.ndarray) -> None:
        """As :meth:`mammoflow.pack.PackedImages.read_into`."""
        self._pack(key).read_into(key, out)

    def place(self, key: tuple[str, str], boxes: np.ndarray) -> np.ndarray:
        """As :meth:`mammoflow.pack.PackedImages.place`."""
        return self._pack(key).place(key, boxes)

    def _pack(self, key: tuple[str, str]) -> PackedImages:
        return next(pack for pack in self.packs if key in pack)


@dataclass(frozen=True)
class FoldModel:
    """A trained fold: its model in evaluation mode, and what its train.json says."""

    fold: int
    model: torch.nn.Module
    record: dict[str, Any]
    directory: Path


def uses_cuda(section: dict[str, Any]) -> bool:
    """Whether to train on GPUs. Raises UserError where they are asked for and not there."""
    if section["accelerator"] == "cuda" and not torch.cuda.is_available():
        raise UserError("run.accelerator is cuda, but torch sees no GPU: use auto or cpu, or a node with a GPU")
    return section["accelerator"] != "cpu" and torch.cuda.is_available()


def chosen_precision(section: dict[str, Any]) -> str:
    """``bf16`` or ``32``: what the run's ``precision`` means on the device it trains on."""
    if section["precision"] != "auto":
        return section["precision"]
    # torch also counts a GPU that only emulates bfloat16, several times slower than float32.
    native = uses_cuda(section) and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "32"


def set_threads(local_world_size: int) -> None:
    """Share the cores among the node's processes, unless OMP_NUM_THREADS says otherwise.

    Set in so many words: torch would follow MKL_NUM_THREADS, which Snakemake sets to the threads of the whole job.
    """
    share = max(1, len(os.sched_getaffinity(0)) // local_world_size)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or share))


def loader_options(section: dict[str, Any], collate: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of the DataLoaders that training feeds on. ``section``: the settings of a run."""
    return {
        "collate_fn": collate,
        "num_workers": section["workers"],
        "persistent_workers": section["workers"] > 0,
        "prefetch_factor": PREFETCH if section["workers"] else None,
        "pin_memory": uses_cuda(section),
        "worker_init_fn": ignore_signals,
    }


def ignore_signals(worker: int) -> None:
    """Loader processes leave signals to their trainer, which SLURM signals too."""
    for number in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def quieten() -> None:
    """Keep out of the log: Lightning's advertisements, and its advice about what is done on purpose here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*ended before the epoch ended.*")  # the sampler skips what was seen
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


def say(text: str) -> None:
    """One line of progress, from the first process only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(text, file=sys.stderr, flush=True)
