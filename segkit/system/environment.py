"""The machine and the job around this process: ranks, shards and devices under torchrun and SLURM, versions, git, addresses."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from segkit.system.errors import SegkitError

T = TypeVar("T")
PARENT = "SEGKIT_TRAINING_OF"
"""Environment variable of a process that another one has started to share its training: the id of that process."""
TRIAL = "SEGKIT_TRIAL"
"""Environment variable of the processes of a sweep's trial (see training/callbacks/pruning.py)."""
PACKAGES = ("segkit", "torch", "torchvision", "lightning", "hydra-core", "albumentations", "segmentation-models-pytorch", "numpy")
PASSWORD = re.compile(r"(://[^:/]*):[^@]*@(?:[^/?]*@)?")
"""The password of user:password@; also one with / or @ that should have been written %2F or %40."""
PASSWORD_KEY = re.compile(r"([?&][^=&]*(?:password|passwd|pwd)=)[^&]*", re.IGNORECASE)


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
    if started := job():
        return started.rank
    return int(os.environ["LOCAL_RANK"]) if PARENT in os.environ else 0


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


@dataclass(frozen=True)
class Shard:
    """One of `of` shares of a long list that jobs divide without knowing of each other: `part=1/4` takes the first of four.

    The share of a case follows from its place in the list alone, so that a job that was killed finds its own again.
    `number` counts from 1.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def named(cls, text: str | None) -> Shard | None:
        """The shard of `1/4` or `auto`; None means everything."""
        if text is None:
            return None
        if text == "auto":
            shard = from_environment(os.environ)
            take_local_device(os.environ)
            return shard
        number, of = text.split("/")
        return cls(int(number), int(of))

    def share(self, items: Sequence[T], unit: Callable[[T], str]) -> list[T]:
        """Every `of`-th unit, such as a volume with all its slices, which are read together."""
        places = {name: place for place, name in enumerate(dict.fromkeys(map(unit, items)))}
        return [item for item in items if places[unit(item)] % self.of == self.number - 1]

    def piece(self, number: int, of: int) -> Shard:
        """Every `of`-th unit of this shard."""
        return Shard(self.number + self.of * (number - 1), self.of * of)

    def overlaps(self, other: Shard) -> bool:
        """Whether a long list has units that are in both."""
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0


def is_whole(shards: Iterable[Shard]) -> bool:
    """Whether shards none of which overlaps another are everything: 1/2, 2/4 and 4/4."""
    return sum(Fraction(1, shard.of) for shard in shards) == 1


def from_environment(environment: Mapping[str, str]) -> Shard:
    """The shard of an array job, of the processes that torchrun or srun started, or of both. Raises `SegkitError` elsewhere."""
    array, process = of_array(environment), of_processes(environment)
    if array and process:
        return array.piece(process.number, process.of)
    if shard := array or process:
        return shard
    raise SegkitError("part=auto needs a SLURM array job, srun or torchrun;   name the part: part=1/4")


def of_array(environment: Mapping[str, str]) -> Shard | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment.get("SLURM_ARRAY_TASK_COUNT", "1"))
    first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", task)), int(environment.get("SLURM_ARRAY_TASK_STEP") or "1")
    number, odd = divmod(task - first, step)
    if odd or number >= count:
        raise SegkitError(
            f"part=auto: job {task} of an array of {count} from {first} on, with gaps;   number it without (--array=0-{count - 1})"
        )
    return Shard(number + 1, count)


def of_processes(environment: Mapping[str, str]) -> Shard | None:
    """torchrun's ranks before srun's, whose tasks may each be a torchrun. A batch script itself is no srun step."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in environment and size in environment:
            return Shard(int(environment[rank]) + 1, int(environment[size]))
    return None


def take_local_device(environment: Mapping[str, str]) -> None:
    """One of the GPUs that all processes of this machine see; torchrun's take their share of the cores as well, srun binds its own."""
    if "LOCAL_RANK" in environment:
        take_share(int(environment["LOCAL_RANK"]), int(environment.get("LOCAL_WORLD_SIZE", "1")), visible_gpus())
    elif "SLURM_LOCALID" in environment and len(gpus := visible_gpus()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(environment["SLURM_LOCALID"]) % len(gpus)]


def take_share(worker: int, n_workers: int, gpus: list[str]) -> None:
    """Bind this process, and all that it starts, to share `worker` of `n_workers`. Fewer devices than workers: shared by turns."""
    if n_workers == 1:
        return
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker::n_workers] or [cores[worker % len(cores)]])
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[worker::n_workers] or [gpus[worker % len(gpus)]])


def visible_gpus() -> list[str]:
    """Names of the GPUs, from the driver's own tool: CUDA, once started, would not survive a fork."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
    return listed.stdout.split() if listed.returncode == 0 else []


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    return {name: version_of(name) for name in PACKAGES}


def version_of(package: str) -> str:
    """Of what is installed. A checkout that is merely on PYTHONPATH is not, and segmentation-models-pytorch only where it is used."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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


def without_password(text: str) -> str:
    """`text` with *** for the password of a database's address in it."""
    return PASSWORD_KEY.sub(r"\1***", PASSWORD.sub(r"\1:***@", text))


def absolute(storage: str | None) -> str | None:
    """The same journal file, or SQLite's, from any working directory; any other address as it is."""
    if storage is None:
        return None
    scheme, _, file = storage.partition(":///")
    is_sqlite = scheme.startswith("sqlite") and file and not file.startswith(("/", ":memory:", "file:"))
    if "://" in storage and not is_sqlite:
        return storage
    path = Path(os.path.expanduser(file if is_sqlite else storage)).absolute()  # noqa: PTH111  Path's own stops at a ~ that is no user
    return f"{scheme}:///{path}" if is_sqlite else str(path)
