"""Stops a training at the first number that is not finite: in a loss, a gradient, the weights, a probability, a validation score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from segkit.config.schema import Train
from segkit.data.dataset import Batch, CaseDataset
from segkit.models import checkpoint
from segkit.system.errors import few
from segkit.system.progress import console
from segkit.training.distributed import all_gather
from segkit.training.run_folder import RunFolder
from segkit.training.status import NonFinite


@dataclass(frozen=True)
class TrainingStep:
    """A step whose numbers wait on the device to be read. `norm`: of the gradient, where the step had one to check."""

    place: str
    cases: Sequence[str]
    loss: Tensor
    norm: Tensor | None

    @property
    def is_finite(self) -> Tensor:
        finite = self.loss.isfinite()
        return finite if self.norm is None else finite & self.norm.isfinite()

    def __str__(self) -> str:
        loss = float(self.loss)
        what = f"gradient {float(self.norm):g}" if self.norm is not None and loss - loss == 0 else f"loss {loss:g}"
        return f"{what}: not finite {self.place}, cases {few(self.cases)}"


class NonFiniteGuard(L.Callback):
    """Raises `NonFinite` with the place, the cases and what to type; with `trainer.on_nonfinite=skip` prints a line and goes on.

    Reading a number from a GPU waits for everything in its queue. So losses and norms are kept there, and read together where the
    logger reads the loss anyway (`log_every_n_steps`), and before each validation and each checkpoint: none is written of what
    comes after. On a processor, and to skip a step, they are read at once. Must come before the callbacks that save.
    """

    def __init__(self, run: RunFolder, cfg: Train) -> None:
        self.run, self.cfg = run, cfg
        self.skips = cfg.trainer.on_nonfinite == "skip"
        self._steps: list[TrainingStep] = []
        self._lr = 0.0
        self._buffers: list[Tensor] = []
        self._n_skipped, self._n_steps = 0, 0

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._lr = learning_rate(trainer)  # the scheduler moves it before the step ends
        self._buffers = [buffer.clone() for buffer in pl_module.buffers()] if self.skips else []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = loss_in(outputs)
        if loss is None:
            return  # of an own LightningModule that optimizes by itself
        norm = getattr(pl_module, "gradient_norm", None)
        if norm is not None:
            pl_module.gradient_norm = None
        at = f"in epoch {trainer.current_epoch}, batch {batch_idx} (step {trainer.global_step}), learning rate {self._lr:g}"
        self._steps.append(TrainingStep(at, case_ids(trainer, batch), loss.detach(), norm))
        if self.skips and not loss.isfinite():
            for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
                buffer.copy_(before)  # else the statistics of batch norm stay NaN
        is_logged = (batch_idx + 1) % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if self.skips or is_logged or loss.device.type == "cpu":
            self.check_steps()

    def check_steps(self) -> None:
        """Read what the steps since the last reading have left on the device."""
        steps, self._steps = self._steps, []
        finite = torch.stack([step.is_finite for step in steps]).tolist() if steps else []
        bad = [step for step, is_finite in zip(steps, finite, strict=True) if not is_finite]
        self._n_steps, self._n_skipped = self._n_steps + len(steps), self._n_skipped + len(bad)
        self.report([str(step) for step in bad[:1]], "skipped    ", of_step=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check_steps()
        skipped, steps, self._n_skipped, self._n_steps = self._n_skipped, self._n_steps, 0, 0
        if skipped and skipped == steps:
            raise NonFinite(self.message(f"all {steps} steps of epoch {trainer.current_epoch} were not finite, so nothing was learned"))

    # --- validation and checkpoints -----------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check_steps()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        where = f"not finite in the validation of epoch {trainer.current_epoch}"
        self.report([f"{what}: {where}" for what in getattr(pl_module, "not_finite", ())[:1]], "warning    ")

    def check_weights(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """To be called before a checkpoint is written."""
        self.check_steps()
        bad = next(non_finite_weights(pl_module), None)
        if problems := [problem for problem in all_gather(bad) if problem]:
            raise NonFinite(self.message(f"weights {problems[0]}: not finite in epoch {trainer.current_epoch}"))

    # --- what is said -------------------------------------------------------------------------------------------------

    def report(self, mine: Sequence[str], word: str, of_step: bool = False) -> None:
        """Stop all processes together, or with `skip` print a line. `of_step`: it can be left out."""
        problems = [problem for of_process in all_gather(list(mine)) for problem in of_process]
        if not problems:
            return
        if not self.skips:
            raise NonFinite(self.message(problems[0], of_step))
        console.print(f"{word}{problems[0]}", markup=False)

    def message(self, problem: str, of_step: bool = False) -> str:
        resume = self.run.how_to_resume(self.cfg.allow_targets)
        skip = "" if self.skips or not of_step else f"\n  or leave such steps out:  {resume} trainer.on_nonfinite=skip"
        if not self.run.last.exists():
            return f"{problem};   no checkpoint yet, so start again with\n  {self.gentler()}{skip}"
        saved = checkpoint.read(self.run.last)
        where = f"{self.run.last} (epoch {saved['epoch']}, step {saved['global_step']})"
        return f"{problem};   the last good checkpoint is {where}\n  {self.gentler(f'init_from={self.run.last}')}{skip}"

    def gentler(self, *more: str) -> str:
        """The command of this run with a tenth of its learning rate, and what else keeps numbers finite."""
        lr, cfg = self.cfg.optimizer.get("lr"), self.cfg.trainer
        fixes = [f"optimizer.lr={float(lr) / 10:g}"] if lr else []
        fixes += ["trainer.gradient_clip_val=1"] if not cfg.gradient_clip_val else []
        fixes += ["trainer.precision=32"] if "16" in str(cfg.precision) else []
        return self.run.command(*more, *fixes, without=["init_from"])


def loss_in(outputs: Any) -> Tensor | None:
    """The loss that a training step has returned: by itself, or in a mapping."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) else None


def learning_rate(trainer: L.Trainer) -> float:
    """Of the first optimizer; NaN where there is none."""
    return float(trainer.optimizers[0].param_groups[0]["lr"]) if trainer.optimizers else math.nan


def non_finite_weights(module: torch.nn.Module) -> Iterator[str]:
    """Names of parameters and buffers that hold NaN or infinity; read from the device in one piece."""
    named = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point() and tensor.numel()}
    if not named:
        return
    finite = torch.stack([tensor.detach().isfinite().all().reshape(()) for tensor in named.values()]).tolist()
    yield from (name for name, is_finite in zip(named, finite, strict=True) if not is_finite)


def case_ids(trainer: L.Trainer, batch: Any) -> list[str]:
    """The cases of a training batch; with patches a case may be there several times. Those of an own DataModule have no names."""
    dataset = getattr(getattr(trainer, "datamodule", None), "train", None)
    if not isinstance(dataset, CaseDataset) or not isinstance(batch, Batch):
        return ["unknown"]
    cases = dataset.cases
    return list(dict.fromkeys(cases[index % len(cases)].id for index in batch.indices))
