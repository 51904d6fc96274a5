"""Order of training, resumable in the middle of an epoch, and a loader that names the file a killed worker was reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Sampler

from segkit.data.dataset import Batch, CaseDataset, Sample
from segkit.system.errors import SegkitError, first_line

Array = npt.NDArray[Any]


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): a permutation that depends on (seed, epoch) alone, dealt out to `world_size` processes.

    `shuffle=False` keeps the first epoch's order. With `weights` (n,) indices are drawn with replacement, as often as they say.
    A last, smaller batch is dropped, unless it is the only one: batch norm cannot learn from a single image.
    """

    def __init__(
        self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, shuffle: bool = True, weights: Array | None = None
    ) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world_size, self.shuffle = rank, world_size, shuffle
        self.weights = weights
        self.epoch = 0
        self.skip = 0
        """Batches at the start of the epoch that were trained before the run was interrupted."""

    def __len__(self) -> int:
        return max(1, self.n // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(np.random.Generator(np.random.PCG64([self.seed, self.epoch if self.shuffle else 0])))
        mine = [int(i) for i in order[self.rank :: self.world_size]]
        for batch in range(self.skip, len(self)):
            indices = mine[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(self.epoch, index) for index in indices]

    def _order(self, random: np.random.Generator) -> Array:
        if self.weights is None:
            return random.permutation(self.n)
        steps = np.cumsum(self.weights) / np.sum(self.weights)
        return np.minimum(np.searchsorted(steps, random.random(self.n), side="right"), self.n - 1)

    @property
    def sampler(self) -> EpochSampler:
        """Where Lightning looks for `set_epoch` when it meets a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class TrainLoader(DataLoader[Sample]):
    """A DataLoader whose position is part of the checkpoint (Lightning saves and restores `state_dict`)."""

    def __init__(self, dataset: CaseDataset, sampler: EpochSampler, **options: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, **options)
        self.position = sampler
        self._done = 0
        self._resume: dict[str, int] = {}

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Lazy on purpose: Lightning creates the iterator before it has set the epoch."""
        resumes_here = self._resume.get("epoch") == self.position.epoch
        self.position.skip = self._done = self._resume["batches"] if resumes_here else 0
        self._resume = {}
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.position.epoch, "batches": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = dict(state)


@contextmanager
def naming_killed_workers(*datasets: CaseDataset) -> Iterator[None]:
    """Turn torch's "worker (pid 7) exited unexpectedly" into an error that names what was being read."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "Caught" in first_line(error):
            raise
        files = [str(d.cases[i].image.paths[0]) for d in datasets for i in sorted(set(d.reading.tolist())) if i >= 0]
        raise SegkitError(
            f"a loader worker was killed ({first_line(error)})\n"
            f"  last files being read: {', '.join(files) or 'unknown'}\n"
            "  most often the machine ran out of memory;   try  data.num_workers=0  or a smaller data.batch_size"
        ) from error
