"""The commands as Python functions: the same overrides as on the command line, the same checks, results as objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segkit.config.compose import compose, to_model
from segkit.config.overrides import assignment

if TYPE_CHECKING:
    from segkit.inference.evaluation import Result


def train(*overrides: str | DictConfig, config_dirs: Sequence[Path | str] = ()) -> Result:
    """`segkit.train("experiment=quickstart", "seed=1")`

    In a script under `@hydra.main(config_path=str(segkit.CONF), config_name="train")`: `segkit.train(cfg)`.
    """
    given = overrides[0] if overrides and isinstance(overrides[0], DictConfig) else None
    words = [str(word) for word in (HydraConfig.get().overrides.task if given is not None else overrides)]
    cfg = compose("train", words, config_dirs) if given is None else to_model("train", given, HydraConfig.get().runtime.choices, (), words)
    from segkit.training import train as run

    return run.train(cfg, overrides=words)  # type: ignore[arg-type]


def evaluate(ckpt: str | Path | None, *overrides: str, config_dirs: Sequence[Path | str] = ()) -> Result:
    """`segkit.evaluate("outputs/x/checkpoints/best.ckpt", "subset=test")`

    With `ckpt=None` what the overrides name is evaluated: members, a sweep's folds, or masks.
    """
    given = [assignment("ckpt", ckpt)] if ckpt is not None else []
    cfg = compose("evaluate", [*given, *overrides], config_dirs)
    from segkit.cli.evaluate import evaluate as run

    return run(cfg)  # type: ignore[arg-type]


def predict(ckpt: str | Path | None, input: str | Path | None, output: str | Path, *overrides: str) -> Any:
    """Masks of the images in `input` (file, folder or glob) as files in `output`; `segkit.load` predicts in memory.

    With `ckpt=None` the overrides name members or a sweep's folds, with `input=None` a data set: `"data.root=FOLDER"`.
    """
    named = {"ckpt": ckpt, "input": input, "output": output}
    given = [assignment(key, value) for key, value in named.items() if value is not None]
    cfg = compose("predict", [*given, *overrides])
    from segkit.cli.predict import predict as run

    return run(cfg)  # type: ignore[arg-type]
