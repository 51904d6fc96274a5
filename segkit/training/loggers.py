"""The loggers of a training, as the config names them; what they write lies in the run folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from segkit.config.groups import with_folder
from segkit.config.schema import Train
from segkit.config.targets import instantiate
from segkit.system.errors import SegkitError
from segkit.training.callbacks.build import in_run
from segkit.training.run_folder import RunFolder


def build_loggers(cfg: Train, run: RunFolder, global_step: int) -> list[Logger]:
    """`global_step` is where a resumed run continues: events beyond it are dropped."""
    threading.excepthook = silence_writer
    return [build_logger(name, node, cfg, run, global_step) for name, node in cfg.logger.items() if node]


def build_logger(name: str, node: Mapping[str, Any], cfg: Train, run: RunFolder, global_step: int) -> Logger:
    purge = {"purge_step": global_step + 1} if global_step and str(node["_target_"]).endswith(".TensorBoardLogger") else {}
    node = with_folder(("logger", name), in_run(node, run.path), cfg.allow_targets, str(run.events))
    built = instantiate({**node, **purge}, allow=cfg.allow_targets, training=True)
    if not isinstance(built, Logger):
        raise SegkitError(f"logger.{name}: {node['_target_']} is no lightning.pytorch.loggers.Logger")
    return built


class TensorBoardLogger(loggers.TensorBoardLogger):
    """TensorBoard events in the run folder, without Lightning's empty hparams.yaml beside config.yaml.

    A disk that cannot hold them is reported with the checkpoint that does not fit on it, not by the writer's thread.
    """

    def __init__(self, save_dir: str = ".", name: str | None = "", version: int | str | None = "", **keywords: Any) -> None:
        super().__init__(save_dir, name, version, **{"default_hp_metric": False, **keywords})

    def save(self) -> None:
        with suppress(OSError):
            self.experiment.flush()

    def finalize(self, status: str) -> None:
        with suppress(OSError):
            super().finalize(status)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with suppress(OSError):
            super().log_metrics(metrics, step)


def silence_writer(failed: threading.ExceptHookArgs) -> None:
    """The thread that writes events hands its error on to the logger; that of any other thread is printed as ever."""
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failed)
