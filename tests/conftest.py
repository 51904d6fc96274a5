"""Shared by all tests: the folder of real samples, and a training small enough to run many times."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner import Cli, run_segkit, run_segkit_process

__all__ = ["PLAIN", "QUICK", "SMALL", "Cli", "run_segkit", "run_segkit_process"]
REPOSITORY = Path(__file__).resolve().parent.parent

QUICK = ("report=false", "callbacks.pictures=null", "callbacks.validation_curves=null")
"""No figures, which take half the time of a small training."""

PLAIN = (
    "data=phantom",
    "data.phantom_n=16",
    "data.batch_size=4",
    "preprocess.size=[48,64]",
    "model.widths=[8,16]",
    "trainer.max_epochs=2",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "name=small",
)
"""A U-Net of two levels on sixteen phantoms: about a second of training."""

SMALL = (*PLAIN, *QUICK)
"""For tests that are not about figures."""

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def pytest_configure(config: pytest.Config) -> None:
    """With `-n` each worker has its share of the cores: trainings that share them wait for each other more than they compute."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and CORES:
        n = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.sched_setaffinity(0, CORES[int(worker.removeprefix("gw")) :: n] or CORES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trainings first: with `-n` a long file that begins last would run alone at the end."""
    long = ("tests/flow/", "tests/training/", "tests/config/", "tests/test_documentation")
    items.sort(key=lambda item: not item.nodeid.startswith(long))


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """For trainings and predictions in several processes, of which segkit starts no more than there are cores."""
    if not CORES:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    root = Path(os.environ.get("SEGKIT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real samples at {root}; SEGKIT_DATA says where they are")
    return root


@pytest.fixture
def segkit_in(tmp_path: Path) -> Cli:
    """`segkit ARGS` in the test's own folder."""
    return lambda *args, **options: run_segkit(tmp_path, *args, **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one finished small training."""
    cwd = tmp_path_factory.mktemp("trained")
    done = run_segkit(cwd, "train", *PLAIN, "run=first")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "outputs" / "small" / "first"
