"""Where Hydra 1.3 looks for sweepers: the package `hydra_plugins`, which all plugins share and which has no `__init__.py`.

pyproject.toml puts this folder on the path of an editable install, and this file beside `segkit` in a wheel. Hydra imports it at every
start, so the sweep itself is imported when there is one.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Hands a multirun to segkit. Its keys are those of conf/hydra/sweeper/optuna.yaml, read from the whole config."""

    def __init__(self, **keys: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from segkit.training.sweeps.sweeper import Multirun

        Multirun(*self.given).run(arguments)
