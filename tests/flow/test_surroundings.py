"""Where it runs: each surrounding that is not as usual works, or ends in one line, and leaves nothing half-written."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from segkit.inference import batch
from segkit.system import files, hardware
from segkit.system.files import write_bytes_atomic
from segkit.system.hardware import fitting_workers
from segkit.training.callbacks.logging import EpochTable
from segkit.training.run_folder import RunFolder
from tests.conftest import SMALL, Cli, run_segkit, run_segkit_process
from tests.system.test_locks import holder

QUICK = (*SMALL, "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("heads")
    assert run_segkit(cwd, "phantom", "output=heads", "n=8").returncode == 0
    return cwd / "heads"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A working folder in which nothing can be written, not even by root."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    if os.geteuid():
        folder.chmod(0o755)
    else:
        subprocess.run(["umount", str(folder)], check=True)


def only_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 1, text
    return lines[0]


# a working folder that cannot be written


@pytest.mark.slow
def test_a_read_only_working_folder_with_the_output_elsewhere(read_only: Path, heads: Path, trained: Path, tmp_path: Path) -> None:
    root = f"data.root={heads}"
    for command in (
        ("audit", "data=phantom", root),
        ("audit", "data=phantom", "data.phantom_n=8"),
        ("plan", "data=phantom", root, "name=x", f"output={tmp_path / 'conf'}"),
        ("train", *QUICK, f"output_dir={tmp_path / 'outputs'}"),
        ("evaluate", f"ckpt={trained}", f"output={tmp_path / 'evaluation'}"),
        ("predict", f"ckpt={trained}", f"input={heads / 'images'}", f"output={tmp_path / 'masks'}"),
    ):
        done = run_segkit(read_only, *command)
        assert done.returncode == 0, (command, done.stdout + done.stderr)
    assert list(read_only.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        (("plan", "data=phantom", "name=x"), "choose another  output=FOLDER"),
        (("phantom", "output=heads", "n=4"), "choose another  output=FOLDER"),
        (("train", *QUICK), "choose another  output_dir=FOLDER"),
        (("audit", "data=phantom", "output=report"), "choose another  output=FOLDER"),
        (("audit", "data=phantom", "part=1/2"), "run it in a folder that can be written"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_output_in_a_read_only_folder_is_refused_at_once(command: tuple[str, ...], fix: str, read_only: Path) -> None:
    done = run_segkit(read_only, *command)
    assert done.returncode == 2
    assert fix in only_line(done.stderr)


# ./conf of another program


def test_the_config_of_a_command_is_never_replaced(segkit_in: Cli, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("defaults: [_self_]\nlr: 0.1\n")
    done = segkit_in("train", *QUICK, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    note = f"segkit train: note: {tmp_path / 'conf'} holds train.yaml of another program, which segkit leaves out"
    assert only_line(done.stderr) == note


def test_options_that_replace_ours_are_named(segkit_in: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "a folder ü" / "conf" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "adamw.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.5\n")
    done = run_segkit(folder.parents[1], "train", *QUICK, "--cfg", "job")
    assert "lr: 0.5" in done.stdout
    assert only_line(done.stderr) == f"segkit train: note: {folder.parent} replaces segkit's own optimizer/adamw"


# shared memory of loader workers


@pytest.mark.parametrize(
    ("wanted", "batch_bytes", "free", "expected"),
    [(2, 100, 10_000, (2, 4)), (2, 1000, 10_000, (2, 2)), (4, 1000, 4000, (2, 1)), (2, 100, 0, (0, 0)), (0, 100, 10**9, (0, 0))],
)
def test_workers_hand_over_no_more_than_half_of_the_shared_memory(
    wanted: int, batch_bytes: int, free: int, expected: tuple[int, int]
) -> None:
    n, ahead = fitting_workers(wanted, batch_bytes, free)
    assert (n, ahead) == expected
    assert n * ahead * batch_bytes <= free / 2


@pytest.mark.slow
def test_without_shared_memory_the_training_loads_by_itself(segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path / "missing")
    done = segkit_in("train", *QUICK, "data.num_workers=2", "data.cache_gb=0")
    assert done.returncode == 0, done.stderr
    assert "0 MB free, too little for 2 loader workers: 0 are used" in done.stdout


@pytest.mark.slow
def test_two_processes_without_shared_memory(tmp_path: Path, all_cores: None) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    command = [sys.executable, "-m", "segkit", "train", *QUICK, "trainer=cpu", "trainer.devices=2", "data.num_workers=2", "data.cache_gb=0"]
    line = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {shlex.join(command)}"
    done = subprocess.run(["unshare", "-m", "bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "too little for 2 loader workers: 0 are used" in done.stdout


# full and failing disks


def test_a_prediction_stops_at_a_full_disk(
    trained: Path, heads: Path, segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter(range(3))

    def full_after_three(path: Path, *args: Any, **keys: Any) -> None:
        write_bytes_atomic(path, b"mask") if next(free, None) is not None else no_space()

    monkeypatch.setattr(batch, "write_mask", full_after_three)
    done = segkit_in("predict", f"ckpt={trained}", f"input={heads / 'images'}", "output=masks")
    assert done.returncode == 2
    assert "disk full while writing masks/" in only_line(done.stderr)
    assert len(list((tmp_path / "masks").glob("*.png"))) == 3
    assert not list((tmp_path / "masks").glob(".*.png.*"))


def no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_cache_that_cannot_be_written_stops_nothing(segkit_in: Cli, heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", no_space)
    done = segkit_in("audit", "data=phantom", f"data.root={heads}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_sweep_stops_at_a_full_disk_and_continues(tmp_path: Path) -> None:
    """A limit on the size of files: the first checkpoint does not fit, and so would no other."""
    line = shlex.join([sys.executable, "-m", "segkit", "train", "-m", *QUICK, "seed=0,1"])
    full = subprocess.run(["bash", "-c", f"ulimit -f 40; {line}"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert full.returncode == 2
    assert "disk full while writing outputs/small/sweeps/seed/seed-0;   free some space" in only_line(full.stderr)
    assert not (tmp_path / "outputs/small/sweeps/seed/seed-1").exists()
    again = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "finished   2 finished" in again.stdout, again.stderr


def test_a_prediction_outlives_an_image_that_is_deleted_meanwhile(
    trained: Path, heads: Path, segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(8):  # more images than are read ahead when the first mask is written, on a machine of many cores too
        shutil.copytree(heads / "images", tmp_path / "images" / str(i))
    last = sorted((tmp_path / "images" / "7").iterdir())[-1]
    write = batch.write_mask

    def then_delete(*args: Any, **keys: Any) -> Any:
        last.unlink(missing_ok=True)
        return write(*args, **keys)

    monkeypatch.setattr(batch, "write_mask", then_delete)
    done = segkit_in("predict", f"ckpt={trained}", "input=images", "output=masks")
    assert done.returncode == 1
    assert "1 images could not be predicted" in done.stdout
    assert last.name in done.stdout
    assert "Traceback" not in done.stderr


def test_a_run_folder_is_no_output(trained: Path, heads: Path, segkit_in: Cli) -> None:
    """Its cases.csv would become that of another subset."""
    before = (trained / "cases.csv").read_bytes()
    for command in (("evaluate", "subset=train"), ("predict", f"input={heads / 'images'}")):
        done = segkit_in(*command, f"ckpt={trained}", f"output={trained}")
        assert f"output={trained} is a run folder" in only_line(done.stderr)
    assert (trained / "cases.csv").read_bytes() == before


# the home folder


def test_a_home_in_quotes_is_the_home(trained: Path, segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(trained)
    done = segkit_in("evaluate", "ckpt='~/run'", "output='~/found'")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "found/cases.csv").exists()
    assert not (tmp_path / "~").exists()


def test_without_a_home(trained: Path, segkit_in: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    done = segkit_in("evaluate", f"ckpt={trained}", "output=found")
    assert done.returncode == 0, done.stderr


# terminals


@pytest.mark.parametrize("columns", ["0", "3", "-5", "abc"])
def test_tables_are_whole_whatever_the_width(columns: str, trained: Path, segkit_in: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    done = segkit_in("compare", str(trained), str(trained))
    assert done.returncode == 0, done.stderr
    assert re.search(r"val +head +dice +\d\.\d{4} +\d\.\d{4} +0\.0000", done.stdout), done.stdout


# folders that vanish


def test_a_run_folder_that_is_deleted_ends_the_run_and_does_not_come_back(
    segkit_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "outputs/small/r"
    monkeypatch.setattr(EpochTable, "on_validation_end", lambda *args: shutil.rmtree(run))
    done = segkit_in("train", *QUICK, "run=r")
    assert done.returncode == 2
    assert only_line(done.stderr) == (
        "segkit train: outputs/small/r has been deleted or moved while it was training;   start the training again"
    )
    assert not run.exists()


def test_a_working_folder_that_is_deleted(tmp_path: Path) -> None:
    line = f'mkdir x; cd x; rmdir ../x; "{sys.executable}" -P -m segkit audit data=phantom'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the current folder has been deleted" in only_line(done.stderr)


# a second process, and what a kill leaves


@pytest.mark.slow
def test_a_run_belongs_to_one_process(segkit_in: Cli, tmp_path: Path) -> None:
    """From its first moment on, when no status says yet that it is running."""
    run = tmp_path / "outputs/small/r"
    (run / "checkpoints").mkdir(parents=True)
    other = holder("own", run / ".run.lock")
    try:
        for command in ((*QUICK, "run=r"), (*QUICK, "run=r", "resume=auto")):
            assert "starting just now" in only_line(segkit_in("train", *command).stderr)
    finally:
        other.kill()
        other.wait()
    done = segkit_in("train", *QUICK, "run=r", "resume=auto")  # killed before it had written anything
    assert done.returncode == 0, done.stderr


def test_a_run_is_alive_whatever_happens_to_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.write_status("running")
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 0.0)
    assert run.is_alive()
    status = run.status | {"pid": 1}
    monkeypatch.setattr(RunFolder, "status", status)
    assert not run.is_alive()


@pytest.mark.slow
def test_a_run_of_another_host_says_how_to_resume_it(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "outputs/small/first"
    shutil.copytree(trained, run)
    status = (run / "status.json").read_text().replace('"finished"', '"running"').replace('"host": "', '"host": "not-')
    (run / "status.json").write_text(status)
    os.utime(run, (2e9, 2e9))  # of a clock that is ahead of ours
    said = only_line(run_segkit(tmp_path, "train", "resume=outputs/small/first").stderr)
    assert "if it has died, remove  outputs/small/first/status.json  and type the line again" in said
    (run / "status.json").unlink()
    assert run_segkit(tmp_path, "train", "resume=outputs/small/first").returncode == 0


def test_a_poor_locale(tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_segkit_process(tmp_path, "guide", "metrics", env=env)
    assert done.returncode == 0, done.stderr
    assert files.CACHE.name not in [path.name for path in tmp_path.iterdir()]
