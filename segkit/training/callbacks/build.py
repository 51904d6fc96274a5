"""The callbacks of a training: those that promises hang on, always, and around them those that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, RichProgressBar, WeightAveraging

from segkit.config.groups import in_folder, with_folder
from segkit.config.schema import Train
from segkit.config.targets import instantiate, keywords_of
from segkit.system.errors import SegkitError
from segkit.system.progress import console
from segkit.training.callbacks.checkpoints import Checkpoints, Interruption
from segkit.training.callbacks.ending import LastValidation, Timer
from segkit.training.callbacks.finite import NonFiniteGuard
from segkit.training.callbacks.logging import COST_NAMES, Costs, EpochTable
from segkit.training.callbacks.pruning import Pruning, RunningTrial
from segkit.training.callbacks.validation import BestSoFar
from segkit.training.memory import MemoryAdvice
from segkit.training.run_folder import RunFolder

EVERY_MINUTES = 5.0
"""Between checkpoints inside an epoch, where `callbacks.model_checkpoint` is left out."""
OFF: dict[str, Any] = {"patience": None, "decay": None, "save_top_k": 0}
"""Values with which one of our own callbacks has nothing to do."""


def build_callbacks(cfg: Train, run: RunFolder) -> list[L.Callback]:
    """Those that average come before all that save or log, those that save before `Checkpoints`: last.ckpt holds their state."""
    named = named_callbacks(cfg, run)
    averaging = [callback for callback in named if isinstance(callback, WeightAveraging)]
    saving = [callback for callback in named if isinstance(callback, Checkpoint)]
    others = [callback for callback in named if callback not in averaging + saving]
    guard = NonFiniteGuard(run, cfg)
    every_minutes = (cfg.callbacks.get("model_checkpoint") or {}).get("every_minutes", EVERY_MINUTES)
    checkpoints = Checkpoints(run.best.parent, cfg.metric.monitor, cfg.metric.mode, every_minutes, guard)
    has_bar = any(isinstance(callback, ProgressBar) for callback in named)
    table = EpochTable(run.path / "metrics.csv", announce=not has_bar)
    return [
        *averaging,
        guard,
        *([Timer(limit)] if (limit := time_limit(cfg)) else []),
        table,
        BestSoFar(cfg.metric.monitor, cfg.metric.mode, table),
        *saving,
        checkpoints,
        Interruption(checkpoints),
        MemoryAdvice(cfg),
        *others,
        *of_trial(cfg, run),
        LastValidation(),
    ]


def time_limit(cfg: Train) -> str | dict[str, float] | None:
    minutes = cfg.trainer.max_minutes
    return cfg.trainer.max_time or (None if minutes is None else {"minutes": minutes})


def named_callbacks(cfg: Train, run: RunFolder) -> list[L.Callback]:
    """Build the callbacks of the config; a bar that draws on a terminal only where there is one."""
    found = [named_callback(name, node, cfg, run) for name, node in cfg.callbacks.items() if node and not is_off(node)]
    return [callback for callback in found if console.is_terminal or not isinstance(callback, RichProgressBar)]


def named_callback(name: str, node: Mapping[str, Any], cfg: Train, run: RunFolder) -> L.Callback:
    node = with_folder(("callbacks", name), in_folder(monitoring(node, cfg), run.path), cfg.allow_targets, str(run.best.parent))
    built = instantiate(node, f"callbacks.{name}", allow=cfg.allow_targets, training=True)
    if not isinstance(built, L.Callback):
        raise SegkitError(f"callbacks.{name}: {node['_target_']} is no lightning.Callback")
    return built


def is_off(node: Mapping[str, Any]) -> bool:
    return is_ours(node) and any(key in node and node[key] == value for key, value in OFF.items())


def is_ours(node: Mapping[str, Any]) -> bool:
    return str(node["_target_"]).startswith("segkit.")


def monitoring(node: Mapping[str, Any], cfg: Train) -> dict[str, Any]:
    """A node of ours without a metric of its own monitors that of the training."""
    if not is_ours(node) or node.get("monitor") or "monitor" not in keywords_of(str(node["_target_"]), training=True):
        return dict(node)
    return {**node, "monitor": f"val/{cfg.metric.monitor}", "mode": node.get("mode") or cfg.metric.mode}


def of_trial(cfg: Train, run: RunFolder) -> list[L.Callback]:
    """What a sweep asks of its trials."""
    trial = RunningTrial.current()
    if trial is None:
        return []
    costs: list[L.Callback] = [Costs(run.path / "costs.json")] if set(COST_NAMES) & set(trial.objectives) else []
    return [*costs, *([Pruning(cfg.metric.monitor, trial)] if trial.pruner[0] != "none" else [])]
