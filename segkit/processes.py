"""Several processes of one training (DDP): the first one makes the run folder and writes, the others join it.

Lightning starts its children by repeating the command line, which in a Hydra multirun would start the whole sweep again.
So the command line is replaced by `segkit train resume=RUN`: the run folder holds the one job's whole config. Under
torchrun or SLURM all processes start by themselves; they meet in a folder named after the job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import segkit
from segkit.errors import SegkitError


def rank() -> int:
    """Number of this process among those of one training, before anything distributed has started."""
    slurm = os.environ.get("SLURM_PROCID", "0") if int(os.environ.get("SLURM_NTASKS", "1")) > 1 else "0"
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", slurm)))


def is_child() -> bool:
    """Whether this process shares the training of another one: it writes no files."""
    return rank() > 0


def job_name() -> str | None:
    """A name that all processes of a torchrun or SLURM job know; None where this process was started alone."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}"
    elastic = os.environ.get("TORCHELASTIC_RUN_ID")
    if elastic == "none":
        raise SegkitError("torchrun gives this job no name, so its processes cannot meet;   add  run=NAME,  or torchrun --rdzv-id=NAME")
    return f"torchrun-{elastic}" if elastic else None


@contextmanager
def children_join(run: Path, allow: Sequence[str]) -> Iterator[None]:
    """Inside, children that Lightning starts join the run in `run`. Afterwards this process is as it was."""
    argv, environment = sys.argv, dict(os.environ)
    entry = Path(segkit.__file__).with_name("__main__.py")
    sys.argv = [str(entry), "train", f"resume={run.resolve()}", f"allow_targets=[{','.join(allow)}]"]
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
