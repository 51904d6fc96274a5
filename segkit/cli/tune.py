"""`segkit tune`: five stages of tuning, each a sweep around the best values of the stages before (procedure of the GI-tract notebook).

sanity (loss of the untrained network), overfit (two images), lr (learning rates), lr_wd (with weight decays), final (long training).
The stages lie in conf/stage; their sweeps, named by stage and config, in outputs/NAME/sweeps.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.cli.application import Application
from segkit.cli.main import BY_NAME
from segkit.cli.sweep import print_table
from segkit.cli.tune_verdicts import Stage, evaluate, label, problem
from segkit.config import compose
from segkit.config.compose import is_swept
from segkit.config.overrides import key_of
from segkit.config.schema import Train
from segkit.system.environment import job_name
from segkit.system.errors import Problem, ProblemsFound, SegkitError, nearest
from segkit.system.files import write_text_atomic
from segkit.system.page import Table
from segkit.system.plain import read_json
from segkit.system.progress import console
from segkit.system.shell import override
from segkit.training.config_hash import config_hash
from segkit.training.plots import Curve, duration, trial_curves
from segkit.training.sweeps.results import Trial, read_sweep

STAGES = ("sanity", "overfit", "lr", "lr_wd", "final")
SWEEPS = ("lr", "lr_wd")
"""The stages whose best values are handed on."""
PREFIX = re.compile(rf"^([+~]*)({'|'.join(STAGES)})\.(.+)$", re.DOTALL)
HANDED_ON = ("optimizer.lr", "optimizer.weight_decay")
"""Typed for all stages, they are where tuning begins, not what each trial has."""
RESERVED = {
    "stage": "choose with  'stages=[lr,final]'",
    "run": "leave it out, or choose another  name=NAME;  each trial has a folder of its own",
    "resume": "leave it out;  finished trials are skipped, interrupted ones resumed",
    "sweep.name": "leave it out, or choose another  name=NAME",
}
"""Keys that segkit tune sets itself, and what to type instead."""
WHOLE = ("experiment", "name", "data", "output_dir")
"""The same in all stages."""


@dataclass
class Tuning:
    """A command line, and what has come of it."""

    names: Sequence[str] = STAGES  # of the stages to run
    overrides: list[str] = field(default_factory=list)  # for all stages
    of_stage: dict[str, list[str]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)  # the best values so far, key -> text; at first those that are typed
    config_dirs: Sequence[str] = ()
    stages: list[Stage] = field(default_factory=list)  # those that have been run

    def compose(self, words: Sequence[str]) -> Train:
        config = compose.compose("train", words, self.config_dirs)
        assert isinstance(config, Train)
        return config

    @property
    def chosen_words(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.chosen.items()]

    def words(self, stage: str) -> list[str]:
        """The overrides of a stage's sweep; without anything to vary the seed is swept over its one value."""
        handed = [] if stage == "sanity" else self.chosen_words  # sanity learns nothing
        words = compose.sweep_words("train", [*self.overrides, *handed, f"stage={stage}"], self.of_stage.get(stage, ()), self.config_dirs)
        keys = {*HANDED_ON, *self.chosen} if stage != "sanity" else set()
        words = [f"{key_of(w)}=choice({w.partition('=')[2]})" if key_of(w) in keys and not is_swept(w) else w for w in words]
        if not any(map(is_swept, words)):
            words = [*(word for word in words if key_of(word) != "seed"), f"seed=choice({self.compose(words).seed})"]
        return words


# --- the command line -------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0; 1 where a stage has no trial that worked; 2 for mistakes of input; 130 when interrupted."""
    tuning = read(argv)
    check(tuning)
    try:
        return tune(tuning)
    except KeyboardInterrupt:
        print(f"segkit tune: stopped; resume with   {shlex.join(['segkit', 'tune', *argv])}", file=sys.stderr)
        return 130


def read(argv: Sequence[str]) -> Tuning:
    """Sort the words of the command line. Raises `SegkitError`."""
    application = Application(BY_NAME["train"], argv)
    if application.is_multirun:
        raise SegkitError("leave out -m: the stages sweep by themselves;   set what one of them tries:  lr.optimizer.lr=0.1,0.01")
    tuning = Tuning(config_dirs=application.folders)
    for word in application.args.overrides:
        key, _, value = word.partition("=")
        if key == "stages":
            tuning.names = chosen_stages(value)
        elif match := PREFIX.match(word):
            sign, stage, rest = match.groups()
            tuning.of_stage.setdefault(stage, []).append(sign + rest)
        elif key in HANDED_ON:
            tuning.chosen[key] = value
        else:
            tuning.overrides.append(word)
    return tuning


def chosen_stages(text: str) -> tuple[str, ...]:
    """In the order in which they build on each other, whatever order they are typed in."""
    names = [name.strip() for name in text.strip("[] ").split(",") if name.strip()]
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        what = f"there is no stage {unknown[0]}; {nearest(unknown[0], STAGES)}".rstrip("; ") if unknown else "names no stage"
        raise SegkitError(f"stages={text}: {what};   choose from  {override('stages', list(STAGES))}")
    return tuple(stage for stage in STAGES if stage in names)


def check(tuning: Tuning) -> None:
    """Raise `ProblemsFound` with everything that is wrong with any stage."""
    common = [*tuning.overrides, *tuning.chosen_words]
    problems = misplaced(tuning, common)
    for stage in () if problems else tuning.names:
        own = tuning.of_stage.get(stage, ())
        rest = [text for text in common if key_of(text) not in map(key_of, own)]
        try:
            compose.check("train", [*rest, f"stage={stage}", *own], tuning.config_dirs, multirun=True)
        except ProblemsFound as found:
            problems += found.problems
    if problems:
        raise ProblemsFound(dict.fromkeys(problems), "tuning starts")


def misplaced(tuning: Tuning, common: Sequence[str]) -> list[Problem]:
    """Keys that segkit tune sets, lists of values for all stages, and keys of a stage that hold for all or that is not run."""
    words = [*tuning.overrides, *(word for of_stage in tuning.of_stage.values() for word in of_stage)]
    problems = [Problem(key, "is set by segkit tune", RESERVED[key]) for word in words if (key := key_of(word)) in RESERVED]
    for stage, of_stage in tuning.of_stage.items():
        if stage not in tuning.names:
            problems.append(Problem(f"{stage}.{key_of(of_stage[0])}", f"stage {stage} is not run", f"add it to  'stages=[…,{stage}]'"))
        wrong = [key for word in of_stage if (key := key_of(word)) in WHOLE]
        problems += [Problem(f"{stage}.{key}", "is the same in all stages", f"write  {key}=VALUE") for key in wrong]
    for text in filter(is_swept, common):
        fix = "tune one at a time" if key_of(text) in WHOLE else f"write  lr.{text}"
        problems.append(Problem(key_of(text), "holds several values; which stage is to try them?", fix))
    return problems


# --- the stages -------------------------------------------------------------------------------------------------------


def tune(tuning: Tuning) -> int:
    """Run all stages; exit code 1 where one of them has no trial that worked."""
    if job_name():
        raise SegkitError("start segkit tune once: it starts the processes of each training itself (trainer.devices)")
    config = tuning.compose(tuning.overrides)
    home = Path(config.output_dir, str(config.name))
    try:
        for name in tuning.names:
            if run_stage(tuning, home, name) == 2:
                return 2
            if not any(trial.columns for trial in tuning.stages[0].sweep.trials):
                break  # what fails before the first epoch would fail in all stages
    finally:
        if tuning.stages:
            report(tuning, home)
    if final := next((stage.best for stage in tuning.stages if stage.name == "final"), None):
        console.print(f"next     segkit evaluate {override('ckpt', str(final.path))}", markup=False)
    elif tuning.chosen:
        console.print(f"next     segkit train {shlex.join(next_words(tuning))}", markup=False)
    return int(any(stage.best is None for stage in tuning.stages))


def next_words(tuning: Tuning) -> list[str]:
    """The overrides of a training with what was found."""
    return [*tuning.overrides, "stage=final", *tuning.chosen_words]


def run_stage(tuning: Tuning, home: Path, name: str) -> int:
    """Run the sweep of a stage, or what is left of it, and hand its best values on. Exit code 2 for mistakes of input."""
    words = tuning.words(name)
    config = tuning.compose([word for word in words if not is_swept(word)])
    folder = home / "sweeps" / sweep_name(name, words, config)
    console.print(f"\n[bold]{name}[/bold]")
    folders = [word for path in tuning.config_dirs for word in ("--config-dir", path)]
    application = Application(BY_NAME["train"], ["-m", *folders, *words, f"sweep.name={folder.name}"])
    is_stopped = False
    try:
        application.start_hydra()
    except KeyboardInterrupt:
        is_stopped = True
    except SegkitError as error:  # a mistake of input, or trials that failed
        if application.report(error) == 2:
            return 2
    stage = Stage(name, words, config, read_sweep(folder))
    tuning.stages.append(stage)
    if is_stopped:
        raise KeyboardInterrupt
    stage.verdict, stage.is_warning = evaluate(stage)
    write_json(tuning, home / "tuning")
    console.print(f"\n{name}: {stage.line}", markup=False)
    if name in SWEEPS and stage.best:
        tuning.chosen |= stage.best.keys
    return 0


def sweep_name(stage: str, words: Sequence[str], config: Train) -> str:
    """The same for the same command; another one for another config, or other values to try."""
    content = [config_hash(config), *sorted(filter(is_swept, words))]
    return f"tune-{stage}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]}"


# --- reports ----------------------------------------------------------------------------------------------------------


def report(tuning: Tuning, home: Path) -> None:
    """Write tuning.json and tuning.png, and print all trials and verdicts."""
    folder = home / "tuning"
    write_json(tuning, folder)
    panels = {}
    for stage in tuning.stages:
        labels = [label(stage, trial) + " (failed)" * bool(problem(trial)) for trial in stage.sweep.trials]
        panels[stage.name] = [
            Curve(text, trial.columns, trial is stage.best) for text, trial in zip(labels, stage.sweep.trials, strict=True)
        ]
    trial_curves(panels, folder / "tuning.png", f"{home.name}: tuning")
    numbers = ["epochs", "train loss", "val loss", "val dice", "time"]
    rows = [row(stage, trial) for stage in tuning.stages for trial in stage.sweep.trials]
    print_table(Table(["stage", "trial", *numbers, ""], numbers, rows))
    for stage in tuning.stages:
        console.print(f"{stage.name:<8} {stage.line}", markup=False)
    console.print(f"figure   {folder / 'tuning.png'}\nnumbers  {folder / 'tuning.json'}", markup=False)


def row(stage: Stage, trial: Trial) -> list[str]:
    """Epochs, last training loss, best validation loss and Dice, time, and a remark."""
    losses = trial.columns.get("train/loss", [math.nan])
    numbers = [losses[-1], trial.best("loss", "min"), trial.best("dice", "max")]
    texts = [f"{value:.4f}" if math.isfinite(value) else "-" for value in numbers]
    remark = problem(trial) or ("best" if trial is stage.best and len(stage.sweep.trials) > 1 else "")
    if not remark and trial.state != "finished":
        remark = "interrupted"
    return [stage.name, label(stage, trial), str(trial.epochs), *texts, duration(trial.seconds), remark]


def write_json(tuning: Tuning, folder: Path) -> None:
    content = {
        "chosen": tuning.chosen,
        "verdicts": {stage.name: {"text": stage.verdict, "warning": stage.is_warning} for stage in tuning.stages if stage.verdict},
        "trials": [as_dict(stage, trial) for stage in tuning.stages for trial in stage.sweep.trials],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "tuning.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def as_dict(stage: Stage, trial: Trial) -> dict[str, Any]:
    tried = [f"{key}={text}" for key, text in trial.keys.items()]
    return {
        "stage": stage.name,
        "tried": tried,
        "epochs": trial.epochs,
        "monitor": f"val/{next(iter(stage.sweep.objectives))}",
        "score": trial.values[0] if trial.values and not problem(trial) else None,
        "state": "failed" if problem(trial) else read_json(trial.path / "status.json").get("state"),
        "problem": problem(trial),
        "folder": str(trial.path),
        "overrides": [*(word for word in stage.words if not is_swept(word)), *tried],
    }
