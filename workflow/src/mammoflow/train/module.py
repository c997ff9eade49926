"""What Lightning runs: one step, one validation, the optimiser and the moving average."""

import math
import time
from typing import Any

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mammoflow import metrics
from mammoflow.train.augment import augment
from mammoflow.train.ema import MovingAverage
from mammoflow.train.losses import batch_losses
from mammoflow.train.model import BreastModel, normalise, to_unit_range

WARM_UP = 0.1  # share of all steps in which the learning rate rises


class Classifier(L.LightningModule):
    """Trains :class:`BreastModel` with the settings of a run (section ``run``).

    ``steps`` is the number of steps of an epoch. After validation ``row`` holds the epoch's figures: train_loss,
    val_loss, val_auc (NaN with a single class), lr, images_per_s over all processes, loader_wait_share, seconds.
    """

    # A process may have no validation sample when there are fewer of them than processes.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, settings: dict[str, Any], steps: int, seed: int) -> None:
        super().__init__()
        self.settings, self.steps, self.seed = settings, steps, seed
        torch.manual_seed(seed)  # the same first weights on every process
        model = BreastModel(settings["encoder"], pretrained=settings["pretrained"])
        self.model = model.to(memory_format=torch.channels_last)
        self.ema = MovingAverage(self.model)  # not a submodule: DDP and the optimiser must not see it
        self.stop_wanted = False  # set by a signal on this process
        self.stopping = False  # the same on every process: one of them was asked to stop
        self.digest = ""  # names the settings in a checkpoint
        self.row: dict[str, float] = {}
        self._sums = torch.zeros(3)  # loss times bags, bags, views of this epoch, over all processes
        self._validation: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW (no decay on biases and norms), linear warm-up, then a cosine to 0, step by step."""
        weights = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": self.settings["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.settings["learning_rate"],
        )
        total = self.steps * self.settings["epochs"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Put beside the model what Lightning does not move."""
        self.ema.model.to(self.device)
        self._sums = self._sums.to(self.device)

    def on_train_start(self) -> None:
        """Start the clock: Lightning announces no new epoch when it goes on within one."""
        self._start = self._batch_end = time.perf_counter()
        self._waited = 0.0

    def on_train_epoch_start(self) -> None:
        """Start the epoch's figures."""
        self._sums = torch.zeros(3, device=self.device)
        self.on_train_start()

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Whatever passed since the last step was spent waiting for the loader."""
        self._waited += time.perf_counter() - self._batch_end

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of this process's share, scaled so that DDP's mean over processes is the mean over the batch."""
        # Everything random in a step hangs on its number, so that a resumed training repeats an uninterrupted one.
        torch.manual_seed(hash((self.seed, self.global_step, self.global_rank)) & 0x7FFF_FFFF)
        views, target, bags = to_unit_range(batch["views"]), batch["target"], len(batch["label"])
        if self.settings["augment"]:
            views, target = augment(views, target)
        views = normalise(views).contiguous(memory_format=torch.channels_last)
        classification, localisation = batch_losses(
            self.model(views, batch["bag"], bags), batch["label"], target, batch["marked"]
        )
        # Shares of a batch may differ by a sample, and marked views are spread as it happens: count them all.
        counts = torch.tensor([bags, 0, len(views), self.stop_wanted], dtype=torch.float32, device=self.device)
        counts[1] = batch["marked"].sum()
        sums = torch.cat([counts, torch.stack([classification, localisation]).detach()])
        if self.trainer.world_size > 1:
            dist.all_reduce(sums)
        all_bags, all_marked = sums[0], sums[1].clamp(min=1)
        weight = self.settings["localisation_weight"]
        self.stopping = bool(sums[3] > 0) if self.trainer.world_size > 1 else self.stop_wanted
        batch_loss = sums[4] / all_bags + weight * sums[5] / all_marked
        self._sums += torch.stack([batch_loss * all_bags, all_bags, sums[2]])
        return self.trainer.world_size * (classification / all_bags + weight * localisation / all_marked)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Follow the step with the moving average, before any callback may save a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.model)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The step is over: from here on the loader is waited for."""
        self._batch_end = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        """Average batch normalisation's statistics over the processes, and close the training part's figures."""
        if self.trainer.world_size > 1:
            for buffer in [*self.model.buffers(), *self.ema.model.buffers()]:
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.trainer.world_size
        self._trained = time.perf_counter() - self._start
        self._validation = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score this process's share with the averaged weights."""
        views = normalise(to_unit_range(batch["views"])).contiguous(memory_format=torch.channels_last)
        logits = self.ema.model(views, batch["bag"], len(batch["label"])).bags
        self._validation.append((logits.float().cpu(), batch["label"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Gather all shares on every process: nothing is padded, so nothing counts twice."""
        shares = [self._validation]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            dist.all_gather_object(shares, self._validation)
        pairs = [pair for share in shares for pair in share]
        logits, labels = (torch.cat(column) for column in zip(*pairs, strict=True))
        loss, bags, views = self._sums.tolist()
        self.row = {
            "train_loss": loss / bags,
            "val_loss": float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)),
            "val_auc": float(metrics.auc(labels.numpy(), np.asarray(logits, float))[0]),
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_s": views / self._trained,
            "loader_wait_share": self._waited / self._trained,
            "seconds": time.perf_counter() - self._start,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        checkpoint["mammoflow_digest"] = self.digest
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["sums"] = self._sums.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The reverse of :meth:`on_save_checkpoint`."""
        self.ema.load_state_dict(checkpoint["ema"])
        self._sums = checkpoint["sums"] * torch.tensor([1, 1, 0])  # the speed counts from here


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the peak learning rate: rises over the first tenth of ``total`` steps, then falls as a cosine."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
