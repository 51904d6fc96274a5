"""The stages of a tuning in turn: run the trials, hand the best values on, leave one table and one picture."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from segkit.cli.tune_command import HANDED_ON, Request, key_of
from segkit.cli.tune_trials import FOLDER, Trial
from segkit.cli.tune_verdicts import Verdict, judge
from segkit.config import compose
from segkit.config.schema import Train
from segkit.metrics.summary import MOST_WIDTH
from segkit.system.environment import job_name
from segkit.system.errors import SegkitError
from segkit.system.files import write_text_atomic
from segkit.system.progress import console
from segkit.training.plots import Curve, StagePanel, duration, trial_curves
from segkit.training.run_folder import Interrupted

SWEEPS = ("lr", "lr_wd")
"""The stages whose best values are handed on."""


@dataclass
class Tuning:
    """What has been done so far. `chosen`: key -> value, handed to the next stage."""

    request: Request
    chosen: dict[str, str] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        config = self.trials[0].config
        return Path(config.output_dir) / str(config.name) / FOLDER

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(trial.stage for trial in self.trials))

    def of(self, stage: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.stage == stage]

    def best(self, stage: str) -> Trial | None:
        """By the best value of what is monitored: the validation loss, unless the user says otherwise."""
        known = [trial for trial in self.of(stage) if math.isfinite(trial.score)]
        choose = max if known and known[0].config.metric.mode == "max" else min
        return choose(known, key=lambda trial: trial.score, default=None)


def tune(request: Request) -> int:
    """All stages. Exit code 1 where one of them has no trial that worked."""
    if job_name():
        raise SegkitError("start segkit tune once: it starts the processes of each training itself (trainer.devices)")
    tuning = Tuning(request, dict(request.start))
    try:
        for stage in request.stages:
            run_stage(tuning, stage)
    except (Interrupted, KeyboardInterrupt):
        report(tuning)
        raise KeyboardInterrupt from None
    report(tuning)
    print_next(tuning)
    return int(any(tuning.best(stage) is None for stage in request.stages))


def run_stage(tuning: Tuning, stage: str) -> None:
    jobs = tuning.request.jobs(stage, tuning.chosen)
    differing = {key_of(text) for job in jobs for text in job if any(text not in other for other in jobs)}
    for number, job in enumerate(jobs, start=1):
        tried = [text for text in job if key_of(text) in {*HANDED_ON, *map(key_of, tuning.chosen), *differing}]
        config = compose.compose("train", job, tuning.request.config_dirs)
        assert isinstance(config, Train)
        trial = Trial.of(stage, job, tried, config)
        console.print(f"\n[bold]{stage}[/bold] {number}/{len(jobs)}   {escape(trial.label)}")
        tuning.trials.append(trial)
        tuning.trials[-1] = trial.attempt(is_first=len(tuning.trials) == 1)
        write_json(tuning)
    tuning.verdicts[stage] = judge(stage, tuning.of(stage), tuning.best(stage))
    console.print(f"\n{stage}: {tuning.verdicts[stage]}", markup=False)
    if stage in SWEEPS and (best := tuning.best(stage)):
        tuning.chosen |= {text.partition("=")[0]: text.partition("=")[2] for text in best.tried}


# --- what is left behind ----------------------------------------------------------------------------------------------


def report(tuning: Tuning) -> None:
    if tuning.trials:
        write_json(tuning)
        trial_curves(panels(tuning), tuning.folder / "tuning.png", f"{tuning.trials[0].config.name}: tuning")
        show(tuning)


def show(tuning: Tuning) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "trial"):
        table.add_column(heading, no_wrap=True)
    for heading in ("epochs", "train loss", "val loss", "val dice", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stage in tuning.stages:
        for trial in tuning.of(stage):
            table.add_row(stage, escape(trial.label), *cells(trial), escape(remark(tuning, trial)))
    table.width = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")
    for stage, verdict in tuning.verdicts.items():
        console.print(f"{stage:<8} {verdict}", markup=False)
    console.print(f"picture  {tuning.folder / 'tuning.png'}\nnumbers  {tuning.folder / 'tuning.json'}", markup=False)


def cells(trial: Trial) -> list[str]:
    """Number of epochs, last training loss, best validation loss and Dice, time."""
    columns = trial.columns
    if not columns:
        return ["0", "-", "-", "-", "-"]
    val, dice = (columns.get(name, columns["epoch"][:0]) for name in ("val/loss", "val/dice"))
    numbers = [columns["train/loss"][-1], min(known(val), default=math.nan), max(known(dice), default=math.nan)]
    shown = [f"{value:.4f}" if math.isfinite(value) else "-" for value in numbers]
    return [str(len(columns["epoch"])), *shown, duration(sum(known(columns["seconds"])))]


def known(values: Any) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def remark(tuning: Tuning, trial: Trial) -> str:
    if trial.problem:
        return trial.problem
    if trial.folder.status.get("state") != "finished":
        return "interrupted"
    return "best" if len(tuning.of(trial.stage)) > 1 and trial is tuning.best(trial.stage) else ""


def panels(tuning: Tuning) -> list[StagePanel]:
    return [StagePanel(stage, [curve(trial, trial is tuning.best(stage)) for trial in tuning.of(stage)]) for stage in tuning.stages]


def curve(trial: Trial, is_best: bool) -> Curve:
    return Curve(trial.label + (" (failed)" if trial.problem else ""), trial.columns, is_best)


def write_json(tuning: Tuning) -> None:
    content = {
        "chosen": tuning.chosen,
        "verdicts": {stage: {"text": one.text, "warning": one.is_warning} for stage, one in tuning.verdicts.items()},
        "trials": [as_dict(tuning, trial) for trial in tuning.trials],
    }
    write_text_atomic(tuning.folder / "tuning.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def as_dict(tuning: Tuning, trial: Trial) -> dict[str, Any]:
    score = trial.score if math.isfinite(trial.score) else None
    return {
        "stage": trial.stage,
        "tried": trial.tried,
        "epochs": len(trial.columns.get("epoch", ())),
        "monitor": trial.monitor,
        "score": score,
        "state": "failed" if trial.problem else trial.folder.status.get("state"),
        "problem": trial.problem,
        "folder": str(trial.folder.path),
        "overrides": trial.job,
    }


def print_next(tuning: Tuning) -> None:
    """What to type with what was found."""
    if final := tuning.best("final"):
        console.print(f"next     segkit evaluate ckpt={final.folder.path}", markup=False)
    elif tuning.chosen:
        console.print(f"next     segkit train {shlex.join(next_words(tuning.request, tuning.chosen))}", markup=False)


def next_words(request: Request, chosen: dict[str, str]) -> Sequence[str]:
    return [*request.overrides, "stage=final", *(f"{key}={value}" for key, value in chosen.items())]
