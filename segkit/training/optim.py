"""Frozen parts, learning rates by part, the steps of a training, schedules. The optimizer is any class that the config names."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from segkit.config.schema import Metric, Scheduler
from segkit.config.targets import descends, instantiate
from segkit.system.errors import SegkitError, nearest

PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"


def matching(network: nn.Module, pattern: str, key: str) -> set[str]:
    """Parameters whose name, or the name of a module that holds them, fits `pattern`: encoder, encoder.0.*, *.bias."""
    names = [name for name, _ in network.named_parameters()]
    found = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
    if not found:
        tops = list(dict.fromkeys(name.split(".")[0] for name in names))
        hint = nearest(pattern, tops) or f"its parts are {', '.join(tops)}"
        raise SegkitError(f"{key}: no parameter of the network is named {pattern};   {hint}")
    return found


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    frozen = {name for pattern in patterns for name in matching(network, pattern, "freeze")}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if frozen and not any(parameter.requires_grad for parameter in network.parameters()):
        raise SegkitError(f"freeze={list(patterns)} leaves nothing to train")


def keep_frozen(network: nn.Module, patterns: Sequence[str]) -> None:
    """Batch norm in frozen parts keeps its statistics as well: else a frozen encoder would drift."""
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and any(fnmatchcase(name, end) for p in patterns for end in (p, f"{p}.*")):
            module.eval()


def layer_scales(network: nn.Module, decay: float) -> dict[str, float]:
    """Layer-wise decay (Howard and Ruder, 2018; Bao et al., BEiT, 2022): decay ** k for the k-th stage of the encoder from its end.

    The stages are the encoder's children in their order; all that comes after the encoder keeps the whole rate.
    """
    encoder, prefix = getattr(network, "encoder", None), "encoder"
    if not isinstance(encoder, nn.Module):
        raise SegkitError(f"lr_layer_decay: {type(network).__name__} has no encoder;   use  lr_scales  for its parts")
    while len(children := dict(encoder.named_children())) == 1:  # encoder.model of timm
        ((name, encoder),) = children.items()
        prefix = f"{prefix}.{name}"
    depth = {name: len(children) - i for i, name in enumerate(children)}
    stages = ((name, depth.get(name.partition(".")[0], len(children))) for name, _ in encoder.named_parameters())
    return {f"{prefix}.{name}": decay**k for name, k in stages}


def parameter_groups(network: nn.Module, lr: float, scales: Mapping[str, float], layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups by rate, that of the optimizer first; of several patterns of `lr_scales` for a parameter the last one counts.

    `layer_decay` multiplies these, see `layer_scales`.
    """
    if (scales or layer_decay) and not lr:
        raise SegkitError("lr_scales are shares of optimizer.lr, which is not given;   add  +optimizer.lr=RATE")
    decayed = layer_scales(network, layer_decay) if layer_decay else {}
    scale_of = {name: scale for pattern, scale in scales.items() for name in matching(network, pattern, "lr_scales")}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(scale_of.get(name, 1.0) * decayed.get(name, 1.0), []).append(parameter)
    return [
        {"params": parameters, "lr": scale * lr} if scale != 1 else {"params": parameters}
        for scale, parameters in groups.items()
        if parameters
    ]


def planned_steps(trainer: L.Trainer) -> tuple[int, int]:
    """Optimizer steps of a whole training and of an epoch; of an unlimited one as many as fit a number."""
    trainer.fit_loop.setup_data()
    total = trainer.estimated_stepping_batches
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return sys.maxsize if math.isinf(total) else int(total), max(1, per_epoch)


def fused(optimizer: Mapping[str, Any], precision: str) -> dict[str, bool]:
    """`fused=True` for torch's own Adam and SGD, which then do a step in one pass over the weights.

    Under fp16 a fused optimizer undoes the loss scaling itself, too late for gradient clipping.
    """
    if precision == "16" and optimizer.get("fused"):
        raise SegkitError("optimizer.fused=true cannot clip gradients under fp16;   leave it out, or use  trainer.precision=32")
    known = {f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD")}
    own_choice = {"fused", "foreach"} & set(optimizer)
    return {"fused": True} if optimizer["_target_"] in known and precision != "16" and not own_choice else {}


def build_scheduler(
    optimizer: Optimizer, cfg: Scheduler, n_steps: int, steps_per_epoch: int, metric: Metric, allow: Sequence[str] = ()
) -> LRScheduler | ReduceLROnPlateau:
    """Stepped after every optimizer step, or as `cfg.interval` says if it is named by its class; on a plateau after every validation."""
    if cfg.target:
        return named_scheduler(optimizer, cfg, metric, allow)
    if cfg.name == "plateau":
        return ReduceLROnPlateau(optimizer, mode=metric.mode, factor=cfg.factor, patience=cfg.patience)
    warmup = round(cfg.warmup_fraction * n_steps if cfg.name == "one_cycle" else cfg.warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, lambda step: rate(cfg, step, n_steps, warmup))


def named_scheduler(optimizer: Optimizer, cfg: Scheduler, metric: Metric, allow: Sequence[str]) -> LRScheduler | ReduceLROnPlateau:
    """A scheduler by its class."""
    node = scheduler_node(cfg, metric, allow)
    built = instantiate(node, "scheduler", allow=allow, training=True, optimizer=optimizer)
    if not isinstance(built, LRScheduler | ReduceLROnPlateau):
        raise SegkitError(f"scheduler: {node['_target_']} is no scheduler of torch.optim.lr_scheduler")
    return built


def scheduler_node(cfg: Scheduler, metric: Metric, allow: Sequence[str] = ()) -> dict[str, Any]:
    """Class and keywords of a named scheduler. One that waits for a plateau of `metric.monitor` knows whether more is better.

    Raises:
        SegkitError: It waits for a plateau of another metric, and `mode` is not given; or it was to be stepped after every step.
    """
    node = dict(cfg.target or {})
    if not descends(node["_target_"], PLATEAU, allow):
        return node
    name = str(node["_target_"]).rpartition(".")[2]
    if cfg.interval == "step":
        raise SegkitError(f"scheduler.interval=step: {name} is stepped after a validation;   use  scheduler.interval=epoch")
    watched = (cfg.monitor or metric.monitor).removeprefix("val/")
    if watched == metric.monitor.removeprefix("val/"):
        return {"mode": metric.mode, **node}
    if "mode" not in node:
        better = "min" if "loss" in watched else "max"
        what = f"scheduler.monitor={cfg.monitor} is not metric.monitor, so {name} does not know whether more of it is better"
        raise SegkitError(f"{what};   add  +scheduler.mode={better}")
    return node


def rate(cfg: Scheduler, step: int, n_steps: int, warmup: int) -> float:
    """Learning rate at `step` of `n_steps`, as a share of the optimizer's own."""
    if step < warmup:
        if cfg.name == "one_cycle":
            start = 0.04  # as torch's OneCycleLR: 1/25 of the highest rate
            return start + (1 - start) * (1 - math.cos(math.pi * step / warmup)) / 2
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, n_steps - warmup))
    if cfg.name == "constant":
        return 1.0
    if cfg.name == "poly":
        return float((1 - done) ** cfg.power)
    return float(cfg.min_lr_ratio + (1 - cfg.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2)
