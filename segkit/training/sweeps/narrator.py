"""What a sweep says: how it begins, one line a trial, how it ends."""

from __future__ import annotations

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from segkit.system.errors import SegkitError
from segkit.system.progress import console
from segkit.training.sweeps.names import clean, short_keys
from segkit.training.sweeps.outcome import Outcome
from segkit.training.sweeps.study import Claim, Ledger, first


class TrialsFailed(SegkitError):
    """The sweep has gone on to its end, or to its first failure with `sweep.fail_fast=true`."""

    exit_code = 1


class Narrator:
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        keys = [parameter.key for parameter in ledger.space.parameters]
        self.short = short_keys(keys)

    def begin(self, n_failed: int, launcher: str | None = None) -> None:
        counts, settings = self.counts(), self.ledger.settings
        known = [f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state]]
        known += [f"{n_failed} to run once more"] if n_failed else []
        pruning = "" if settings.pruner == "none" else f", {settings.pruner} pruning"
        how = f"by {launcher}" if launcher else f"{settings.n_jobs} at a time"
        say(f"sweep      {self.ledger.folder}")
        say(f"trials     {self.ledger.n_trials}, {how}; {settings.sampler}{pruning}" + "".join(f"; {k}" for k in known))

    def tell(self, claim: Claim, outcome: Outcome, seconds: float | None) -> None:
        values = "  ".join(f"{name} {value:.4g}" for name, value in zip(self.ledger.objectives, outcome.values, strict=False))
        what = values or (f"failed: {outcome.reason}" if outcome.state == "failed" else outcome.state)
        given = " ".join(f"{self.short[key]}={clean(text)}" for key, text in claim.overrides.items())
        say(f"trial {claim.first:<4} {what}   {given}" + ("" if seconds is None else f"   {seconds:.0f} s"))

    def end(self) -> None:
        """The best, and every failure with its place. Raises `TrialsFailed`."""
        counts = self.counts()
        say("finished   " + ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state]))
        if len(self.ledger.objectives) == 1:
            self._best()
        failed = [t for t in self.ledger.trials() if t.state is TrialState.FAIL]
        if failed:
            lines = [f"  trial {first(t)}   {t.user_attrs.get('reason', '')};   {self._place(t)}" for t in failed]
            headline = f"{len(failed)} of {self.ledger.n_trials} trials failed;   the same command takes up what broke off"
            raise TrialsFailed("\n".join([headline, *lines]))

    def _best(self) -> None:
        ((name, mode),) = self.ledger.objectives.items()
        done = [t for t in self.ledger.trials() if t.state is TrialState.COMPLETE]
        if done:
            best = (max if mode == "max" else min)(done, key=lambda t: t.value or 0.0)
            say(f"best       {name} {best.value:.4g}   {self._place(best)}")

    def _place(self, trial: FrozenTrial) -> str:
        return str(self.ledger.folder / trial.user_attrs.get("folder", ""))

    def counts(self) -> Counter[TrialState]:
        return Counter(trial.state for trial in self.ledger.trials())


WORDS = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed", TrialState.RUNNING: "running"}


def say(text: str) -> None:
    console.print(text, markup=False)
