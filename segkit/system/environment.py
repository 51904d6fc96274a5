"""The machine and the job around this process: ranks under torchrun and srun, versions, git, the command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from segkit.system.addresses import without_password
from segkit.system.errors import SegkitError

PARENT = "SEGKIT_TRAINING_OF"
"""Environment variable of a process that another one has started to share its training: the id of that process."""
TRIAL = "SEGKIT_TRIAL"
"""Environment variable of the processes of a sweep's trial (see training/trial.py)."""
PACKAGES = (
    "segkit",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "albumentations",
    "segmentation-models-pytorch",
    "numpy",
)


@dataclass(frozen=True)
class Job:
    """A job of torchrun or srun: `machines` times `per_machine` processes, of which this is number `rank`."""

    by: str
    rank: int
    machines: int
    per_machine: int


def job() -> Job | None:
    """The job that has started this process, or None. In a sweep each process trains by itself."""
    environment = os.environ
    if TRIAL in environment or PARENT in environment:
        return None
    if "TORCHELASTIC_RUN_ID" in environment:
        here, world = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
        return Job("torchrun", int(environment["RANK"]), world // here, here)
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))  # of srun; a batch script itself is no step
    if tasks == 1:
        return None
    if "SLURM_NTASKS_PER_NODE" not in environment:
        raise SegkitError(f"srun has started {tasks} tasks;   say how many a machine:  --ntasks-per-node")
    here = int(environment["SLURM_NTASKS_PER_NODE"])
    return Job("srun", int(environment["SLURM_PROCID"]), tasks // here, here)


def rank() -> int:
    """Rank of this process in its training, before the process group exists."""
    started = job()
    if started is None:
        return int(os.environ["LOCAL_RANK"]) if PARENT in os.environ else 0
    return started.rank


def is_child() -> bool:
    """Whether this is not the first process of its training: then it writes no files and prints nothing."""
    return rank() > 0


def job_name() -> str | None:
    """A name that all processes of a torchrun or SLURM job know; None where this process was started alone."""
    started = job()
    if started is None:
        return None
    if started.by == "srun":
        return f"slurm-{os.environ['SLURM_JOB_ID']}"
    elastic = os.environ["TORCHELASTIC_RUN_ID"]
    if elastic == "none":
        raise SegkitError("torchrun gives this job no name, so its processes cannot meet;   add  run=NAME,  or torchrun --rdzv-id=NAME")
    return f"torchrun-{elastic}"


def layout(devices: int | str, num_nodes: int | str, there: int, usual: int, kind: str) -> tuple[int, int]:
    """Processes on each machine, and machines. `there`: devices of this machine, of that `kind`; `usual`: how many "auto" takes.

    torchrun and srun have decided already, so 1 and auto mean what they have started.
    """
    started = job()
    if started is None:
        if num_nodes != 1:
            raise SegkitError(
                f"trainer.num_nodes={num_nodes}: neither srun nor torchrun has started this process, so no other machine takes part;\n"
                "  on each machine   torchrun --nnodes=2 --nproc-per-node=8 --rdzv-id=NAME --rdzv-endpoint=FIRST_MACHINE:29500"
                " -m segkit train trainer=multi_node …\n"
                "  for SLURM   see the head of segkit's conf/trainer/multi_node.yaml"
            )
        n = usual if devices == "auto" else int(devices)
    else:
        n = started.per_machine
        for key, asked, has in (("devices", devices, n), ("num_nodes", num_nodes, started.machines)):
            if asked not in ("auto", 1, has):
                raise SegkitError(f"trainer.{key}={asked}, but {started.by} has started {has};   leave it out, or make them equal")
    if n > there:
        raise SegkitError(f"trainer.devices={n}, but this process may use {there} {kind};   use  trainer.devices={there}")
    return n, started.machines if started else 1


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def session() -> dict[str, Any]:
    return {
        "when": now(),
        "command": shlex.join(map(without_password, sys.argv)),
        "git": git_state(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": versions(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the user's own repository, and whether it has uncommitted changes; None outside of one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())} if commit.returncode == 0 else None
