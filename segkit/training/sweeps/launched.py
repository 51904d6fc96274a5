"""Trials that one of Hydra's launchers runs: as jobs of SLURM, on Ray, or in joblib's processes.

The launcher takes a batch and comes back when all of it has ended; meanwhile the run folders tell how each trial ends.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from segkit.system.errors import first_line
from segkit.system.processes import last_line, leaving_traceback, redirected
from segkit.training.sweeps.outcome import Outcome, read_outcome
from segkit.training.sweeps.storage import try_lock
from segkit.training.sweeps.study import JOB_LOCK, Claim, Ledger
from segkit.training.sweeps.workers import POLL_SECONDS, Told
from segkit.training.trial import RunningTrial

LOST_SECONDS = 30.0
"""Without a job at work, after a launcher has lost one: then the rest of its batch has been lost as well."""


@dataclass
class LaunchedJob:
    """The task as it travels to the process, or machine, that the launcher gives it. `trials`: by folder."""

    task: TaskFunction
    trials: Mapping[str, RunningTrial]

    def __call__(self, cfg: DictConfig) -> Any:
        folder = Path(cfg.output_dir, cfg.name, cfg.run)
        lock = try_lock(folder / JOB_LOCK)
        if lock is None:  # a job of a start before this one, which had waited in the launcher's queue
            return None
        self.trials[str(folder)].announce()
        with lock, redirected(folder / "console.txt"), leaving_traceback(folder):
            return self.task(cfg)


@dataclass
class Batches:
    """`job` of a claim is the trial and its overrides; `told` hears how each ended, but no seconds: a launcher has its own queue."""

    ledger: Ledger
    job: Callable[[Claim], tuple[RunningTrial, list[str]]]
    told: Told
    size: int
    fail_fast: bool
    context: HydraContext
    task: TaskFunction
    config: DictConfig
    has_failed: bool = False
    waiting: dict[int, Claim] = field(default_factory=dict)

    def run(self) -> None:
        """Until no trial is left to run. Jobs of another start of this sweep are waited for."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each claim of a batch holds a lock
        while not (self.has_failed and self.fail_fast):
            batch = self._claim()
            if batch:
                self._launch(batch)
            elif self.ledger.running_beside([]):
                time.sleep(POLL_SECONDS)
            else:
                break

    def _claim(self) -> list[Claim]:
        self.waiting = {}
        while len(self.waiting) < self.size and (claim := self.ledger.claim()):
            self.waiting[claim.number] = claim
            self._tell_if_ended(claim)  # its run had ended before somebody was killed, or another trial had the same values
        return list(self.waiting.values())

    def _launch(self, batch: Sequence[Claim]) -> None:
        jobs = [self.job(claim) for claim in batch]
        task = LaunchedJob(self.task, {str(claim.folder): trial for claim, (trial, _) in zip(batch, jobs, strict=True)})
        launcher = Plugins.instance().instantiate_launcher(hydra_context=self.context, task_function=task, config=self.config)
        error = ""
        with self._watched():
            try:
                launcher.launch([overrides for _, overrides in jobs], initial_job_idx=batch[0].number)
            except Exception as raised:  # whatever a launcher makes of a job that failed, or was killed
                error = first_line(raised)
        self._wait_for_those_at_work(LOST_SECONDS if error else 0)
        for claim in list(self.waiting.values()):
            reason = last_line(claim.folder) or error or "no result"
            self._tell(claim, Outcome("failed", reason=reason))

    def _wait_for_those_at_work(self, patience: float) -> None:
        """A launcher comes back at the first job that it has lost, while the others still run, or are about to."""
        until = time.monotonic() + patience
        while True:
            self._tell_ended()
            begun = [self.ledger.is_at_work(claim.folder.name) for claim in self.waiting.values()]
            if any(begun):
                until = time.monotonic() + patience
            elif time.monotonic() >= until or not any((claim.folder / JOB_LOCK).exists() for claim in self.waiting.values()):
                return
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Trials are told as they end, not when the last of the batch has."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(POLL_SECONDS):
                self._tell_ended()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _tell_ended(self) -> None:
        for claim in list(self.waiting.values()):
            self._tell_if_ended(claim)

    def _tell_if_ended(self, claim: Claim) -> None:
        if outcome := read_outcome(claim.folder, self.ledger.objectives):
            self._tell(claim, outcome)

    def _tell(self, claim: Claim, outcome: Outcome) -> None:
        del self.waiting[claim.number]
        self.ledger.settle(claim.number, outcome)
        claim.lock.close()
        self.has_failed |= outcome.state == "failed"
        self.told(claim, outcome, None)
