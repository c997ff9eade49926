"""What a training leaves behind: one row per epoch, the best weights, and a checkpoint from which it can go on."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import numpy as np
import pandas as pd
from safetensors.torch import save

from mammoflow import files, tables
from mammoflow.train.common import STOP_SIGNALS
from mammoflow.train.module import Learner

LAST = "last.ckpt"
BEST = "best.safetensors"
COLUMNS = ["epoch", "train_loss", "val_loss", "{merit}", "lr", "images_per_s", "loader_wait_share", "seconds"]


class InterruptedTraining(Exception):  # noqa: N818 (nothing went wrong)
    """The training was asked to stop and saved its state; the same command goes on from there."""


class Recorder(L.Callback):
    """Writes ``metrics.csv`` and ``checkpoints/`` below ``directory`` and decides when to stop.

    The best epoch has the highest ``merit`` (validation AUC or Dice), among equals the lowest validation loss; where
    validation holds a single class there is no merit and the loss decides alone. ``digest`` names the settings a
    checkpoint belongs to.
    """

    def __init__(self, directory: Path, digest: str, patience: int | None, merit: str = "val_auc") -> None:
        self.directory, self.digest, self.patience, self.merit = directory, digest, patience, merit
        self.rows: list[dict[str, float]] = []

    @property
    def best(self) -> dict[str, float]:
        """The best epoch's row."""
        return max(self.rows, key=self._rank)

    def _rank(self, row: dict[str, float]) -> tuple[float, float]:
        return (-np.inf if np.isnan(row[self.merit]) else row[self.merit]), -row["val_loss"]

    def setup(self, trainer: L.Trainer, pl_module: Learner, stage: str) -> None:
        """Name the settings in every checkpoint."""
        pl_module.digest = self.digest

    def on_fit_start(self, trainer: L.Trainer, pl_module: Learner) -> None:
        """A training that stopped early does not go on when it is started again."""
        trainer.should_stop = self._out_of_patience()

    def on_train_start(self, trainer: L.Trainer, pl_module: Learner) -> None:
        """Turn the stop signals into a wish.

        Lightning's own handler, set up just before, starts a collective inside the signal handler, which can meet
        another process in a different collective and hang both.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            pl_module.stop_wanted = True

        for number in STOP_SIGNALS:
            signal.signal(number, ask)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Learner, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after this step, if any process was asked to. After an epoch's last step validation goes first."""
        if pl_module.stopping and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop(trainer, f"step {batch_idx + 1} of {pl_module.steps} in epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Learner) -> None:
        """Record the epoch; validation has already run."""
        self.rows.append({"epoch": trainer.current_epoch, **pl_module.row})
        if trainer.is_global_zero:
            self._write(pl_module)
            _say(self.rows[-1], trainer.max_epochs, self.merit)
        trainer.should_stop = self._out_of_patience()
        self._save(trainer)
        done = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        if pl_module.stopping and not done:
            self._stop(trainer, f"epoch {trainer.current_epoch}", saved=True)

    def state_dict(self) -> dict[str, Any]:
        """Rows of the epochs so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        self.rows = state_dict["rows"]

    def _out_of_patience(self) -> bool:
        return (
            bool(self.rows)
            and self.patience is not None
            and (self.rows[-1]["epoch"] - self.best["epoch"] >= self.patience)
        )

    def write_curve(self) -> None:
        """``metrics.csv``, one row per epoch."""
        columns = [name.format(merit=self.merit) for name in COLUMNS]
        further = [name for name in self.rows[-1] if name not in columns]  # of the auxiliary heads
        table = pd.DataFrame(self.rows, columns=[*columns, *further])
        tables.write(table, self.directory / "metrics.csv")

    def _write(self, module: Learner) -> None:
        self.write_curve()
        if self.best is self.rows[-1]:
            weights = {name: value.contiguous().cpu() for name, value in module.ema.model.state_dict().items()}
            with files.replacing(self.directory / "checkpoints" / BEST) as handle:
                handle.write(save(weights))

    def _save(self, trainer: L.Trainer) -> None:
        """Every process takes part; the file gets its name when it is whole."""
        path = self.directory / "checkpoints" / LAST
        trainer.save_checkpoint(path.with_suffix(".tmp"))
        if trainer.is_global_zero:
            os.replace(path.with_suffix(".tmp"), path)

    def _stop(self, trainer: L.Trainer, where: str, saved: bool = False) -> None:
        if not saved:
            self._save(trainer)
        raise InterruptedTraining(f"stopped by a signal after {where}; the same command goes on from there")


def _say(row: dict[str, float], epochs: int, merit: str) -> None:
    name = {"val_auc": "val AUC", "val_dice": "val Dice"}[merit]
    figures = f"train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}, {name} {row[merit]:.4f}"
    speed = f"{row['images_per_s']:.1f} images/s, {row['loader_wait_share']:.0%} waiting for the loader"
    print(f"epoch {row['epoch'] + 1}/{epochs}: {figures}; {speed}", file=sys.stderr, flush=True)
