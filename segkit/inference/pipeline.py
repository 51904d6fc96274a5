"""Stages that work side by side, in the order of their items: threads read and write while the network computes.

A stage is a `map` that runs a few items ahead in threads. What fails becomes an exception in the place of its result, which later stages
pass on, so that one image neither stops the others nor changes their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from itertools import groupby, islice
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from segkit.system.errors import SegkitError

T = TypeVar("T")
R = TypeVar("R")
FAILURES = (SegkitError, OSError, ValueError, MemoryError, RuntimeError)
"""What one image may raise while others go on. RuntimeError is torch's, also where a GPU has no memory left."""
AHEAD = 4
"""Items that wait behind a stage."""
ROOM = 2**29
"""Bytes that wait behind a stage, at most; an item of more has nothing beside it, as without threads."""


class Workers:
    """The threads of a pipeline. They end with the block, after what they have begun; what waits is dropped.

    Args:
        n: Number of threads; 0 does everything when its turn comes, without any.
        initializer: What each thread does first.
        ahead: Items that may wait behind a stage, where that is more than `AHEAD`: a batch of the next one.
    """

    def __init__(self, n: int, initializer: Callable[[], object] | None = None, ahead: int = 0) -> None:
        self._pool = ThreadPoolExecutor(n, "segkit", initializer) if n else None
        self._ahead = max(AHEAD, n, ahead)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Iterable[T | Exception]) -> Iterator[R | Exception]:
        """`function` of every item, in their order; items are drawn in the thread that asks for results."""
        if self._pool is None:
            yield from (attempt(function, item) for item in items)
            return
        iterator, room = iter(items), 1  # until the size of one is known
        waiting: deque[tuple[int, Future[R | Exception]]] = deque()
        while True:
            drawn = islice(iterator, max(0, room - len(waiting)))
            waiting.extend((n_bytes(item), self._pool.submit(attempt, function, item)) for item in drawn)
            if not waiting:
                return
            size, future = waiting.popleft()
            result = future.result()
            room = 1 + min(self._ahead, ROOM // max(1, size, n_bytes(result)))
            yield result


def attempt(function: Callable[[T], R], item: T | Exception) -> R | Exception:
    """The result, or what was raised, or the failure that the item is already."""
    if isinstance(item, Exception):
        return item
    try:
        return function(item)
    except FAILURES as error:
        return error


def batches(items: Iterable[T | Exception], size: int, kind: Callable[[T], object]) -> Iterator[list[T | Exception]]:
    """Consecutive items of one kind, at most `size` together; failures by themselves."""
    for _, alike in groupby(items, key=lambda item: None if isinstance(item, Exception) else kind(item)):
        while group := list(islice(alike, size)):
            yield group


def n_bytes(value: Any) -> int:
    """The size of the arrays in a value, in its fields or its items."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(n_bytes, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(n_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
