"""The LightningModule of every preset: training step, validation step, optimizer and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from segkit.config.schema import Train
from segkit.config.targets import instantiate
from segkit.data.case import Case
from segkit.data.datamodule import SegmentationData
from segkit.data.dataset import Batch, CaseDataset, as_batch
from segkit.data.labels import Array
from segkit.data.transforms.geometry import Step
from segkit.inference.evaluation import build_metrics
from segkit.inference.postprocess import Decision, restore
from segkit.inference.predictor import InMemory
from segkit.inference.sliding_window import sliding, window_of
from segkit.losses import WeightedLoss
from segkit.metrics import CaseMetric
from segkit.metrics.base import known_as
from segkit.metrics.calibration import Calibration
from segkit.metrics.table import CaseTable, Row, evaluate_case
from segkit.models.checkpoint import load_model
from segkit.models.metadata import METADATA_KEY, Metadata
from segkit.models.segmentation import SegmentationModel, activate
from segkit.system.errors import SegkitError
from segkit.system.hardware import Precision
from segkit.training import torchmetrics
from segkit.training.building import build_loss, build_parts, check_monitor, make_metadata
from segkit.training.distributed import is_distributed
from segkit.training.optim import build_scheduler, fused, keep_frozen, parameter_groups, planned_steps
from segkit.training.scoring import Beside, EvaluatedCase, gather, leaves_cores_idle, not_finite

NOWHERE = InMemory(np.zeros((1, 1), np.uint8))
"""The image of a case of which nothing but a batch is known."""


CLIPPING_EPSILON = 1e-6
"""`torch.nn.utils.clip_grad_norm_` adds it to the norm."""


class SegmentationModule(L.LightningModule):
    """Train a segmentation model; validate it on the original grid, case by case.

    Logs `train/<loss>`, `train/lr`, `val/<loss>` and `val/<metric>`, with several classes `val/<metric>/<class>` as well.

    Args:
        model: The network with its normalization; images (B, C, *S) -> logits (B, K, *S).
        loss: Called with logits and the target (B, *S), or a list of logits under deep supervision; returns its parts and `loss`.
        metrics: Case metrics by name, for validation.
        config: The validated config: optimizer, schedule, frozen layers, inference.
        metadata: What makes a checkpoint self-contained; written into each checkpoint.
    """

    def __init__(
        self, model: SegmentationModel, loss: WeightedLoss, metrics: Mapping[str, CaseMetric], config: Train, metadata: Metadata
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.metrics, self.config, self.metadata = metrics, config, metadata
        self.labels, self.window = metadata.label_map(), window_of(config)
        self.decide = Decision.of(config.inference, self.labels, config.allow_targets)
        self.torchmetrics = torchmetrics.build(config.metric.torchmetrics, self.labels, config.allow_targets)
        self.evaluated: dict[int, EvaluatedCase] = {}
        """By index. Two processes may have evaluated the same case."""
        self.scoring = Beside(has_thread=False)
        self.watchers: list[Callable[[int, list[Row], Array], None]] = []
        """Get index, rows and mask (on the original grid) of each case of the next validation, one after the other, maybe in a thread."""
        self.seen = 0
        """Samples of an own DataModule that this process has evaluated."""
        self.gradient_norm: Tensor | None = None
        """Of the latest optimizer step; None under fp16, whose loss scaling skips a step with an infinite gradient by itself."""
        self.calibration = Calibration({})  # with classes it counts the probabilities of a validation
        self.not_finite: tuple[str, ...] = ()
        """What was not finite in the latest validation."""
        self.plateau: ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        keep_frozen(self.model.network, self.config.freeze)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make dropout a function of (seed, epoch, batch, rank), so that a resumed run draws the same as an uninterrupted one."""
        key = (self.config.seed, self.current_epoch, batch_idx, self.global_rank)
        on_processor = self.device.type == "cpu"  # where torch.manual_seed would take 0.7 ms to remember the seed for GPUs
        seed = torch.default_generator.manual_seed if on_processor else torch.manual_seed
        seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One step. `batch`: segkit's own, or as an own DataModule makes them (see `as_batch`)."""
        batch = as_batch(batch)
        parts = self.loss(*self.model.supervised(batch.image, batch.mask))
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=len(batch.indices))
        # on the processor: Lightning would make a tensor on the GPU of a number, and wait for that
        self.log("train/lr", torch.tensor(self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]
        return parts  # type: ignore[no-any-return]

    def build_optimizer(self) -> Optimizer:
        """Raises SegkitError where its class refuses a value, such as a negative rate."""
        cfg = self.config
        groups = parameter_groups(self.model.network, float(cfg.optimizer.get("lr", 0)), cfg.lr_scales or {}, cfg.lr_layer_decay)
        built: Optimizer = instantiate(
            cfg.optimizer,
            "optimizer",
            allow=cfg.allow_targets,
            training=True,
            params=groups,
            **fused(cfg.optimizer, "16" if self.scales_loss else self.metadata.precision),
        )
        return built

    @property
    def scales_loss(self) -> bool:
        """Whether the gradients are those of a scaled loss, as under fp16."""
        return self.metadata.precision == "16" or (self._trainer is not None and str(self.trainer.precision).startswith("16"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule. A plateau schedule is stepped by hand: Lightning steps it after the checkpoint is written, so a
        resumed run would miss one step."""
        cfg, optimizer = self.config, self.build_optimizer()
        n_steps, per_epoch = planned_steps(self.trainer)
        scheduler = build_scheduler(optimizer, cfg.scheduler, n_steps, per_epoch, cfg.metric, cfg.allow_targets)
        if isinstance(scheduler, ReduceLROnPlateau):
            self.plateau = scheduler
            if self.plateau_state is not None:
                scheduler.load_state_dict(self.plateau_state)
            return optimizer
        asked = cfg.scheduler
        when: dict[str, Any] = {"interval": asked.interval, "frequency": asked.frequency} if asked.target else {"interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **when}}  # type: ignore[return-value]

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm. Lightning refuses this for fused optimizers, which is right only under fp16's loss scaling (see `fused`)."""
        norm = self.norm_after_clipping([weight for group in optimizer.param_groups for weight in group["params"]], gradient_clip_val)
        if self.scales_loss:
            return
        self.gradient_norm = norm.detach()
        if self.config.trainer.on_nonfinite == "skip" and not norm.isfinite():
            optimizer.zero_grad()  # a step without gradients leaves weights and moments as they are

    def norm_after_clipping(self, weights: Sequence[nn.Parameter], most: float | None) -> Tensor:
        """The norm of the gradients of all weights, before they are clipped to `most`."""
        by_value = self.config.trainer.gradient_clip_algorithm == "value"
        if most and not by_value and isinstance(self.trainer.strategy, FSDPStrategy):
            return self.trainer.model.clip_grad_norm_(most)  # type: ignore[union-attr, operator, no-any-return]  # of all shards together
        norm = torch.nn.utils.get_total_norm(weight.grad for weight in weights if weight.grad is not None)
        if most and by_value:
            torch.nn.utils.clip_grad_value_(weights, most)
            return norm
        # where it is free to look, gradients that are short enough are not multiplied by 1
        if most and not (norm.device.type == "cpu" and norm + CLIPPING_EPSILON <= most):
            torch.nn.utils.clip_grads_with_norm_(weights, most, norm)
        return norm

    # --- validation, test, prediction -------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Use the buffers of the first process, which are the ones that are saved: batch norm differs between processes."""
        self.evaluated, self.seen = {}, 0
        self.scoring = Beside(leaves_cores_idle(self.device.type, self.trainer.num_devices))
        if is_distributed():
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Predict a batch; its cases are scored while the device computes the next one."""
        batch = self.numbered(as_batch(batch))
        logits, probs = self.predicted(batch.image)
        is_finite = np.isfinite(probs.reshape(len(probs), -1).sum(axis=1))  # of numbers in 0..1
        for i, index in enumerate(batch.indices):
            losses = self.loss(logits[i : i + 1], batch.mask[i : i + 1])  # of one case: no matter which others are in the batch
            values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))  # waits once for a GPU
            mask = batch.mask[i].cpu().numpy() if self.dataset is None else None
            steps = batch.steps[i] if batch.steps else ()
            with self.trainer.profiler.profile("metrics"):  # type: ignore[attr-defined]
                self.scoring.do(partial(self.score, index, values, bool(is_finite[i]), probs[i], steps, mask))
        if len(self.torchmetrics):
            torchmetrics.log(self, self.torchmetrics, activate(logits, self.model.mode), batch.mask, self.labels)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Array]:
        """Masks by case id, on the original grid: class indices (*S), or planes (K, *S) where classes overlap."""
        batch = self.numbered(as_batch(batch))
        _, probs = self.predicted(batch.image)
        cases = [self.case(index) for index in batch.indices]
        steps = batch.steps or ((),) * len(cases)
        return {case.id: self.decide(restore(probs[i], steps[i], self.labels), case.pixel_mm) for i, case in enumerate(cases)}

    def predicted(self, image: Tensor) -> tuple[Tensor, Array]:
        """Logits and probabilities (B, n_outputs, *S) of images (B, C, *S), in sliding windows where the config has them."""
        logits = sliding(self.model.logits, image, self.window, self.config.inference.overlap)
        return logits, activate(logits, self.model.mode).cpu().numpy()

    def numbered(self, batch: Batch) -> Batch:
        """A batch whose samples have numbers; those of an own DataModule are counted as they come."""
        if self.dataset is not None:
            return batch
        world, n = self.trainer.world_size, len(batch.image)
        batch.indices = tuple((self.seen + i) * world + self.global_rank for i in range(n))
        self.seen += n
        return batch

    @property
    def dataset(self) -> CaseDataset | None:
        """The cases that are evaluated; None where they come from a loader of the user's own."""
        trainer = self.trainer
        loaders = {"test": trainer.test_dataloaders, "predict": trainer.predict_dataloaders}.get(
            str(trainer.state.fn and trainer.state.fn.value), trainer.val_dataloaders
        )
        dataset = getattr(loaders, "dataset", None)
        return dataset if isinstance(dataset, CaseDataset) else None

    def case(self, index: int) -> Case:
        dataset = self.dataset
        return Case(str(index), NOWHERE) if dataset is None else dataset.cases[index]

    def score(
        self, index: int, losses: dict[str, float], is_finite: bool, probs: Array, steps: Sequence[Step], reference: Array | None
    ) -> None:
        """Score a case from its probabilities (C, *s) on the network's grid; `reference`: its mask, where no data set has it."""
        dataset, case = self.dataset, self.case(index)
        target = dataset.reference(index) if reference is None and dataset is not None else np.asarray(reference)
        on_grid = restore(probs, steps, self.labels)
        self.calibration.add(on_grid, target, self.labels)
        mask = self.decide(on_grid, case.pixel_mm)
        rows = evaluate_case(mask, target, self.labels, case, self.metrics, "val")
        self.evaluated[index] = EvaluatedCase(losses, rows, is_finite)
        for watch in self.watchers:
            watch(index, rows, mask)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all cases, the same on every process."""
        self.log_means("val")
        if self.trainer.barebones or self.trainer.sanity_checking:
            return  # nothing of what is logged is kept
        name = known_as(f"val/{self.config.metric.monitor}", self.trainer.callback_metrics)
        score = float(self.trainer.callback_metrics[name])
        if math.isinf(score):
            self.not_finite += (f"{name} ({score:g})",)
        if self.plateau is not None and (self.current_epoch + 1) % self.config.scheduler.frequency == 0:
            watched = known_as(f"val/{(self.config.scheduler.monitor or name).removeprefix('val/')}", self.trainer.callback_metrics)
            if watched not in self.trainer.callback_metrics:
                raise SegkitError(
                    f"scheduler.monitor={watched} is not logged;   logged are {', '.join(sorted(self.trainer.callback_metrics))}"
                )
            self.plateau.step(float(self.trainer.callback_metrics[watched]))

    def on_test_epoch_end(self) -> None:
        self.log_means("test")

    def log_means(self, subset: str) -> None:
        """Log losses and statistics of the evaluated cases under `subset/`."""
        self.scoring.wait()
        self.scoring, self.watchers = Beside(has_thread=False), []
        cases = gather(self.evaluated)
        self.not_finite = tuple(not_finite(cases))
        for name in cases[0].losses:
            self.log(f"{subset}/{name}", fmean(case.losses[name] for case in cases))
        summary = CaseTable.of([row for case in cases for row in case.rows], self.metrics).summary()
        for line in summary.lines:
            if line.class_name == "overall":
                self.log(f"{subset}/{line.statistic}", line.mean)
            elif len(self.labels.classes) > 1:
                self.log(f"{subset}/{line.statistic}/{line.class_name}", line.mean)

    # --- making -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Train, data: SegmentationData, precision: Precision = "32") -> Self:
        """Build the module of a config for a plain `lightning.Trainer`.

        Args:
            config: `segkit.compose("train", [...])`.
            data: The data of the same config, from `SegmentationData.from_config`.
            precision: What the Trainer computes in, "32", "bf16" or "16"; kept in the checkpoint for prediction.

        Raises:
            SegkitError: Network, loss or metric does not fit the data.
        """
        parts = build_parts(config, make_metadata(config, data.prepared, data.seen, precision))
        check_monitor(config, parts.metrics)
        return cls(parts.model, parts.loss, parts.metrics, config, parts.metadata)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = None, *, allow_targets: Sequence[str] = (), **unused: Any
    ) -> Self:
        """The module of a checkpoint of segkit, with its weights, in evaluation mode; without its metrics of torchmetrics.

        No code in the file is run: it names only classes that any checkpoint may name.

        Args:
            checkpoint_path: A checkpoint file, or a run folder (its best.ckpt).
            map_location: The device; None: the processor.
            allow_targets: Packages of your own whose classes the checkpoint may name.
            **unused: Lightning's further keywords; everything that they set is in the checkpoint.

        Raises:
            SegkitError: There is no such checkpoint, it is damaged, or it was written by another program.
        """
        model, metadata, config = load_model(checkpoint_path, allow_targets)
        config = config.model_copy(update={"metric": config.metric.model_copy(update={"torchmetrics": {}})})
        loss = build_loss(config, metadata.label_map(), training=False)
        metrics = build_metrics(config.metric.cases, config.allow_targets)
        module = cls(model, loss, metrics, config, metadata).eval()
        return module if map_location is None else module.to(map_location)

    # --- checkpoint -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = self.metadata.as_dict()
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_state = checkpoint.get("plateau")
