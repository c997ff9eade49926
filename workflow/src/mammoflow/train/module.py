"""What Lightning runs: one step, one validation, the optimiser and the moving average."""

import math
import time
from typing import Any, NamedTuple

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mammoflow import metrics
from mammoflow.train.augment import augment
from mammoflow.train.ema import MovingAverage
from mammoflow.train.losses import batch_losses
from mammoflow.train.model import BreastModel, normalise, to_unit_range

WARM_UP = 0.1  # share of all steps in which the learning rate rises


class Share(NamedTuple):
    """One process's part of a global batch: of each term of the loss the sum (T,) and how many it sums over (T,), and
    the numbers of samples and of images."""

    sums: Tensor
    counts: Tensor
    samples: int
    images: int


class Learner(L.LightningModule):
    """What every task shares. A task says what its model is, what a batch's losses are, and how it is validated.

    ``section``: the settings of a run.  ``steps``: the steps of an epoch.  ``start``: weights to begin with, as
    :func:`mammoflow.train.from_run.fitting` chose them. After validation ``row`` holds the epoch's figures: train_loss,
    val_loss, the task's ``merit`` (NaN where it is not defined), lr, images_per_s over all processes,
    loader_wait_share, seconds.
    """

    merit: str  # the figure of ``row`` that chooses the best epoch: higher is better

    # A process may have no validation sample when there are fewer of them than processes.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, settings: dict[str, Any], steps: int, seed: int, start: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.settings, self.steps, self.seed = settings, steps, seed
        torch.manual_seed(seed)  # the same first weights on every process
        model = self.build(settings, pretrained=settings["pretrained"] and start is None)
        if start is not None:
            model.load_state_dict(start, strict=False)
        self.model = model.to(memory_format=torch.channels_last)
        self.ema = MovingAverage(self.model)  # not a submodule: DDP and the optimiser must not see it
        self.stop_wanted = False  # set by a signal on this process
        self.stopping = False  # the same on every process: one of them was asked to stop
        self.digest = ""  # names the settings in a checkpoint
        self.row: dict[str, float] = {}
        self._sums = torch.zeros(3)  # loss times samples, samples, images of this epoch, over all processes
        self._validation: list[tuple[Tensor, ...]] = []

    @staticmethod
    def build(settings: dict[str, Any], *, pretrained: bool) -> nn.Module:
        """The task's model."""
        raise NotImplementedError

    @property
    def weights(self) -> Tensor:
        """Weight of each term of the loss (T,)."""
        raise NotImplementedError

    def losses(self, batch: dict[str, Tensor]) -> Share:
        """Loss of this process's share of a batch; the model is in training mode."""
        raise NotImplementedError

    def judge(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What of a validation batch is gathered from all processes: tensors on the CPU, one row per sample."""
        raise NotImplementedError

    def validation_figures(self, *gathered: Tensor) -> dict[str, float]:
        """``val_loss`` and the merit, from all that :meth:`judge` returned."""
        raise NotImplementedError

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
        share = self.losses(batch)
        # Shares of a batch may differ by a sample, and what a term counts is spread as it happens: count them all.
        head = torch.tensor([share.samples, share.images, self.stop_wanted], dtype=torch.float32, device=self.device)
        together = torch.cat([head, share.counts.float(), share.sums.detach().float()])
        if self.trainer.world_size > 1:
            dist.all_reduce(together)
        samples, images, stop = together[:3]
        counts, sums = together[3:].chunk(2)
        counts, weights = counts.clamp(min=1), self.weights.to(self.device)
        self.stopping = bool(stop > 0) if self.trainer.world_size > 1 else self.stop_wanted
        self._sums += torch.stack([(weights * sums / counts).sum() * samples, samples, images])
        return self.trainer.world_size * (weights * share.sums / counts).sum()

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
        self._validation.append(self.judge(batch))

    def on_validation_epoch_end(self) -> None:
        """Gather all shares on every process: nothing is padded, so nothing counts twice."""
        shares = [self._validation]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            dist.all_gather_object(shares, self._validation)
        parts = [part for share in shares for part in share]
        loss, samples, images = self._sums.tolist()
        self.row = {
            "train_loss": loss / samples,
            **self.validation_figures(*(torch.cat(column) for column in zip(*parts, strict=True))),
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_s": images / self._trained,
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


class Classifier(Learner):
    """Trains :class:`BreastModel`: malignancy of breasts or images, with the localisation loss beside it."""

    merit = "val_auc"

    @staticmethod
    def build(settings: dict[str, Any], *, pretrained: bool) -> BreastModel:
        """Without the hub's weights unless ``pretrained``."""
        return BreastModel(settings["encoder"], pretrained=pretrained)

    @property
    def weights(self) -> Tensor:
        """Classification, localisation."""
        return torch.tensor([1.0, self.settings["localisation_weight"]])

    def losses(self, batch: dict[str, Tensor]) -> Share:
        """Means over the bags, and over the marked views."""
        views, target, bags = to_unit_range(batch["views"]), batch["target"], len(batch["label"])
        if self.settings["augment"]:
            views, target = augment(views, target)
        output = self.model(_ready(views), batch["bag"], bags)
        sums = torch.stack(batch_losses(output, batch["label"], target, batch["marked"]))
        counts = torch.stack([batch["marked"].new_tensor(bags, dtype=torch.int64), batch["marked"].sum()])
        return Share(sums, counts, samples=bags, images=len(views))

    def judge(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits and labels of the bags."""
        logits = self.ema.model(_ready(to_unit_range(batch["views"])), batch["bag"], len(batch["label"])).bags
        return logits.float().cpu(), batch["label"].cpu()

    def validation_figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Cross-entropy and AUC."""
        return {
            "val_loss": float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)),
            "val_auc": float(metrics.auc(labels.numpy(), np.asarray(logits, float))[0]),
        }


def _ready(views: Tensor) -> Tensor:
    return normalise(views).contiguous(memory_format=torch.channels_last)


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the peak learning rate: rises over the first tenth of ``total`` steps, then falls as a cosine."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
