"""What Lightning runs: one step, one validation, the optimiser and the moving average."""

import math
import time
from contextlib import nullcontext
from typing import Any, NamedTuple

from mammoflow.train import guard  # noqa: F401  # isort: skip (before lightning)

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mammoflow.errors import UserError
from mammoflow.train.ema import MovingAverage
from mammoflow.train.memory import checkpoint_encoder, still_statistics

WARM_UP = 0.1  # share of all steps in which the learning rate rises
GRADIENT_CLIP = 1.0  # norm


class Share(NamedTuple):
    """One process's part of a global batch: over how many each term of the loss is summed (T,), and the numbers of
    samples and of images."""

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
        self.automatic_optimization = False  # a step may be several forward and backward passes
        self.settings, self.steps, self.seed = settings, steps, seed
        torch.manual_seed(seed)  # the same first weights on every process
        model = self.build(settings, pretrained=settings["pretrained"] and start is None)
        if start is not None:
            model.load_state_dict(start, strict=False)
        self.model = model.to(memory_format=torch.channels_last)
        self.ema = MovingAverage(self.model)  # not a submodule: DDP and the optimiser must not see it
        if settings["gradient_checkpointing"]:
            checkpoint_encoder(self.model.timm_encoder, settings["encoder"], settings["image_size"])
        if settings["compile"]:
            self.model.compile()  # in place: a wrapped model would have other names for its weights
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

    def share(self, batch: dict[str, Tensor]) -> Share:
        """What this process's share of a batch counts, known before anything is computed."""
        raise NotImplementedError

    def split(self, batch: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
        """The batch cut into ``parts`` of equal size but for one sample; fewer where there are fewer samples."""
        raise NotImplementedError

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        """Of each term of the loss the sum (T,) over a part of this process's share; the model is in training mode."""
        raise NotImplementedError

    def judge(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What of a validation batch is gathered from all processes: tensors on the CPU, joined along their rows."""
        raise NotImplementedError

    def validation_figures(self, *gathered: Tensor) -> dict[str, float]:
        """``val_loss`` and the merit, from all that :meth:`judge` returned."""
        raise NotImplementedError

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
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
        return [optimizer], [schedule]

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

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One step of the optimiser: the gradient of the mean over the global batch, of all processes and parts."""
        # Everything random in a step hangs on its number, so that a resumed training repeats an uninterrupted one.
        torch.manual_seed(hash((self.seed, self.global_step, self.global_rank)) & 0x7FFF_FFFF)
        share = self.share(batch)
        # Shares of a batch may differ by a sample, and what a term counts is spread as it happens: count them all.
        head = torch.tensor([share.samples, share.images, self.stop_wanted], dtype=torch.float32, device=self.device)
        together = self._over_processes(torch.cat([head, share.counts.float()]))
        (samples, images, stop), counts = together[:3], together[3:]
        scale = self.weights.to(self.device) / counts.clamp(min=1)

        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        parts = self.split(batch, self.settings["accumulate"])
        for number, part in enumerate(parts, start=1):
            # Gradients add up in each process and are exchanged once, with the last part.
            alone = self.trainer.world_size > 1 and number < len(parts)
            with self.trainer.strategy.block_backward_sync() if alone else nullcontext():
                loss += self._pass(part, scale)
        self.clip_gradients(optimizer, gradient_clip_val=GRADIENT_CLIP, gradient_clip_algorithm="norm")
        optimizer.step()
        self.ema.update(self.model)  # before any callback may save a checkpoint
        schedule.step()

        self._sums += torch.stack([self._over_processes(loss) * samples, samples, images])
        self.stopping = bool(stop > 0) if self.trainer.world_size > 1 else self.stop_wanted

    def _pass(self, part: dict[str, Tensor], scale: Tensor) -> Tensor:
        """Forward and backward; the part's contribution to the loss, without its graph."""
        try:
            loss = (scale * self.losses(part)).sum()
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(
                f"run.compile: torch cannot compile this model here ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}): install a C++ compiler, or set compile to false"
            ) from error
        still = still_statistics(self.model) if self.settings["gradient_checkpointing"] else nullcontext()
        # The backward pass takes the types that the forward pass chose; autocast would choose anew.
        with torch.autocast(self.device.type, enabled=False), still:
            self.manual_backward(loss * self.trainer.world_size)  # DDP takes the mean over processes
        return loss.detach()

    def _over_processes(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.trainer.world_size > 1:
            dist.all_reduce(values)
        return values

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


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the peak learning rate: rises over the first tenth of ``total`` steps, then falls as a cosine."""
    warm = max(1, round(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))
