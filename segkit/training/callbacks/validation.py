"""What a validation shows besides its means: curves of the probabilities, the spread of the cases' scores, and the worst cases."""

from __future__ import annotations

import math
from typing import Annotated

import lightning as L
import numpy as np
from pydantic import Field

from segkit.data.dataset import CaseDataset
from segkit.data.labels import Array
from segkit.data.overlays import Panel, panel, sample_grid
from segkit.metrics.base import NAN
from segkit.metrics.calibration import Calibration
from segkit.metrics.table import Row, mean_of_known
from segkit.training.callbacks.logging import EpochTable
from segkit.training.distributed import all_gather
from segkit.training.hparams import best_so_far
from segkit.training.media import log_histogram, log_image, log_precision_recall
from segkit.training.module import SegmentationModule
from segkit.training.report import charts
from segkit.training.scoring import gather

ByCase = dict[int, tuple[float, Array]]
"""Index -> score and mask."""


class ValidationCurves(L.Callback):
    """Log precision-recall and reliability curves, the cases' scores as a histogram, and the worst cases with outlines.

    Does nothing where the LightningModule is not segkit's, whose probabilities nobody here knows.

    Args:
        every_n_epochs: How often, counted in epochs; after the last one as well.
        n_worst: How many cases are drawn, of those that the first process has evaluated.
    """

    def __init__(self, every_n_epochs: Annotated[int, Field(gt=0)] = 5, n_worst: Annotated[int, Field(gt=0)] = 4) -> None:
        self.every_n_epochs, self.n_worst = every_n_epochs, n_worst
        self._worst: ByCase = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._worst = {}
        if isinstance(pl_module, SegmentationModule) and trainer.loggers and self._is_due(trainer):
            pl_module.calibration = Calibration.of(pl_module.labels.classes)
            pl_module.watchers.append(self._watch)

    def _watch(self, index: int, rows: list[Row], mask: Array) -> None:
        if not math.isnan(score := score_of(rows)):
            self._worst[index] = score, mask
            self._worst = dict(sorted(self._worst.items(), key=lambda item: (item[1][0], item[0]))[: self.n_worst])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(pl_module, SegmentationModule) or not pl_module.calibration.counts:
            return
        calibration = Calibration.together(all_gather(pl_module.calibration))
        cases, pl_module.calibration = gather(pl_module.evaluated), Calibration({})
        if not trainer.is_global_zero:
            return
        scores = [score for case in cases if not math.isnan(score := score_of(case.rows))]
        column, pictures = next(iter(cases[0].rows[0].values)), self._pictures(trainer, pl_module, calibration)
        for logger in trainer.loggers:
            log_histogram(logger, f"val/{column}_of_cases", scores, trainer.global_step)
            for name, counts in calibration.known.items():
                log_precision_recall(logger, f"val/precision_recall/{name}", counts, trainer.global_step)
            for name, picture in pictures.items():
                log_image(logger, name, picture, trainer.global_step)

    def _pictures(self, trainer: L.Trainer, pl_module: SegmentationModule, calibration: Calibration) -> dict[str, Array]:
        found = {}
        if calibration.known:
            found["val/curves"] = charts.rendered([charts.reliability(calibration), charts.precision_recall(calibration)])
        dataset = getattr(trainer.val_dataloaders, "dataset", None)
        if isinstance(dataset, CaseDataset) and self._worst:
            panels = [worst_panel(dataset, index, score, mask) for index, (score, mask) in self._worst.items()]
            found["val/worst_cases"] = sample_grid(panels, pl_module.labels, f"epoch {trainer.current_epoch}, worst cases")
        return found

    def _is_due(self, trainer: L.Trainer) -> bool:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        return not trainer.sanity_checking and (epoch % self.every_n_epochs == 0 or epoch == last)


class BestSoFar(L.Callback):
    """Log the best value of the monitored metric so far, as `best/<metric>`: its last point is what runs are compared in."""

    def __init__(self, monitor: str, mode: str, table: EpochTable) -> None:
        self.monitor, self.mode, self.table = monitor, mode, table

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The table has the row of this epoch already, and after a resume those before it."""
        names = dict.fromkeys(name for row in self.table.rows for name in row)
        columns = {name: np.array([row.get(name, NAN) for row in self.table.rows]) for name in names}
        if trainer.is_global_zero and (found := best_so_far(columns, self.monitor, self.mode)):
            for logger in trainer.loggers:
                logger.log_metrics(found, max(0, trainer.global_step - 1))


def score_of(rows: list[Row]) -> float:
    """The mean over a case's classes of the first column of its rows."""
    column = next(iter(rows[0].values))
    return mean_of_known([row.values.get(column, NAN) for row in rows])


def worst_panel(dataset: CaseDataset, index: int, score: float, mask: Array) -> Panel:
    case, labels = dataset.cases[index], dataset.labels
    return panel(case.image.read(), labels.planes(mask), labels.planes(dataset.reference(index)), f"{case.id}   {score:.3f}")
