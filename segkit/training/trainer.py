"""Build Lightning's Trainer from the config and the hardware."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.config.schema import Train
from segkit.inference.predictor import memory_order
from segkit.models.probe import flop_per_image
from segkit.models.segmentation import SegmentationModel
from segkit.system.environment import is_child, job
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware, missing_for_compilation
from segkit.system.progress import console
from segkit.training.callbacks.build import build_callbacks
from segkit.training.callbacks.checkpoints import AtomicCheckpointIO
from segkit.training.loggers import build_loggers
from segkit.training.run_folder import RunFolder

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

SMALL_BATCH = 8
"""Batch norm's statistics of fewer images are noisy (Wu and He, Group Normalization, 2018, fig. 1. arXiv:1803.08494)."""

# From so much training on, the compiled network has paid back its compilation of a minute or so on a GPU. On processors it never
# does: once bf16, memory order and allocation are right, compiled and plain steps of the U-Nets take the same time to 3 %.
COMPILE_PAYS_FLOP = 1e16

NOISE = (
    ".*does not have many workers.*",  # chosen on purpose: see hardware.loader_workers
    ".*is not registered in a schema.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # inside lightning, from torch 2.9 on
    ".*sync_dist=True.*",  # our means over the validation cases are the same on every process already
    ".*lr_scheduler.step\\(\\)` before `optimizer.step\\(\\).*",  # fp16's first steps are skipped by the loss scaler
)


def build_trainer(
    cfg: Train,
    run: RunFolder,
    hardware: Hardware,
    global_step: int,
    n_train: int,
    strategy: Strategy | str = "auto",
    sync_batchnorm: bool = False,
) -> L.Trainer:
    """The Trainer of a run. `global_step` is where a resumed run continues: TensorBoard's events beyond it are dropped."""
    quiet()
    n_batches = min(cfg.trainer.limit_train_batches or n_train, max(1, n_train // (cfg.data.batch_size * hardware.world)))
    callbacks = build_callbacks(cfg, run)
    return L.Trainer(
        accelerator=ACCELERATORS[hardware.device],
        devices=hardware.processes,
        num_nodes=hardware.machines,
        strategy=strategy,
        sync_batchnorm=sync_batchnorm,
        precision=PRECISIONS[hardware.precision],
        max_epochs=cfg.trainer.max_epochs,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        check_val_every_n_epoch=cfg.trainer.check_val_every_n_epoch,
        limit_train_batches=cfg.trainer.limit_train_batches,
        limit_val_batches=cfg.trainer.limit_val_batches,
        # "warn": some CUDA kernels (bilinear up-sampling, backward) have no deterministic twin, which is no reason to stop
        deterministic="warn" if cfg.trainer.deterministic else False,
        profiler=cfg.trainer.profiler,
        callbacks=callbacks,
        logger=build_loggers(cfg, run, global_step),
        log_every_n_steps=min(cfg.trainer.log_every_n_steps, n_batches),  # at least one point an epoch
        plugins=[AtomicCheckpointIO(run), *([environment()] if hardware.world > 1 else [])],
        num_sanity_val_steps=0,  # the audit has read every file, and the first validation comes soon enough
        use_distributed_sampler=False,  # EpochSampler deals the cases out itself, without repeats
        enable_checkpointing=True,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=run.path,
    )


def check_devices(cfg: Train, hardware: Hardware) -> None:
    """Raise SegkitError for keys that these devices do not support."""
    if cfg.trainer.strategy == "fsdp" and hardware.device != "cuda":
        raise SegkitError("trainer.strategy=fsdp shards a network over GPUs;   without these use  trainer.strategy=ddp")
    if cfg.trainer.strategy == "fsdp" and (cfg.callbacks.get("weight_averaging") or {}).get("decay"):
        fix = "add  callbacks.weight_averaging.decay=null"
        raise SegkitError(f"trainer.strategy=fsdp cannot average weights that no device holds whole;   {fix}")
    if cfg.trainer.compile is True and (missing := missing_for_compilation(hardware.device)):
        raise SegkitError(f"trainer.compile=true needs {missing}, which this machine lacks;   install it, or use  trainer.compile=false")
    if cfg.trainer.sync_batchnorm is True and hardware.device != "cuda":
        raise SegkitError("trainer.sync_batchnorm=true needs GPUs: torch has it for nothing else;   leave it out")


def environment() -> ClusterEnvironment:
    """Lightning's view of the job. Not left to Lightning, which takes any SLURM job for one of several tasks."""
    started = job()
    if started is None:
        return LightningEnvironment()
    if started.by == "torchrun":
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)  # its checkpoint would be another than ours


def build_strategy(cfg: Train, hardware: Hardware, model: SegmentationModel, channels: int) -> Strategy | str:
    """One process a device, gradients averaged (DDP); or weights, gradients and optimizer sharded as well (FSDP)."""
    if cfg.trainer.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full")  # a checkpoint is one file, whatever wrote it
    if hardware.world == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=leaves_some_unused(model, channels, cfg.sampling.patch or cfg.preprocess.size))


def leaves_some_unused(model: SegmentationModel, channels: int, size: Sequence[int] | None) -> bool:
    """Whether some weights get no gradient, as in PSPNet and DPT: DDP would wait for these.

    Runs on the meta device. True as well where that fails: DDP then looks for them in every step, which costs a little time.
    """
    if size is None:
        return True
    meta_model = copy.deepcopy(model).to("meta").train()
    try:
        with torch.device("meta"):
            logits, _ = meta_model.supervised(torch.zeros(2, channels, *size), torch.zeros(2, *size, dtype=torch.uint8))
            total = torch.stack([one.sum() for one in (logits if isinstance(logits, list) else [logits])]).sum()
        torch.autograd.backward(total)
    except Exception:  # whatever a network raises that looks at values
        return True
    return any(weight.grad is None for weight in meta_model.parameters() if weight.requires_grad)


def wants_sync(cfg: Train, hardware: Hardware, model: SegmentationModel) -> bool:
    """Whether batch norm is synchronized over all devices; `auto`: where one of them sees fewer than `SMALL_BATCH` images."""
    wanted = cfg.trainer.sync_batchnorm
    if wanted == "auto":
        normed = any(isinstance(module, _BatchNorm) for module in model.modules())
        wanted = hardware.device == "cuda" and normed and cfg.data.batch_size < SMALL_BATCH
    return wanted and hardware.world > 1


def prepare_network(model: SegmentationModel, cfg: Train, hardware: Hardware, channels: int, n_train: int, dims: int) -> bool:
    """Memory order and compilation, in place: state-dict keys stay as they are. Returns whether it is compiled."""
    memory_order(model, cfg.trainer.channels_last, dims)
    wanted = cfg.trainer.compile
    if wanted == "auto":
        size = cfg.sampling.patch or cfg.preprocess.size  # images of many sizes would be compiled again and again
        flop = flop_per_image(model, channels, size) if size and hardware.device == "cuda" else 0
        wanted = 3 * flop * cfg.trainer.max_epochs * n_train > COMPILE_PAYS_FLOP  # the backward pass costs two forward passes
        if wanted and (missing := missing_for_compilation(hardware.device)):
            console.print(f"note       the network is not compiled, which would pay here: this machine lacks {missing}", markup=False)
            wanted = False
    if wanted:
        model.network.compile()
    return wanted


def quiet() -> None:
    """Silence warnings that a user cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    if is_child():
        warnings.simplefilter("ignore")  # the first process shows them
