"""Build Lightning's Trainer from the config and the hardware."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy, StrategyRegistry
from torch import nn
from torch.distributed.fsdp import MixedPrecision
from torch.nn.modules.batchnorm import _BatchNorm

from segkit.config.schema import Train, Trainer
from segkit.config.targets import instantiate
from segkit.inference.predictor import memory_order
from segkit.models.metadata import Metadata
from segkit.models.probe import flop_per_image
from segkit.models.segmentation import SegmentationModel
from segkit.system.environment import is_child, job
from segkit.system.errors import SegkitError, first_line, nearest
from segkit.system.hardware import Hardware, missing_for_compilation, numbers_of
from segkit.system.progress import console
from segkit.training.callbacks.build import build_callbacks, named_callback
from segkit.training.callbacks.checkpoints import Interruption
from segkit.training.checkpoint_io import AtomicCheckpointIO
from segkit.training.loggers import build_logger, build_loggers
from segkit.training.profiler import EpochProfiler
from segkit.training.run_folder import RunFolder

OWN_KEYS = ("channels_last", "compile", "activation_checkpointing", "threads", "max_minutes", "on_nonfinite")
"""Keys of `trainer` that are no keywords of Lightning's Trainer."""
USUAL = {
    "num_sanity_val_steps": 0,  # the audit has read every file, and the first validation comes soon enough
    "use_distributed_sampler": False,  # EpochSampler deals the cases out itself, without repeats
}
"""Keywords of Lightning's Trainer for segkit's own data and LightningModule, where the config has null."""
OWN_STRATEGIES = ("auto", "ddp", "fsdp")
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}

SMALL_BATCH = 8
"""Batch norm's statistics of fewer images are noisy (Wu and He, Group Normalization, 2018, fig. 1. arXiv:1803.08494)."""

# From so much training on, the compiled network has paid back its compilation on a GPU: minutes, as batches of training, validation and
# the last of both are compiled each. A guess from an H100's rate, not measured. On processors it never does: once bf16, memory order and
# allocation are right, compiled and plain steps of the U-Nets take the same time to 3 %.
COMPILE_PAYS_FLOP = 1e17

NOISE = (
    ".*does not have many workers.*",  # chosen on purpose: see hardware.loader_workers
    ".*is not registered in a schema.*",
    ".*smaller than the logging interval.*",  # of own data, whose batches nobody has counted
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
    usual: Mapping[str, Any] = USUAL,
) -> L.Trainer:
    """The Trainer of a run.

    Args:
        cfg: The validated config.
        run: The run folder.
        hardware: Devices and precision.
        global_step: Where a resumed run continues: TensorBoard's events beyond it are dropped.
        n_train: Training samples of an epoch; 0: not known.
        strategy: How devices share the work.
        sync_batchnorm: Whether batch norm is synchronized over devices.
        usual: Lightning's keywords where the config has null.
    """
    quiet()
    keywords = keywords_of_trainer(cfg, hardware, strategy, sync_batchnorm, usual)
    keywords["default_root_dir"] = cfg.trainer.default_root_dir or run.path
    if not any(isinstance(plugin, CheckpointIO) for plugin in keywords["plugins"]):
        keywords["plugins"].append(AtomicCheckpointIO(run))
    if isinstance(profiler := keywords["profiler"], EpochProfiler):
        profiler.folder = run.path
    if cfg.trainer.barebones:
        return L.Trainer(**keywords)
    callbacks = [*build_callbacks(cfg, run), *(named_callback(name, node, cfg, run) for name, node in nodes(cfg, "callbacks"))]
    if not cfg.trainer.keeps_checkpoints:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint | Interruption)]
    has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    loggers = build_loggers(cfg, run, global_step) if cfg.trainer.logger is not False else []
    keywords |= {
        "callbacks": callbacks,
        "enable_progress_bar": has_bar if cfg.trainer.enable_progress_bar is None else cfg.trainer.enable_progress_bar,
        "logger": [*loggers, *(build_logger(name, node, cfg, run, global_step) for name, node in nodes(cfg, "logger"))],
        "log_every_n_steps": min(cfg.trainer.log_every_n_steps, batches_of_epoch(cfg, n_train, hardware.world)),
    }
    return L.Trainer(**keywords)


def precision_of(asked: str, hardware: Hardware, plugins: Sequence[Any]) -> Any:
    """Lightning's name; None where `auto` leaves it to a plugin."""
    if asked == "auto" and any(isinstance(plugin, Precision) for plugin in plugins):
        return None
    return PRECISIONS[hardware.precision] if asked in ("auto", *PRECISIONS) else asked


def batches_of_epoch(cfg: Train, n_train: int, world: int) -> int:
    """Of each process, so that the loggers get one point an epoch at least. `n_train`: 0, not known."""
    limit = cfg.trainer.limit_train_batches
    n_batches = max(1, n_train // (cfg.data.images_per_step * world)) if n_train else sys.maxsize
    return min(limit, n_batches) if limit and isinstance(limit, int) else n_batches


def nodes(cfg: Train, key: str) -> list[tuple[str, dict[str, Any]]]:
    """The nodes of `trainer.callbacks`, `trainer.logger` or `trainer.plugins`, which hold one or several, with names for messages."""
    value = getattr(cfg.trainer, key)
    several = value if isinstance(value, list | tuple) else [value]
    return [(f"{key}.{i}", node) for i, node in enumerate(several) if isinstance(node, dict)]


def keywords_of_trainer(
    cfg: Train, hardware: Hardware, strategy: Strategy | str, sync_batchnorm: bool, usual: Mapping[str, Any] = USUAL
) -> dict[str, Any]:
    """Keywords of `lightning.Trainer`: those of the config as they are, but for those that `auto` or null leaves to segkit."""
    own = cfg.trainer
    given = {name: getattr(own, name) for name in Trainer.model_fields if name not in (*OWN_KEYS, "callbacks", "logger", "max_time")}
    plugins = [instantiate(node, allow=cfg.allow_targets, training=True) for _, node in nodes(cfg, "plugins")]
    if hardware.world > 1 and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins.append(environment())
    settled: dict[str, Any] = {
        "accelerator": ACCELERATORS[hardware.device],
        "devices": numbers_of(own.devices) or hardware.processes,
        "num_nodes": hardware.machines,
        "strategy": strategy,
        "sync_batchnorm": sync_batchnorm,
        "precision": precision_of(own.precision, hardware, plugins),
        # "warn": some CUDA kernels have no deterministic twin, which is no reason to stop. Bilinear up-sampling has a slow one.
        "deterministic": "warn" if own.deterministic else False,
        "plugins": plugins,
        "profiler": profiler_of(cfg),
    }
    if own.barebones:
        return given | settled | {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "log_every_n_steps": None}
    unset = {
        **usual,
        "enable_checkpointing": own.keeps_checkpoints,
        "enable_model_summary": False,
    }
    return given | settled | {name: value for name, value in unset.items() if given[name] is None}


def profiler_of(cfg: Train) -> Profiler | str | None:
    """Lightning's own by its name."""
    named = cfg.trainer.profiler
    if isinstance(named, dict):
        return instantiate(named, allow=cfg.allow_targets, training=True)  # type: ignore[no-any-return]
    return EpochProfiler() if named == "epoch" else named


def check_trainer(cfg: Train, hardware: Hardware) -> None:
    """Raise SegkitError, before there is a run folder, for values that Lightning refuses; print what they take away."""
    quiet()
    strategy = named_strategy(cfg)
    try:
        keywords = keywords_of_trainer(cfg, hardware, strategy or "auto", False)
        L.Trainer(**keywords | {"logger": False, "enable_progress_bar": False})
    except (MisconfigurationException, ValueError, TypeError, ImportError, ModuleNotFoundError) as error:
        raise SegkitError(f"trainer: Lightning refuses it: {first_line(error)}") from error
    own = cfg.trainer
    off = {
        "fast_dev_run": "a trial run: no checkpoint is kept and nothing is evaluated" if own.fast_dev_run else "",
        "barebones": "nothing is logged, kept or evaluated" if own.barebones else "",
        "enable_checkpointing": "nothing to resume from, and nothing is evaluated" if own.enable_checkpointing is False else "",
        "deterministic": "the same command need not give the same numbers" if not own.deterministic else "",
        "plugins": "checkpoints are written as the plugin does it, maybe not atomically" if own.plugins else "",
        "strategy": "resumes and checkpoints are Lightning's, and were not tested" if strategy else "",
    }
    for name, what in off.items():
        if what:
            console.print(f"note       trainer.{name}: {what}", markup=False)


def named_strategy(cfg: Train) -> Strategy | str | None:
    """A strategy of the user's: one of Lightning's by name, or a node; None: segkit's own choice."""
    own = cfg.trainer.strategy
    if isinstance(own, dict):
        return instantiate(own, allow=cfg.allow_targets, training=True)  # type: ignore[no-any-return]
    if own in OWN_STRATEGIES:
        return None
    known = sorted(StrategyRegistry.available_strategies())
    if own not in known:
        raise SegkitError(f"trainer.strategy={own}: no such strategy;   {nearest(own, known) or 'available: auto, ' + ', '.join(known)}")
    return own


def check_devices(cfg: Train, hardware: Hardware) -> None:
    """Raise SegkitError for keys that these devices do not support."""
    if cfg.trainer.strategy == "fsdp" and hardware.device != "cuda":
        raise SegkitError("trainer.strategy=fsdp shards a network over GPUs;   without these use  trainer.strategy=ddp")
    if cfg.trainer.strategy == "fsdp" and (cfg.callbacks.get("weight_averaging") or {}).get("decay"):
        fix = "add  callbacks.weight_averaging.decay=null"
        raise SegkitError(f"trainer.strategy=fsdp cannot average weights that no device holds whole;   {fix}")
    if cfg.data.batch_size == "auto" and hardware.world > 1 and job() is not None:
        what = "data.batch_size=auto: processes that torchrun or srun starts would each find a number of their own"
        raise SegkitError(f"{what};   find it on one GPU first, and type  data.batch_size=N")
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


def build_strategy(cfg: Train, hardware: Hardware, model: nn.Module, metadata: Metadata | None) -> Strategy | str:
    """One process a device, gradients averaged (DDP); weights, gradients and optimizer sharded as well (FSDP); or the user's own."""
    if own := named_strategy(cfg):
        return own
    if cfg.trainer.strategy == "fsdp":
        # Autocast computes in half precision, as without FSDP; Lightning's own default would round statistics of batch norm and constants
        # of the normalizer as well. (bf16-true has no autocast, and wants all in one type.)
        full = None if cfg.trainer.precision.endswith("-true") else MixedPrecision(reduce_dtype=torch.float32, buffer_dtype=torch.float32)
        return FSDPStrategy(state_dict_type="full", mixed_precision=full)  # a checkpoint is one file, whatever wrote it
    if hardware.world == 1:
        return "auto"
    if metadata is None or not isinstance(model, SegmentationModel):
        return "ddp"
    return DDPStrategy(find_unused_parameters=leaves_some_unused(model, metadata.channels, cfg.sampling.patch or cfg.preprocess.size))


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


def wants_sync(cfg: Train, hardware: Hardware, model: nn.Module) -> bool:
    """Whether batch norm is synchronized over all devices; `auto`: where one of them sees fewer than `SMALL_BATCH` images."""
    wanted = cfg.trainer.sync_batchnorm
    if wanted == "auto":
        normed = any(isinstance(module, _BatchNorm) for module in model.modules())
        wanted = hardware.device == "cuda" and normed and cfg.data.images_per_step < SMALL_BATCH
    return wanted and hardware.world > 1


def prepare_network(model: nn.Module, cfg: Train, hardware: Hardware, n_train: int, metadata: Metadata | None) -> bool:
    """Memory order and compilation, in place: state-dict keys stay as they are. Returns whether it is compiled."""
    if metadata is None or not isinstance(model, SegmentationModel):
        if cfg.trainer.compile is True:
            model.compile()
        return cfg.trainer.compile is True
    memory_order(model, cfg.trainer.channels_last, metadata.dims)
    wanted = cfg.trainer.compile
    if wanted == "auto":
        # images of many sizes would be compiled again and again
        size = None if cfg.sampling.progressive_resizing else cfg.sampling.patch or cfg.preprocess.size
        flop = flop_per_image(model, metadata.channels, size) if size and hardware.device == "cuda" else 0
        wanted = 3 * flop * cfg.trainer.epochs * n_train > COMPILE_PAYS_FLOP  # the backward pass costs two forward passes
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
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # their reports
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    if is_child():
        warnings.simplefilter("ignore")  # the first process shows them
