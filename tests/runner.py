"""Run `segkit ARGS` in a test: inside the test's own process, or as a process of its own where that is the point."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

Result = subprocess.CompletedProcess[str]
Cli = Callable[..., Result]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PROCESS_OPTIONS = ("-m", "--multirun", "trainer.devices=", "devices=", "folds=", "hydra.mode=MULTIRUN", "--nproc")
"""Arguments with which segkit starts further processes: they repeat the command line, or are forked."""


def run_segkit(cwd: Path, *args: str, env: dict[str, str] | None = None) -> Result:
    """`segkit ARGS` as a user runs it in `cwd`, but without a new interpreter and its seconds of imports.

    A command that starts further processes is started as a process itself.
    """
    if args[:1] == ("tune",) or any(arg.startswith(PROCESS_OPTIONS) for arg in args):
        return run_segkit_process(cwd, *args, env=env)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with redirected(1, "stdout", out), redirected(2, "stderr", err), as_new_process(cwd, ["segkit", *args], env or {}):
            code = call_main(args)
        texts = [file.read().decode() for file in (out, err) if file.seek(0) == 0]
    return Result(["segkit", *args], code, *texts)


def run_segkit_process(cwd: Path, *args: str, env: dict[str, str] | None = None) -> Result:
    """`segkit ARGS` in a new process: for tests of start-up, of signals, and of several devices."""
    command = [sys.executable, "-m", "segkit", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, env={**os.environ, **(env or {})})


def call_main(args: tuple[str, ...]) -> int:
    """The exit code that the interpreter would give."""
    from segkit.cli.main import main

    try:
        return main(args)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def as_new_process(cwd: Path, argv: list[str], env: dict[str, str]) -> Iterator[None]:
    """Put back everything of the process that a command changes, and hide what the test runner has changed."""
    with ExitStack() as stack:
        for restored in (folder(cwd), environment(env), hydra_state(), signals(), logs(), default_warnings(), torch_state()):
            stack.enter_context(restored)
        before, sys.argv = sys.argv, argv
        stack.callback(setattr, sys, "argv", before)
        yield
        gc.collect()  # ends the loader workers that a trainer has left
        gc.freeze()  # what is left is modules: a million objects that no later collection need look at


@contextmanager
def redirected(number: int, name: str, file: Any) -> Iterator[None]:
    """The stream in Python and below it: what forked workers and C libraries print is caught as well."""
    stream = getattr(sys, name)
    stream.flush()
    saved = os.dup(number)
    os.dup2(file.fileno(), number)
    ours = os.fdopen(os.dup(number), "w", encoding="utf-8")
    ours.reconfigure(write_through=True)  # type: ignore[attr-defined]
    setattr(sys, name, ours)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        ours.close()
        os.dup2(saved, number)
        os.close(saved)


@contextmanager
def folder(cwd: Path) -> Iterator[None]:
    """`cwd` as the current folder, from which modules of the user are imported; the next command has its own of the same name."""
    before, paths = Path.cwd(), list(sys.path)
    os.chdir(cwd)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = paths
        for name, module in list(sys.modules.items()):
            if (file := getattr(module, "__file__", None)) and Path(file).is_relative_to(cwd.resolve()):
                del sys.modules[name]


@contextmanager
def environment(env: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def hydra_state() -> Iterator[None]:
    from hydra.core.singleton import Singleton

    from segkit.config.search_path import UserFolders

    before, folders = Singleton._instances, UserFolders.folders
    of_one_application = ("GlobalHydra", "HydraConfig", "JobRuntime", "VersionBase")
    Singleton._instances = {kind: instance for kind, instance in before.items() if kind.__name__ not in of_one_application}
    try:
        yield
    finally:
        Singleton._instances, UserFolders.folders = before, folders


@contextmanager
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logs() -> Iterator[None]:
    """Handlers and levels; a handler that has kept its stream writes to the present one."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: of.disabled for name, of in loggers().items()}
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    point_handlers_to(sys.stderr)
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        for name, of in loggers().items():
            of.disabled = before[2].get(name, False)
        point_handlers_to(sys.__stderr__)


def point_handlers_to(stream: Any) -> None:
    for logger in loggers().values():
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = stream  # setStream would flush the one before, which is closed


def loggers() -> dict[str, logging.Logger]:
    return {name: of for name, of in logging.root.manager.loggerDict.items() if isinstance(of, logging.Logger)}


@contextmanager
def default_warnings() -> Iterator[None]:
    """Printed as the interpreter does; pytest would collect them."""

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield


@contextmanager
def torch_state() -> Iterator[None]:
    import numpy as np
    import torch

    threads, filled = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])
