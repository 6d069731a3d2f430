"""Which examples make up which batch of which process: a pure function of seed, epoch and rank.

Nothing is remembered between epochs, so a resumed run draws what the unbroken run would have drawn, and W processes
with batches of B draw together what one process with batches of B*W draws.
"""

from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler

from hmmoe.errors import ConfigError


class Draw(NamedTuple):
    """One example to load. ``entropy`` = (seed, epoch) of its augmentation, None where none is wanted."""

    index: int
    entropy: tuple[int, int] | None

    def rng(self) -> np.random.Generator | None:
        """The same numbers for this example in this epoch, whichever worker or process loads it."""
        return None if self.entropy is None else np.random.default_rng((*self.entropy, self.index))


class Batches(DistributedSampler):
    """Yields whole batches, as lists of ``Draw``; for a loader with ``batch_size=None``.

    A ``DistributedSampler`` by type, so that Lightning leaves it alone and calls ``set_epoch``.

    Training: shuffled, incomplete last batch left out (one smaller batch if there is no complete one).
    Evaluation: in order, every example exactly once; all processes get equally many batches, of sizes that differ by
    at most one, because collective operations inside the forward pass would hang otherwise.

    Args:
        dataset: anything with a length.
        batch_size: examples per batch and process.
        training: shuffle, drop, and hand out entropy for augmentation.
        seed: of order and augmentation.
        take: only so many of the examples, or below 1 that share of them, drawn by ``seed``; None for all.
        rank, world: this process and how many there are.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        *,
        training: bool,
        seed: int,
        take: int | float | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=training, seed=seed)
        self.batch_size, self.training = batch_size, training
        self.pool = np.arange(len(dataset))
        if take is not None:
            count = max(1, round(take * len(dataset))) if take < 1 else int(take)
            self.pool = np.random.default_rng(seed).permutation(len(dataset))[:count]
        self.count = len(self.pool)
        if batch_size < 1:
            raise ConfigError(f"data.batch_size={batch_size}: expected 1 or more")
        if self.count < world:
            raise ConfigError(f"{self.count} examples for {world} processes: use fewer trainer.devices or more data")

    def __len__(self) -> int:
        if self.training:
            return max(1, self.count // (self.batch_size * self.num_replicas))
        return -(-self.count // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[list[Draw]]:
        if not self.training:
            own = np.arange(self.rank, self.count, self.num_replicas)
            for indices in np.array_split(own, len(self)):
                yield [Draw(int(index), None) for index in indices]
            return
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        size = min(self.batch_size * self.num_replicas, self.count - self.count % self.num_replicas)
        for start in range(0, len(self) * size, size):
            own = order[start : start + size][self.rank :: self.num_replicas]
            yield [Draw(int(index), (self.seed, self.epoch)) for index in self.pool[own]]
