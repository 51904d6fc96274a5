"""Validation images with outlines in TensorBoard, the same ones every few epochs, so that one sees them grow right."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from segkit.data.dataset import CaseDataset
from segkit.data.samples import Panel, panel, sample_grid
from segkit.inference.postprocess import planes


class Pictures(L.Callback):
    """The first `n_images` validation cases after every `every_n_epochs` epochs and after the last."""

    def __init__(self, every_n_epochs: int, n_images: int) -> None:
        self.every_n_epochs, self.n_images = every_n_epochs, n_images
        self._panels: dict[int, Panel] = {}

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        """`outputs` is what the task's validation step returned: index -> mask on the original grid."""
        if not self._due(trainer):
            return
        dataset: CaseDataset = trainer.datamodule.val  # type: ignore[attr-defined]
        labels = dataset.labels
        for index, mask in outputs.items():
            if index < self.n_images * trainer.world_size:  # of its share the first process draws as many as of the whole
                case = dataset.cases[index]
                truth = planes(dataset.truth(index), labels)
                self._panels[index] = panel(case.image.read(), planes(mask, labels), truth, case.id)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        panels = [self._panels[i] for i in sorted(self._panels)]
        self._panels = {}
        if panels and isinstance(trainer.logger, TensorBoardLogger):
            picture = sample_grid(panels, pl_module.labels, f"epoch {trainer.current_epoch + 1}")
            trainer.logger.experiment.add_image("validation", picture, trainer.global_step, dataformats="HWC")

    def _due(self, trainer: L.Trainer) -> bool:
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 1
        return epoch % self.every_n_epochs == 0 or epoch == last
