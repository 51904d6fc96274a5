"""Where a job of Hydra's runs: `hydra.run.dir` and `hydra.job.chdir`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.system.errors import SegkitError
from segkit.system.shell import override

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

ANCHORED = ("output_dir", "resume", "init_from", "data.root", "benchmark.root", "split.path", "model.weights.path", "model.encoder_weights")
"""Keys that may hold a path relative to the folder in which the command was typed."""


def anchor(cfg: DictConfig, folder: str) -> None:
    """Make relative paths absolute, and modules of `folder` importable: the job runs in another one."""
    from omegaconf import OmegaConf, open_dict, read_write

    sys.path.append(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), folder])  # of further processes
    with read_write(cfg), open_dict(cfg):
        for key in ANCHORED:
            value = OmegaConf.select(cfg, key, throw_on_resolution_failure=False, throw_on_missing=False)
            if isinstance(value, str) and (key == "output_dir" or Path(folder, value).exists()):
                OmegaConf.update(cfg, key, str(Path(folder, os.path.expanduser(value))))  # noqa: PTH111


def own_folder(config: Any, node: HydraConf) -> Path | None:
    """The run folder, where `hydra.run.dir` or `hydra.job.chdir` say so; None where segkit makes it."""
    if config.resume is not None:
        return None
    chosen = Path(node.runtime.output_dir)
    if node.run.dir == "." and node.job.chdir:
        from segkit.training.run_folder import reserve

        return reserve(Path(config.output_dir, config.name), config.run)
    if (chosen / "config.yaml").exists() and node.run.dir != ".":
        fix = f"choose another  hydra.run.dir=FOLDER,  or continue it with  {override('resume', str(chosen))}"
        raise SegkitError(f"{chosen} holds a run already;   {fix}")
    return chosen if node.run.dir != "." else None
