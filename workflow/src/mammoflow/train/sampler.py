"""Which samples each process sees in each step of an epoch.

All processes draw the same list from a seed they share and cut it into global batches; process r takes every
world-size-th entry of each. So a global batch holds the same samples for any number of processes, no sample is seen by
two of them, and all make the same number of steps (DDP would wait for ever otherwise).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class GlobalBatches(Sampler[list[int]]):
    """Batch sampler over ``len(labels)`` samples; yields this process's indices of each global batch.

    ``natural`` takes each sample once per epoch, also the last incomplete batch. ``balanced`` draws as many samples,
    half of them from each class: the larger class without repeats until it is used up, the smaller one going round.

    The global batches of an epoch differ by at most one sample in size and hold at least one per process, so that no
    process ever has an empty batch. They are at most ``batch_size`` long, unless that would leave a process without a
    sample.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        *,
        mode: str = "balanced",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.labels = np.asarray(labels, np.int64)
        if len(self.labels) < world_size:
            raise ValueError(f"{len(self.labels)} samples cannot feed {world_size} processes")
        self.mode, self.seed, self.rank, self.world_size = mode, seed, rank, world_size
        self.steps = min(-(-len(self.labels) // batch_size), len(self.labels) // world_size)
        self.epoch = 0
        self._skip = 0

    @property
    def sampler(self) -> "GlobalBatches":
        """Lightning announces a new epoch to ``loader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draw the next iteration gives."""
        self.epoch = epoch

    def resume(self, epoch: int, step: int) -> None:
        """Let the next iteration begin at global batch ``step`` of ``epoch``; those after it are whole again."""
        self.epoch, self._skip = epoch, step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        skip, self._skip = self._skip, 0
        for batch in self.global_batches(self.epoch)[skip:]:
            yield batch[self.rank :: self.world_size].tolist()

    def global_batches(self, epoch: int) -> list[np.ndarray]:
        """All global batches of ``epoch``, the same on every process."""
        # Shuffled within: dealing out an alternating draw would give one process all the positives.
        generator = np.random.default_rng([self.seed, epoch, 1])
        return [generator.permutation(batch) for batch in np.array_split(self.draw(epoch), self.steps)]

    def draw(self, epoch: int) -> np.ndarray:
        """The epoch's sample indices in order, ``len(labels)`` of them."""
        generator = np.random.default_rng([self.seed, epoch])
        if self.mode == "natural":
            return generator.permutation(len(self.labels))
        positives, negatives = np.flatnonzero(self.labels == 1), np.flatnonzero(self.labels == 0)
        if not len(positives) or not len(negatives):
            raise ValueError("a balanced draw needs samples of both classes")
        drawn = np.empty(len(self.labels), np.int64)
        # Alternating, so that every global batch is balanced too. A coin decides which class comes first, so that
        # an odd number of samples favours neither class over the epochs.
        first = int(generator.integers(2))
        for start, members in ((first, positives), (1 - first, negatives)):
            wanted = len(drawn[start::2])
            rounds = [generator.permutation(members) for _ in range(-(-wanted // len(members)))]
            drawn[start::2] = np.concatenate(rounds)[:wanted]
        return drawn


class RankShare(Sampler[int]):
    """Each of ``size`` samples on exactly one process, none twice (validation must not count padding)."""

    def __init__(self, size: int, rank: int, world_size: int) -> None:
        self.indices = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
