"""Runs the trials of a sweep in parallel: each in a forked process, or in batches by a Hydra launcher (joblib, submitit, Ray)."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction
from omegaconf import DictConfig

from segkit.system.environment import take_share, visible_gpus
from segkit.system.errors import DiskFull, first_line
from segkit.system.locks import is_locked, try_lock
from segkit.system.processes import INTERRUPTED, NO_SPACE, last_line, leaving_traceback, redirected, run_apart, signals_held
from segkit.training.callbacks.pruning import RunningTrial
from segkit.training.sweeps.study import JOB_LOCK, Attempt, Outcome, SweepStudy, read_outcome

POLL_SECONDS, PATIENCE_SECONDS = 0.5, 120.0
LOST_SECONDS = 30.0
"""After a launcher has lost a job: so long without a running job, and the rest of its batch counts as lost, too."""
Report = Callable[[Attempt, Outcome, float | None], None]
"""Called in the parent with each trial that has ended, how it ended, and after how many seconds."""


@dataclass(kw_only=True)
class Runner(ABC):
    """Runs trials until none is left, or with `fail_fast` until the first failure."""

    study: SweepStudy
    report: Report
    fail_fast: bool
    stopping: bool = False

    @abstractmethod
    def run(self) -> None:
        """Run until no trial is left."""

    def next_attempt(self) -> Attempt | None:
        """The next trial to train; None where none is left, or after a failure that stops the sweep."""
        while not self.stopping and (attempt := self.study.next_attempt()):
            outcome = read_outcome(attempt.folder, self.study.objectives)
            if outcome is None:
                return attempt
            self.settle(attempt, outcome, None)  # its run had ended before its parent was killed, or another trial had the same values
        return None

    def settle(self, attempt: Attempt, outcome: Outcome, seconds: float | None) -> None:
        """Record how an attempt ended, and free its folder."""
        self.study.record(attempt.number, outcome)
        attempt.lock.close()
        self.stopping |= self.fail_fast and outcome.state == "failed"
        self.report(attempt, outcome, seconds)


# --- forked processes -------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    number: int
    process: ForkProcess
    attempt: Attempt
    since: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class ForkedWorkers(Runner):
    """Runs `n_jobs` trials at a time, calling `job` in a forked process for each."""

    job: Callable[[Attempt], None]
    n_jobs: int
    workers: dict[int, Worker] = field(default_factory=dict)

    def run(self) -> None:
        """Run until no trial is left. Ctrl-C and SIGTERM stop the trials, which write checkpoints, and raise `KeyboardInterrupt`.

        Raises `DiskFull` at the first trial that could not write: the others could not, either.
        """
        self.gpus = visible_gpus() if self.n_jobs > 1 else []
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        gc.collect()
        gc.freeze()  # keeps imported modules in shared pages: the garbage collector of each trial would have them copied
        try:
            while self._fill() or self._wait_for_others():
                self._wait()
            self._stop()  # with fail_fast; else none is left
        except (KeyboardInterrupt, DiskFull):
            self._stop()
            raise
        finally:
            gc.unfreeze()
            signal.signal(signal.SIGTERM, before)

    def _fill(self) -> bool:
        """Start trials on idle workers; return whether any worker is to be waited for."""
        while len(self.workers) < self.n_jobs and (attempt := self.next_attempt()):
            self._start(attempt)
        return bool(self.workers) and not self.stopping

    def _start(self, attempt: Attempt) -> None:
        number = min(set(range(self.n_jobs)) - set(self.workers))
        process = multiprocessing.get_context("fork").Process(target=self._in_child, args=(attempt, number, os.getpid()))
        with signals_held():
            process.start()
            self.workers[number] = Worker(number, process, attempt)

    def _in_child(self, attempt: Attempt, number: int, parent: int) -> None:
        for worker in self.workers.values():
            worker.attempt.lock.close()  # locks of other trials

        def work() -> None:
            take_share(number, self.n_jobs, self.gpus)
            self.job(attempt)

        run_apart(work, attempt.folder, parent)

    def _wait_for_others(self) -> bool:
        """Wait for trials of orphans or of another parent: if these are killed, their trials are left to us."""
        if self.stopping or not self.study.n_running():
            return False
        time.sleep(POLL_SECONDS)
        return True

    def _wait(self) -> None:
        sentinels = [worker.process.sentinel for worker in self.workers.values()]
        done: list[Any] = []
        while sentinels and not done:  # a signal that comes just before an endless wait, or to another thread, would not end it
            done = wait(sentinels, timeout=1)
        for worker in [w for w in self.workers.values() if w.process.sentinel in done]:
            self._finish(worker)

    def _finish(self, worker: Worker) -> None:
        worker.process.join()
        del self.workers[worker.number]
        outcome = read_outcome(worker.attempt.folder, self.study.objectives) or failure(worker)
        is_full = worker.process.exitcode == NO_SPACE
        worker.process.close()
        if is_full:
            worker.attempt.lock.close()  # the next start finds a trial that waits
            raise DiskFull.in_sweep(worker.attempt.folder)
        self.settle(worker.attempt, outcome, time.monotonic() - worker.since)

    def _stop(self) -> None:
        """A trial writes its checkpoint after its current batch; one that hangs is killed, and resumes from an older checkpoint."""
        self.stopping, until = True, time.monotonic() + PATIENCE_SECONDS
        for worker in list(self.workers.values()):
            worker.process.terminate()
        for worker in list(self.workers.values()):
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            with suppress(DiskFull):
                self._finish(worker)


def failure(worker: Worker) -> Outcome:
    """The reason that the exit code and the traceback give."""
    code = worker.process.exitcode
    if code == INTERRUPTED or code == -signal.SIGTERM:
        return Outcome("failed", reason="interrupted")
    if code is not None and code < 0:
        more = ", perhaps out of memory" if code == -signal.SIGKILL else ""
        return Outcome("failed", reason=f"killed by {signal.Signals(-code).name}{more}")
    return Outcome("failed", reason=last_line(worker.attempt.folder) or f"exit code {code}, but the run has not ended")


# --- Hydra launchers --------------------------------------------------------------------------------------------------


@dataclass
class LaunchedJob:
    """The task as it travels to the process or machine of a launcher. `trials`: run folder -> trial."""

    task: TaskFunction
    trials: Mapping[str, RunningTrial]

    def __call__(self, cfg: DictConfig) -> Any:
        folder = Path(cfg.output_dir, cfg.name, cfg.run)
        lock = try_lock(folder / JOB_LOCK)
        if lock is None:  # a job of an earlier start, which had waited in the launcher's queue, is at it
            return None
        self.trials[str(folder)].announce()
        with lock, redirected(folder / "console.txt"), leaving_traceback(folder):
            return self.task(cfg)


@dataclass(kw_only=True)
class LauncherBatches(Runner):
    """Runs batches of `size` trials by `launch`, which returns when all of a batch have ended; run folders show each one's end.

    Seconds are not reported, as a launcher has its own queue.
    """

    launch: Callable[[Sequence[Attempt]], None]
    size: int
    waiting: dict[int, Attempt] = field(default_factory=dict)

    def run(self) -> None:
        """Run until no trial is left, jobs of another start of this sweep included."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each attempt of a batch holds a lock
        while not self.stopping:
            while len(self.waiting) < self.size and (attempt := self.next_attempt()):
                self.waiting[attempt.number] = attempt
            if self.waiting:
                self._launch()
            elif self.study.n_running():
                time.sleep(POLL_SECONDS)
            else:
                break

    def _launch(self) -> None:
        attempts, error = list(self.waiting.values()), ""
        with self._watched():
            try:
                self.launch(attempts)
            except Exception as raised:  # launchers raise their own errors for a job that failed or was killed
                error = first_line(raised)
        self._wait_for_jobs(LOST_SECONDS if error else 0)
        for attempt in list(self.waiting.values()):
            self.settle(attempt, Outcome("failed", reason=last_line(attempt.folder) or error or "no result"), None)

    def _wait_for_jobs(self, patience: float) -> None:
        """A launcher returns at the first lost job, while the others still run, or are about to start."""
        until = time.monotonic() + patience
        while True:
            self._settle_ended()
            locks = [attempt.folder / JOB_LOCK for attempt in self.waiting.values()]
            if any(map(is_locked, locks)):
                until = time.monotonic() + patience
            elif time.monotonic() >= until or not any(lock.exists() for lock in locks):
                return
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Report trials as they end, not when the last of the batch has ended."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(POLL_SECONDS):
                self._settle_ended()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _settle_ended(self) -> None:
        for attempt in list(self.waiting.values()):
            if outcome := read_outcome(attempt.folder, self.study.objectives):
                self.settle(attempt, outcome, None)

    def settle(self, attempt: Attempt, outcome: Outcome, seconds: float | None) -> None:
        self.waiting.pop(attempt.number, None)
        super().settle(attempt, outcome, seconds)
