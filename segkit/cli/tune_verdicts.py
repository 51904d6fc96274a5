"""What each stage of a tuning says: is the network sane, can it learn two images by heart, which values are best?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from segkit.cli.tune_command import key_of
from segkit.cli.tune_trials import Trial
from segkit.data.case import Case
from segkit.data.datamodule import SegmentationData
from segkit.inference import predictor
from segkit.inference.evaluation import evaluate_cases
from segkit.models import checkpoint
from segkit.system.hardware import Hardware
from segkit.training import train as run

OFF = 0.2
"""So far may the cross-entropy of an untrained network be from that of a guess."""
FALLEN, LEARNED = 0.1, 0.95
"""Two images are known by heart where their loss is below this share of what it was, or their Dice reaches this."""


@dataclass(frozen=True)
class Verdict:
    """In words; a warning where something seems wrong."""

    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"{'WARNING: ' if self.is_warning else ''}{self.text}"


def judge(stage: str, trials: Sequence[Trial], best: Trial | None) -> Verdict:
    if best is None:
        return Verdict(f"no trial worked: {trials[0].problem}", is_warning=True)
    return {"sanity": sanity, "overfit": overfit}.get(stage, found)(trials, best)


def sanity(trials: Sequence[Trial], best: Trial) -> Verdict:
    """A network that knows nothing gives all K classes the same probability, so its cross-entropy is ln K; ln 2 of a sigmoid."""
    loss = best.columns["train/loss"][0]
    if "train/loss_ce" not in best.columns:
        return Verdict(f"the untrained network's loss is {loss:.3f}; it has no part ce (cross-entropy), whose value would be known")
    ce, labels = best.columns["train/loss_ce"][0], card_of(best).label_map()
    k = labels.n_outputs if labels.mode == "multiclass" else 2
    text = f"cross-entropy of the untrained network {ce:.3f}, of a guess ln {k} = {math.log(k):.3f}"
    if abs(ce / math.log(k) - 1) <= OFF:
        return Verdict(text)
    return Verdict(f"{text}: more than {OFF:.0%} off; look at the head of the network, the loss and the labels", is_warning=True)


def overfit(trials: Sequence[Trial], best: Trial) -> Verdict:
    losses = best.columns["train/loss"]
    text = f"the training loss fell from {losses[0]:.3g} to {losses[-1]:.3g}"
    if losses[-1] <= FALLEN * losses[0]:
        return Verdict(text)
    dice = dice_of_the_first_batch(best)
    text += f", and Dice on these images is {dice:.3f}"
    if dice >= LEARNED:
        return Verdict(text)
    fix = "more steps (overfit.trainer.max_epochs=600) or another rate (overfit.optimizer.lr=…) may do it; else network or loss is wrong"
    return Verdict(f"{text}: not known by heart; {fix}", is_warning=True)


def found(trials: Sequence[Trial], best: Trial) -> Verdict:
    """The best trial, and whether one of its values lies at the end of those tried."""
    score = f"{best.monitor.replace('/', ' ')} {best.score:.4g}"
    text = f"best with {best.label}: {score}" if len(trials) > 1 else f"best {score}"
    if failed := sum(bool(trial.problem) for trial in trials):
        text += f"; {failed} of {len(trials)} trials failed"
    if ends := [key for i, key in enumerate(map(key_of, best.tried)) if at_an_end(number(best.tried[i]), [t.tried[i] for t in trials])]:
        text += f"; at the end of what was tried, others may be better:  {'  '.join(f'{best.stage}.{key}=…' for key in ends)}"
    return Verdict(text)


def at_an_end(best: float, tried: Sequence[str]) -> bool:
    values = {number(text) for text in tried}
    return len(values) > 2 and best in (min(values), max(values)) and best != 0


def number(text: str) -> float:
    """Of `key=number`; 0, which is at no end, where it is none."""
    try:
        return float(text.partition("=")[2])
    except ValueError:
        return 0.0


def card_of(trial: Trial) -> checkpoint.Card:
    return checkpoint.read_card(trial.folder.best, checkpoint.read(trial.folder.best))


def dice_of_the_first_batch(trial: Trial) -> float:
    """Of the images that the stage has shown again and again, as the last weights see them, on their original grid."""
    cfg, labels = trial.config, card_of(trial).label_map()
    hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
    latest = predictor.load(trial.folder.last, cfg.trainer.accelerator, hardware.precision, cfg.trainer.threads, cfg.allow_targets)
    cases = first_batch(trial, hardware)
    summary = evaluate_cases(latest, cases, labels, {case.id: "train" for case in cases}).summary
    known = [line.mean for line in summary.lines if line.statistic == "dice" and line.class_name == "overall"]
    return float(np.mean(known)) if known else math.nan


def first_batch(trial: Trial, hardware: Hardware) -> list[Case]:
    data = SegmentationData(run.prepare_data(trial.config, trial.folder), trial.config, hardware.device, card_of(trial).intensity_max)
    shown = data.train.cases
    (batch,) = islice(data.train_dataloader().position, 1)
    return list({index % len(shown): shown[index % len(shown)] for _, index in batch}.values())
