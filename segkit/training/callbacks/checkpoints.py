"""Checkpoints, interruption and early stopping: a run that is killed or stopped anywhere resumes as if it had not been."""

from __future__ import annotations

import inspect
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Checkpoint
from pydantic import Field

from segkit.metrics.base import known_as
from segkit.system.errors import SegkitError, nearest
from segkit.system.files import atomic_path
from segkit.system.progress import console
from segkit.training.callbacks.ending import ends_here
from segkit.training.callbacks.finite import NonFiniteGuard
from segkit.training.checkpoint_io import AtomicCheckpointIO
from segkit.training.module import SegmentationModule
from segkit.training.resuming import check_optimizers
from segkit.training.status import Interrupted, NonFinite

SHARE = 0.005
"""Of the time, at most, for checkpoints at the ends of short epochs."""


class Checkpoints(Checkpoint):
    """last.ckpt at the end of an epoch and every few minutes inside one; best.ckpt where the monitored metric improves.

    Short epochs are not all worth a file: both wait until writing takes less than `SHARE` of the time, the best one in memory. best.ckpt is
    written before last.ckpt: killed between the two, or before both, the epochs are repeated and find the same best again.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, every_minutes: float, guard: NonFiniteGuard) -> None:
        self.guard = guard
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.monitor, self.mode = f"val/{monitor}", mode
        self.every_seconds = 60 * every_minutes
        self.is_asked = False
        """Whether the next checkpoint is to come as soon as it can."""
        self.saved_step: int | None = None
        """Of the latest checkpoint."""
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._improved, self._n_missing = False, 0
        self._saved_at, self._seconds = time.monotonic(), 0.0
        """When a file was last complete, and how long its writing took."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        io = trainer.strategy.checkpoint_io
        if isinstance(io, AtomicCheckpointIO) and io.restoring:
            check_optimizers(io.restoring, trainer.optimizers)
            io.restoring = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the score. NaN, which no validation case had a value for, is never the best."""
        name = known_as(self.monitor, trainer.callback_metrics)
        if name not in trainer.callback_metrics:
            raise SegkitError(not_logged(self.monitor, pl_module, trainer.callback_metrics))
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[name])
        best = self.best_score
        if math.isnan(score):
            self._n_missing += 1
        elif best is None or best != best or (score > best if self.mode == "max" else score < best):
            self.best_score, self.best_epoch, self._improved = score, trainer.current_epoch, True
            if isinstance(pl_module, SegmentationModule):
                pl_module.metadata = replace(pl_module.metadata, score={name: score, "epoch": trainer.current_epoch})
            if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:  # trainer.val_check_interval
                self.save_best(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._improved and self._can_wait(trainer):
            self._hold_best(trainer)
        elif self._improved:
            self.save_best(trainer)
            if trainer.is_global_zero:
                with atomic_path(self.last) as temporary:
                    link_or_copy(self.best, temporary)
        elif ends_here(trainer) or on_any_process(trainer, self.is_asked or self.is_due):
            self.save_last(trainer)

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= min(self._seconds / SHARE, self.every_seconds)

    def _can_wait(self, trainer: L.Trainer) -> bool:
        """Of the first process, which alone writes."""
        is_ours = isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        return is_ours and not (ends_here(trainer) or self.is_asked or self.is_due)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if can_save(trainer) and on_any_process(trainer, time.monotonic() - self._saved_at > self.every_seconds):
            self.save_last(trainer)

    def save_best(self, trainer: L.Trainer) -> None:
        self._improved = False
        self._save(trainer, self.best, time.monotonic())

    def _hold_best(self, trainer: L.Trainer) -> None:
        self._improved = False
        self.guard.check_weights(trainer, trainer.lightning_module)
        io = trainer.strategy.checkpoint_io
        io.is_holding = True  # type: ignore[attr-defined]
        try:
            trainer.save_checkpoint(self.best)
        finally:
            io.is_holding = False  # type: ignore[attr-defined]

    def write_held(self, trainer: L.Trainer) -> None:
        if isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            trainer.strategy.checkpoint_io.write_held()

    def save_last(self, trainer: L.Trainer) -> None:
        start = time.monotonic()
        self.write_held(trainer)
        self._save(trainer, self.last, start)

    def _save(self, trainer: L.Trainer, path: Path, start: float) -> None:
        """`start`: when the writing began."""
        self.guard.check_weights(trainer, trainer.lightning_module)
        trainer.save_checkpoint(path)
        self._saved_at = time.monotonic()
        self._seconds, self.saved_step = self._saved_at - start, trainer.global_step

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        with suppress(SegkitError, OSError):  # the exception is what counts
            self.write_held(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write_held(trainer)
        if self._n_missing and self.best_score is None:
            what = f"metric.monitor={self.monitor.removeprefix('val/')} had no value in any validation ({self._n_missing})"
            raise NonFinite(f"{what}, so no checkpoint is the best;   monitor another metric, such as  metric.monitor=loss metric.mode=min")

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]


class Interruption(L.Callback):
    """Stop after the current batch on Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

    Raises `Interrupted` once last.ckpt is written: after the batch, or after validation if that has begun.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.is_saved = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python hands signals to the main thread alone
        for sign in (signal.SIGINT, signal.SIGTERM):
            self._previous[sign] = signal.signal(sign, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.checkpoints.is_asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("stopping after this batch, to write a checkpoint; Ctrl-C once more to stop at once")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if can_save(trainer) and on_any_process(trainer, self.checkpoints.is_asked):
            self.checkpoints.save_last(trainer)
            self.is_saved = True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Only here, as Lightning logs a step after the callbacks have seen its end."""
        if self.is_saved:
            raise Interrupted

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs, if the one that has ended was saved: else after the next batch."""
        if self.checkpoints.saved_step == trainer.global_step and on_any_process(trainer, self.checkpoints.is_asked):
            raise Interrupted

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for sign, handler in self._previous.items():
            signal.signal(sign, handler)
        self._previous = {}


def takes_all_of(parent: type) -> Callable[[type], type]:
    """Give a class that hands its further keywords on the signature of both, so that a config is checked against it."""

    def describe(cls: type) -> type:
        own, theirs = (inspect.signature(one).parameters for one in (cls, parent))
        named = {name: parameter for name, parameter in {**theirs, **own}.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
        cls.__signature__ = inspect.Signature([one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in named.values()])  # type: ignore[attr-defined]
        return cls

    return describe


@takes_all_of(callbacks.ModelCheckpoint)
class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Keeps further checkpoints beside best.ckpt and last.ckpt, as Lightning's own class does; right after a resume, too.

    Args:
        every_minutes: Of `Checkpoints`, which writes last.ckpt.
        save_last: last.ckpt is always written.
        **keywords: Of Lightning's class.
    """

    def __init__(
        self,
        every_minutes: Annotated[float, Field(gt=0)] = 5,
        save_last: bool | Literal["link"] | None = None,
        mode: Literal["min", "max"] | None = None,
        **keywords: Any,
    ) -> None:
        self.every_minutes = every_minutes
        repeats = {"enable_version_counter": False, **keywords}  # an epoch that is repeated writes the same file again
        super().__init__(mode=mode or "min", **repeats)

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = super()._monitor_candidates(trainer)
        known = known_as(str(self.monitor), found)
        if self.monitor is not None and known not in found and trainer.fit_loop.epoch_loop.val_loop._has_run:
            raise SegkitError(not_logged(self.monitor, trainer.lightning_module, found, "callbacks.model_checkpoint.monitor"))
        return {**found, str(self.monitor): found[known]} if known in found else found

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        for guard in (callback for callback in trainer.callbacks if isinstance(callback, NonFiniteGuard)):  # type: ignore[attr-defined]
            guard.check_weights(trainer, trainer.lightning_module)
        super()._save_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The files have moved with their run folder; one that was deleted is forgotten."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else ""

        kept = {here(path): score for path, score in state_dict["best_k_models"].items() if Path(here(path)).exists()}
        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        super().load_state_dict({**state_dict, **paths, "best_k_models": kept, "dirpath": self.dirpath})


@takes_all_of(callbacks.EarlyStopping)
class EarlyStopping(callbacks.EarlyStopping):
    """Early stopping that survives a resume: Lightning's checkpoint keeps the count of bad epochs, but not the decision to stop."""

    def __init__(
        self,
        monitor: str | None = None,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
        patience: Annotated[int, Field(gt=0)] | None = 20,
        mode: Literal["min", "max"] | None = None,
        **keywords: Any,
    ) -> None:
        self.named = str(monitor)
        super().__init__(self.named, min_delta, patience or 0, mode=mode or "min", **{"check_finite": False, **keywords})

    @property
    def state_key(self) -> str:
        return f"StopEarly{ {'monitor': self.named, 'mode': self.mode} }"  # as earlier checkpoints have it

    def _run_early_stopping_check(self, trainer: L.Trainer) -> None:
        self.monitor = known_as(self.named, trainer.callback_metrics)
        if self.monitor not in trainer.callback_metrics and self.strict and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            key = "callbacks.early_stopping.monitor"
            raise SegkitError(not_logged(self.named, trainer.lightning_module, trainer.callback_metrics, key))
        super()._run_early_stopping_check(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def not_logged(monitor: str, module: L.LightningModule, logged: Mapping[str, Any], key: str = "metric.monitor") -> str:
    """Why a score is missing, and what to type."""
    name, names = monitor.removeprefix("val/"), [key.removeprefix("val/") for key in logged]
    others = nearest(name, names, f"{key}=") or f"it logs {', '.join(logged) or 'nothing'}"
    fix = f";   add  {key}={names[-1]}" if names else ""
    return f"{key}={name} is not logged by the validation of {type(module).__name__}: {others}{fix}"


def can_save(trainer: L.Trainer) -> bool:
    """Not between optimizer steps, since a checkpoint holds no accumulated gradients; nor at the end of an epoch, which saves anyway."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return not progress.is_last_batch and progress.current.ready % trainer.accumulate_grad_batches == 0


def link_or_copy(source: Path, target: Path) -> None:
    """A second name costs nothing, and is safe: both files are only ever replaced, never changed in place."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def on_any_process(trainer: L.Trainer, mine: bool) -> bool:
    """One decision for all processes, so that none waits for the others."""
    if trainer.world_size == 1:
        return mine
    return bool(trainer.strategy.reduce_boolean_decision(mine, all=False))
