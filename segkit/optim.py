"""Learning-rate schedules by name; the optimizer itself is any class of torch.optim that the config names."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from segkit.config.schema import Scheduler


def build_scheduler(optimizer: Optimizer, cfg: Scheduler, n_steps: int, steps_per_epoch: int, mode: str) -> LRScheduler | ReduceLROnPlateau:
    """Stepped after every optimizer step; `plateau` after every validation."""
    if cfg.name == "plateau":
        how = "max" if mode == "max" else "min"
        return ReduceLROnPlateau(optimizer, mode=how, factor=cfg.factor, patience=cfg.patience)  # type: ignore[arg-type]
    warmup = round(cfg.warmup_fraction * n_steps if cfg.name == "one_cycle" else cfg.warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, lambda step: rate(cfg, step, n_steps, warmup))


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
