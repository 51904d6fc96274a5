"""Verdicts on the stages of `segkit tune`: is the network sane, does it overfit two images, which values are best?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from segkit.config.schema import Train
from segkit.training.run_folder import RunFolder
from segkit.training.sweeps.results import Sweep, Trial

TOLERANCE = 0.2
"""Relative deviation of an untrained network's cross-entropy from that of a guess."""
FALLEN, LEARNED = 0.1, 0.95
"""Two images are learned where their loss falls below this share of what it was, or their Dice reaches this."""
DIVERGED = "diverged: the loss is no longer a number"


@dataclass
class Stage:
    """A stage that has been run, with the overrides of its sweep and the config that its trials share."""

    name: str
    words: list[str]
    config: Train
    sweep: Sweep
    verdict: str = ""
    is_warning: bool = False

    @property
    def best(self) -> Trial | None:
        """By the best value of the monitored metric: the validation loss, unless the user says otherwise."""
        return next((trial for trial in self.sweep.ranked if not problem(trial)), None)

    @property
    def line(self) -> str:
        return f"{'WARNING: ' * self.is_warning}{self.verdict}"


def problem(trial: Trial) -> str:
    """Why a trial failed; empty for one that has finished or was interrupted."""
    has_ended = trial.state == "finished" or trial.reason.startswith("objective ")
    if has_ended and trial.columns:
        ended_well = np.isfinite(trial.columns["train/loss"][-1]) and trial.values
        return "" if ended_well else DIVERGED
    return "" if trial.reason == "interrupted" else trial.reason


def evaluate(stage: Stage) -> tuple[str, bool]:
    """The verdict on a stage, and whether something seems wrong."""
    if stage.best is None:
        return f"no trial worked: {next(map(problem, stage.sweep.trials), 'none was run')}", True
    return {"sanity": sanity, "overfit": overfit}.get(stage.name, best_values)(stage, stage.best)


def sanity(stage: Stage, best: Trial) -> tuple[str, bool]:
    """An untrained network gives all K classes the same probability: its cross-entropy is ln K; ln 2 with a sigmoid."""
    loss = best.columns["train/loss"][0]
    if "train/loss_ce" not in best.columns:
        return f"the untrained network's loss is {loss:.3f}; it has no part ce (cross-entropy), whose value would be known", False
    from segkit.models import checkpoint

    ce, ckpt = best.columns["train/loss_ce"][0], RunFolder(best.path).best
    labels = checkpoint.read_metadata(ckpt, checkpoint.read(ckpt)).label_map()
    k = labels.n_outputs if labels.mode == "multiclass" else 2
    text = f"cross-entropy of the untrained network {ce:.3f}, of a guess ln {k} = {math.log(k):.3f}"
    if abs(ce / math.log(k) - 1) <= TOLERANCE:
        return text, False
    return f"{text}: more than {TOLERANCE:.0%} off; check the head of the network, the loss and the labels", True


def overfit(stage: Stage, best: Trial) -> tuple[str, bool]:
    losses = best.columns["train/loss"]
    text = f"the training loss fell from {losses[0]:.3g} to {losses[-1]:.3g}"
    if losses[-1] <= FALLEN * losses[0]:
        return text, False
    with ProcessPoolExecutor(1, get_context("fork")) as pool:  # threads that inference starts here would break later forks
        dice = pool.submit(dice_of_the_first_batch, stage.config, best.path).result()
    text += f", and Dice on these images is {dice:.3f}"
    if dice >= LEARNED:
        return text, False
    fix = "try more steps (overfit.trainer.max_epochs=600) or another rate (overfit.optimizer.lr=…); else network or loss is wrong"
    return f"{text}: did not overfit two images; {fix}", True


def dice_of_the_first_batch(cfg: Train, path: Path) -> float:
    """Dice of the last weights on the images that the stage has shown again and again, on their original grid."""
    from segkit.data.datamodule import SegmentationData, intensity_statistics
    from segkit.inference import predictor
    from segkit.inference.evaluation import evaluate_cases
    from segkit.models import checkpoint
    from segkit.system.hardware import Hardware
    from segkit.training import train

    run = RunFolder(path)
    metadata = checkpoint.read_metadata(run.best, checkpoint.read(run.best))
    hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
    prepared = train.prepare_data(cfg, run)
    data = SegmentationData(prepared, cfg, hardware.device, intensity_statistics(cfg, prepared))
    (batch,) = islice(data.train_dataloader().position, 1)
    cases = list({i: data.train.cases[i] for i in (index % len(data.train.cases) for _, index in batch)}.values())
    latest = predictor.load(run.last, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
    summary = evaluate_cases(latest, cases, metadata.label_map(), {case.id: "train" for case in cases}).summary
    known = [line.mean for line in summary.lines if line.statistic == "dice" and line.class_name == "overall"]
    return float(np.mean(known)) if known else math.nan


def best_values(stage: Stage, best: Trial) -> tuple[str, bool]:
    """The best trial, and whether one of its values lies at the end of those tried."""
    ((metric, _),) = stage.sweep.objectives.items()
    score, trials = f"val {metric} {best.values[0]:.4g}", stage.sweep.trials
    text = f"best with {label(stage, best)}: {score}" if len(trials) > 1 else f"best {score}"
    if failed := sum(bool(problem(trial)) for trial in trials):
        text += f"; {failed} of {len(trials)} trials failed"
    if ends := [key for key, value in best.keys.items() if at_an_end(value, [trial.keys[key] for trial in trials])]:
        text += f"; at the end of what was tried, others may be better:  {'  '.join(f'{stage.name}.{key}=…' for key in ends)}"
    return text, False


def at_an_end(best: str, values: Sequence[str]) -> bool:
    try:
        numbers = {float(text) for text in values}
    except ValueError:
        return False
    return len(numbers) > 2 and float(best) in (min(numbers), max(numbers)) and float(best) != 0


def label(stage: Stage, trial: Trial) -> str:
    return " ".join(f"{stage.sweep.keys[key]}={text}" for key, text in trial.keys.items())
