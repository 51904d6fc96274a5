"""The scores of validation cases, computed in a thread beside the loop: one case is scored while the device computes the next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from segkit.metrics.table import Row
from segkit.system.hardware import usable_cores
from segkit.training.distributed import all_gather

AHEAD = 4
"""Calls that wait, at most: each holds the probabilities of a case."""


@dataclass(frozen=True)
class EvaluatedCase:
    """A validation case: its losses by name, and its rows of the case table."""

    losses: dict[str, float]
    rows: list[Row]
    is_finite: bool = True
    """Whether its probabilities are finite."""


def not_finite(cases: Iterable[EvaluatedCase]) -> Iterator[str]:
    """The probabilities and losses of validation cases that are NaN or infinite, in words."""
    for case in cases:
        name = case.rows[0].case
        if not case.is_finite:
            yield f"probabilities of case {name}"
        yield from (f"{part} of case {name}" for part, value in case.losses.items() if not math.isfinite(value))


def gather(mine: dict[int, EvaluatedCase]) -> list[EvaluatedCase]:
    """The cases of all processes in the order of the validation set, each once."""
    cases = {index: case for share in all_gather(mine) for index, case in share.items()}
    return [cases[index] for index in sorted(cases)]


class Beside:
    """Calls in one thread, in their order, while the caller goes on.

    What a call raises is raised by a later `do`, or by `wait`; those behind it need not be done.

    Args:
        has_thread: False: every call is done at once, by the caller.
    """

    def __init__(self, has_thread: bool) -> None:
        self._pool = ThreadPoolExecutor(1, "segkit") if has_thread else None
        self._waiting: deque[Future[None]] = deque()

    def do(self, function: Callable[[], None]) -> None:
        """Begin a call, or wait until there is room for one."""
        if self._pool is None:
            function()
            return
        self._waiting.append(self._pool.submit(function))
        self._wait_until(AHEAD)

    def wait(self) -> None:
        """Until all is done. Nothing may be begun afterwards."""
        if self._pool is not None:
            self._wait_until(0)
            self._pool.shutdown()

    def _wait_until(self, n_left: int) -> None:
        assert self._pool is not None
        try:
            while len(self._waiting) > n_left:
                self._waiting.popleft().result()
        except BaseException:
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise


def leaves_cores_idle(device: str, processes: int) -> bool:
    """Whether a network on `device`, in so many processes of this machine, leaves a core to others."""
    return device != "cpu" or torch.get_num_threads() * processes < usable_cores()
