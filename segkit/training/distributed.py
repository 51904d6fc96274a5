"""Several processes of one training (DDP, FSDP): who starts them, which of them this is, and how they end together.

Alone, the first process starts the others by `segkit train resume=RUN`: the run folder holds this one job's whole config, while
the command line may be that of a sweep. Under torchrun and srun all start by themselves, and meet in a folder named after the job.
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

from segkit.system.environment import PARENT, job
from segkit.system.errors import SegkitError

POLL_SECONDS, GRACE_SECONDS, END_SECONDS = 0.5, 10.0, 3.0


@contextmanager
def training_together(run: Path, allow: Sequence[str], n: int, threads: int, tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, this process is the first of `n`, and the others have been started. Afterwards it is as it was.

    SegkitError where one of them was lost. `tell` hears of it, too, should this process have to be ended for it: waiting for the
    others, it may never come back.
    """
    environment = dict(os.environ)
    others: list[subprocess.Popen[bytes]] = []
    if n > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning chooses
    try:
        if n > 1 and job() is None and PARENT not in environment:
            others = start_others(run, allow, n)
        with watching(others, run, tell):
            yield
    except Exception as error:
        if not is_about_connection(error):
            raise
        if PARENT in environment:
            sys.exit(1)  # the first process is gone, or tells what has happened
        if what := lost(others, run, seconds=END_SECONDS):
            raise SegkitError(what) from error
        raise
    finally:
        end(others)
        leave_group()
        os.environ.clear()
        os.environ.update(environment)


def start_others(run: Path, allow: Sequence[str], n: int) -> list[subprocess.Popen[bytes]]:
    """In a session of their own: Ctrl-C is for the first process, which tells them."""
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "LOCAL_RANK": "0"})
    quoted = str(run.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "segkit", "train", f"resume='{quoted}'", f"allow_targets=[{','.join(allow)}]"]
    paths = os.pathsep.join(filter(None, sys.path))  # where this process has found the user's classes
    ours = {**os.environ, PARENT: str(os.getpid()), "PYTHONPATH": paths}
    return [
        subprocess.Popen(command, env={**ours, "LOCAL_RANK": str(i)}, stdin=subprocess.DEVNULL, start_new_session=True) for i in range(1, n)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent() -> None:
    """A process that shares the training of another one must not outlive it, however that ends."""
    parent = int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


@contextmanager
def watching(others: Sequence[subprocess.Popen[bytes]], run: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """End this process where another one was lost and it does not notice: on GPUs it would wait for minutes, or for ever."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if (what := lost(others, run)) and not over.wait(GRACE_SECONDS):
                print(what, file=sys.stderr, flush=True)
                tell(what)
                end(others, seconds=0)
                os._exit(1)

    if others:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def lost(others: Sequence[subprocess.Popen[bytes]], run: Path, seconds: float = 0.0) -> str:
    """What to say of processes that have failed; empty where all is well. A process is gone a moment after its connections: `seconds`
    waits for that."""
    until = time.monotonic() + seconds
    while not (failed := [(i, code) for i, other in enumerate(others, start=2) if (code := other.poll())]):
        if not others or time.monotonic() >= until:
            return ""
        time.sleep(0.02)
    number, code = failed[0]
    how = f"was killed by signal {-code}" if code < 0 else f"has failed (exit code {code}; its own words stand above)"
    return f"process {number} of the {len(others) + 1} that share this training {how};   go on with  segkit train resume={run}"


def is_about_connection(error: Exception) -> bool:
    """Whether it tells of the others, not of this process: gloo raises nothing more special than a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection", "store"))


def end(others: Sequence[subprocess.Popen[bytes]], seconds: float = END_SECONDS) -> None:
    """They end by themselves when the training does, as this process has; what is stuck is killed, and loses nothing."""
    until = time.monotonic() + seconds
    try:
        for other in others:
            with suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, until - time.monotonic()))
    finally:
        for other in others:
            other.kill()
            other.wait()


def leave_group() -> None:
    """So that the next training of this process meets its own companions."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
