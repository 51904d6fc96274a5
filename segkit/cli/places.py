"""Where a job of Hydra's runs: `hydra.run.dir` and `hydra.job.chdir`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.system.environment import TRIAL, is_child
from segkit.system.errors import SegkitError, few
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


def own_folder(config: Any, node: HydraConf, is_multirun: bool) -> Path | None:
    """The run folder: Hydra's in a multirun, and where `hydra.run.dir` or `hydra.job.chdir` say so; None where segkit makes it.

    Raises:
        SegkitError: There is something in it already that Hydra has not just written.
    """
    chosen = Path(node.runtime.output_dir)
    if config.resume is not None or (is_multirun and TRIAL in os.environ):
        return chosen if is_multirun else None
    if node.run.dir == "." and node.job.chdir and not is_multirun:
        from segkit.training.run_folder import reserve

        return reserve(Path(config.output_dir, config.name), config.run)
    if node.run.dir == "." and not is_multirun:
        return None
    if not is_child():
        check_new(chosen, "hydra.sweep.dir" if is_multirun else "hydra.run.dir", node)
    return chosen


def check_new(folder: Path, key: str, node: HydraConf) -> None:
    """Raise SegkitError where a run would mix with what is in the folder that `key` names. Hydra's own files may be there."""
    hydras = {node.output_subdir, f"{node.job.name}.log", "multirun.yaml", ".run.lock"}
    found = sorted(path.name for path in folder.iterdir() if path.name not in hydras) if folder.is_dir() else []
    fix = f"choose another  {key}=FOLDER"
    if "config.yaml" in found:
        raise SegkitError(f"{folder} holds a run already;   {fix},  or continue it with  {override('resume', str(folder))}")
    if found:
        raise SegkitError(f"{folder} is not empty, it holds {few(found, 3)};   {fix}")
