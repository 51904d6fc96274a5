"""One prediction on several GPUs, or in several processes on the cores: each takes a part of the images, as `part=1/4` does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Never

from segkit.config.schema import Predict, PredictHardware
from segkit.inference.batch import Done, Show
from segkit.inference.inputs import Job
from segkit.system.devices import take_share, visible_gpus
from segkit.system.errors import SegkitError
from segkit.system.hardware import choose_device, usable_cores
from segkit.system.parts import Part
from segkit.system.processes import INTERRUPTED, die_with
from segkit.system.progress import track

Work = Callable[[Predict, Part | None, Show], Done]
"""A function of a module, since the processes import it; a script that calls `segkit.predict` wants `if __name__ == "__main__"`."""
PATIENCE_S = 20.0
"""For the tables of a process that is stopped."""


@dataclass(frozen=True)
class Child:
    part: Part
    process: SpawnProcess
    pipe: Connection


def predict_side_by_side(work: Work, cfg: Predict, part: Part | None) -> Done:
    """What all processes did together. SegkitError where one failed as a whole; the others end first, and what they did stays."""
    with running(work, cfg, part or Part(1, 1)) as children:
        ends: dict[Connection, Done | str] = {}
        todo = sum(awaited(child.pipe, ends) for child in children)
        for _ in track(finished([child.pipe for child in children if child.pipe not in ends], ends), "predicting", todo):
            pass
        return together([result(child, ends) for child in children])


def awaited(pipe: Connection, ends: dict[Connection, Done | str]) -> int:
    """How many images a process has to do: its first message, unless it fails before."""
    try:
        first = pipe.recv()
    except EOFError:
        return 0
    if isinstance(first, int):
        return first
    ends[pipe] = first
    return 0


def finished(pipes: list[Connection], ends: dict[Connection, Done | str]) -> Iterator[None]:
    """Once an image, whoever did it, until all processes have ended."""
    while pipes:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            if message is None:
                yield
            else:
                ends[pipe] = message


def result(child: Child, ends: dict[Connection, Done | str]) -> Done:
    end = ends.get(child.pipe)
    if isinstance(end, Done):
        return end
    child.process.join(PATIENCE_S)
    lost = f"the process of part {child.part} ended with exit code {child.process.exitcode};   the same command again does what is missing"
    raise SegkitError(end or lost)


def together(done: Sequence[Done]) -> Done:
    return Done(
        written=sum(one.written for one in done),
        skipped=sum(one.skipped for one in done),
        problems=tuple(problem for one in done for problem in one.problems),
        notes=tuple(note for one in done for note in one.notes),
        of=done[0].of,
        merged=any(one.merged for one in done),
    )


@contextmanager
def running(work: Work, cfg: Predict, part: Part) -> Iterator[list[Child]]:
    """The processes; none of them outlives the block, however it ends."""
    n, gpus = cfg.hardware.devices, gpus_of(cfg.hardware)
    threads = max(1, usable_cores() // n) if cfg.hardware.threads == "auto" else cfg.hardware.threads
    alone = cfg.model_copy(update={"hardware": cfg.hardware.model_copy(update={"threads": threads})})
    children: list[Child] = []
    with stops_are_interrupts():
        try:
            for i in range(n):
                children.append(start(work, alone, part.piece(i + 1, n), (i, n, gpus)))
            yield children
        finally:
            stop([child.process for child in children])


def gpus_of(hardware: PredictHardware) -> list[str]:
    """Empty on a processor. SegkitError where there are fewer devices than processes."""
    device = choose_device(hardware.accelerator)
    gpus = visible_gpus() if device == "cuda" else []
    there = {"cuda": len(gpus), "mps": 1}.get(device, usable_cores())
    if hardware.devices > there:
        what = {"cuda": "GPUs that this process sees", "mps": "Apple GPUs"}.get(device, "cores that it may use")
        raise SegkitError(f"hardware.devices={hardware.devices} is more than the {what}: {there}")
    return gpus


def start(work: Work, cfg: Predict, part: Part, share: tuple[int, int, list[str]]) -> Child:
    """Spawned, not forked: CUDA and OpenMP do not survive that."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(work, cfg, part, share, theirs, os.getpid()), daemon=True)
    with deaf_to_ctrl_c():
        process.start()
    theirs.close()
    return Child(part, process, ours)


def run(work: Work, cfg: Predict, part: Part, share: tuple[int, int, list[str]], pipe: Connection, parent: int) -> None:
    """In the process: its results go to the pipe. The first one may talk; all of them would say the same."""
    signal.signal(signal.SIGTERM, interrupt)
    die_with(parent)
    take_share(*share)
    if share[0] > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (for as long as the process lives)

    def told(jobs: Sequence[Job], what: str) -> Iterable[Job]:
        pipe.send(len(jobs))
        for job in jobs:
            yield job
            pipe.send(None)

    try:
        pipe.send(work(cfg, part, told))
    except SegkitError as error:
        pipe.send(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def stop(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()


@contextmanager
def stops_are_interrupts() -> Iterator[None]:
    """SIGTERM stops all processes, as Ctrl-C does."""
    with handled(signal.SIGTERM, interrupt):
        yield


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """What is started inside: the terminal sends Ctrl-C to all processes, but the first one stops the others, once."""
    with handled(signal.SIGINT, signal.SIG_IGN):
        yield


@contextmanager
def handled(number: signal.Signals, handler: Callable[[int, Any], Any] | signal.Handlers) -> Iterator[None]:
    """Only the main thread has a say in signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def interrupt(number: int, frame: FrameType | Any) -> Never:
    raise KeyboardInterrupt
