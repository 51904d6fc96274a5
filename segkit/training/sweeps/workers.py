"""Runs the trials of a sweep, `n_jobs` at a time, each in a forked process, and tells the ledger how they ended."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from types import FrameType

from segkit.system.devices import take_share, visible_gpus
from segkit.system.processes import INTERRUPTED, last_line, run_apart, signals_held
from segkit.training.sweeps.outcome import Outcome, read_outcome
from segkit.training.sweeps.study import Claim, Ledger

POLL_SECONDS, PATIENCE_SECONDS = 0.5, 120.0
Job = Callable[[Claim], None]
Told = Callable[[Claim, Outcome, float | None], None]


@dataclass
class Worker:
    number: int
    process: ForkProcess
    claim: Claim
    since: float = field(default_factory=time.monotonic)


@dataclass
class Pool:
    """`job` runs in the trial's process; `told` hears in the parent how each trial ended, and after how many seconds."""

    ledger: Ledger
    job: Job
    told: Told
    n_jobs: int
    fail_fast: bool
    workers: dict[int, Worker] = field(default_factory=dict)
    stopping: bool = False

    def run(self) -> None:
        """Until no trial is left to run. Ctrl-C and SIGTERM stop the trials, which write checkpoints, and raise KeyboardInterrupt."""
        self.gpus = visible_gpus() if self.n_jobs > 1 else []
        with sigterm_interrupts(), memory_shared():
            try:
                while self._fill() or self._others():
                    self._wait()
            except KeyboardInterrupt:
                self._stop()
                raise

    def _fill(self) -> bool:
        """Start trials on idle workers; whether any run."""
        while not self.stopping and len(self.workers) < self.n_jobs:
            claim = self.ledger.claim()
            if claim is None:
                break
            outcome = read_outcome(claim.folder, self.ledger.objectives)
            if outcome:  # its run had ended before somebody was killed, or another trial had the same values
                self._tell(claim, outcome, 0.0)
            else:
                self._start(claim)
        return bool(self.workers)

    def _start(self, claim: Claim) -> None:
        number = min(set(range(self.n_jobs)) - set(self.workers))
        process = multiprocessing.get_context("fork").Process(target=self._in_child, args=(claim, number, os.getpid()))
        with signals_held():
            process.start()
            self.workers[number] = Worker(number, process, claim)

    def _in_child(self, claim: Claim, number: int, parent: int) -> None:
        for worker in self.workers.values():
            worker.claim.lock.close()  # theirs to keep, not ours

        def work() -> None:
            take_share(number, self.n_jobs, self.gpus)
            self.job(claim)

        run_apart(work, claim.folder, parent)

    def _others(self) -> bool:
        """Wait for trials that orphans or another parent run beside us: should they be killed, they are ours to finish."""
        if self.stopping or not self.ledger.running_beside([]):
            return False
        time.sleep(POLL_SECONDS)
        return True

    def _wait(self) -> None:
        done = wait([worker.process.sentinel for worker in self.workers.values()]) if self.workers else []
        for worker in [w for w in self.workers.values() if w.process.sentinel in done]:
            if self.workers.get(worker.number) is worker:  # with fail_fast the first to fail has had all stopped
                self._finish(worker)

    def _finish(self, worker: Worker) -> None:
        worker.process.join()
        del self.workers[worker.number]
        outcome = read_outcome(worker.claim.folder, self.ledger.objectives) or failure(worker)
        worker.process.close()
        self._tell(worker.claim, outcome, time.monotonic() - worker.since)

    def _tell(self, claim: Claim, outcome: Outcome, seconds: float) -> None:
        self.ledger.settle(claim.number, outcome)
        claim.lock.close()
        self.told(claim, outcome, seconds)
        if outcome.state == "failed" and self.fail_fast and not self.stopping:
            self._stop()

    def _stop(self) -> None:
        """A trial writes its checkpoint after the batch that it is at; one that is stuck is killed, and goes on from an older one."""
        self.stopping, until = True, time.monotonic() + PATIENCE_SECONDS
        for worker in list(self.workers.values()):
            worker.process.terminate()
        for worker in list(self.workers.values()):
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            self._finish(worker)


def failure(worker: Worker) -> Outcome:
    code = worker.process.exitcode
    if code == INTERRUPTED or code == -signal.SIGTERM:
        return Outcome("failed", reason="interrupted")
    if code is not None and code < 0:
        more = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return Outcome("failed", reason=f"killed by {signal.Signals(-code).name}{more}")
    return Outcome("failed", reason=last_line(worker.claim.folder) or f"exit code {code}, and no run that has ended")


@contextmanager
def memory_shared() -> Iterator[None]:
    """What has been imported stays one copy: Python's collector, walking over it in each trial, would have the pages copied."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
