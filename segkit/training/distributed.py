"""Several processes of one training (DDP, FSDP): start them, gather from them, and end them together.

Under torchrun or srun all processes are started from outside, and meet in a folder named after the job. Otherwise the first
process starts the others by `segkit train resume=RUN`, since the run folder holds the config of this one job, while the command
line may be that of a sweep. torchrun is no substitute for that: as soon as one process is lost it ends the first one as well, so
that nobody is left to write the status and to name what was lost.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from segkit.system.environment import PARENT, job
from segkit.system.errors import SegkitError
from segkit.system.shell import override

POLL_SECONDS, GRACE_SECONDS, END_SECONDS = 0.5, 10.0, 3.0

T = TypeVar("T")
Process = subprocess.Popen[bytes]


def is_distributed() -> bool:
    """Whether torch's process group has been created."""
    return dist.is_available() and dist.is_initialized()


def all_gather(mine: T) -> list[T]:
    """The objects of all processes of this training, by rank."""
    if not is_distributed():
        return [mine]
    everyone = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


@contextmanager
def process_group(run: Path, allow: Sequence[str], n: int, threads: int, report: Callable[[str], None]) -> Iterator[None]:
    """Inside, this process is the first of `n`, and the others have been started. Afterwards the environment is as before.

    Raises SegkitError where another process was lost. `report` receives the message as well if this process has to be ended,
    because it would wait for the lost one.
    """
    environment = dict(os.environ)
    others: list[Process] = []
    if n > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses
    try:
        if n > 1 and job() is None and PARENT not in environment:
            others = start_others(run, allow, n)
        with watching(others, run, report):
            yield
    except RuntimeError as error:
        if not is_about_connection(error):
            raise
        if PARENT in environment:
            sys.exit(1)  # the first process is gone, or reports what has happened
        if message := lost(others, run, seconds=END_SECONDS):
            raise SegkitError(message) from error
        raise
    finally:
        end(others)
        if is_distributed():
            dist.destroy_process_group()  # so that the next training can create its own
        os.environ.clear()
        os.environ.update(environment)


def start_others(run: Path, allow: Sequence[str], n: int) -> list[Process]:
    """Start ranks 1 to n - 1, in sessions of their own: Ctrl-C is for the first process, which passes the decision on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": "0"})
    quoted = str(run.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "segkit", "train", f"resume='{quoted}'", f"allow_targets=[{','.join(allow)}]"]
    paths = os.pathsep.join(filter(None, sys.path))  # where this process has found the user's classes
    shared = {**os.environ, PARENT: str(os.getpid()), "PYTHONPATH": paths}
    return [
        subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(i)}, stdin=subprocess.DEVNULL, start_new_session=True)
        for i in range(1, n)
    ]


def end_with_parent() -> None:
    """End this process when the one that has started it ends, however that happens. Does nothing in a first process."""
    parent = int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def watching(others: Sequence[Process], run: Path, report: Callable[[str], None]) -> Iterator[None]:
    """End this process if another one is lost and it does not notice: on GPUs it would wait for minutes, or for ever."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if (message := lost(others, run)) and not over.wait(GRACE_SECONDS):
                print(message, file=sys.stderr, flush=True)
                report(message)
                end(others, seconds=0)
                os._exit(1)

    if others:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def lost(others: Sequence[Process], run: Path, seconds: float = 0.0) -> str:
    """The message about a process that has failed, or "". Waits up to `seconds`: connections end a moment before their process."""
    until = time.monotonic() + seconds
    while not (failed := [(i, code) for i, other in enumerate(others, start=2) if (code := other.poll())]):
        if not others or time.monotonic() >= until:
            return ""
        time.sleep(0.02)
    number, code = failed[0]
    how = f"was killed by signal {-code}" if code < 0 else f"has failed (exit code {code}; see its traceback above)"
    resume = f"segkit train {override('resume', str(run))}"
    return f"process {number} of the {len(others) + 1} that share this training {how};   resume with  {resume}"


def is_about_connection(error: RuntimeError) -> bool:
    """Whether the error comes from another process: gloo raises nothing more specific than a RuntimeError."""
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection", "store"))


def end(others: Sequence[Process], seconds: float = END_SECONDS) -> None:
    """Wait for the others, which end with the training; kill what is stuck, and loses nothing."""
    until = time.monotonic() + seconds
    try:
        for other in others:
            with suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, until - time.monotonic()))
    finally:
        for other in others:
            other.kill()
            other.wait()
