"""Predictions and audits that several jobs share give what one job gives, also where one of them is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

import segkit.data.statistics as statistics_module
from segkit.cli.main import main
from segkit.inference.writers.masks import SIZE_HEADER
from segkit.inference.writers.tables import read_rows

Job = Callable[..., "subprocess.Popen[str]"]


pytestmark = pytest.mark.usefixtures("all_cores")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(7):
        noise = np.random.default_rng(i).integers(0, 255, (60, 80), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.GaussianBlur(noise, (0, 0), 6))
    return folder


@pytest.fixture
def predict(trained: Path, images: Path) -> tuple[str, ...]:
    return ("predict", f"ckpt={trained}", f"input={images}", "hardware=cpu", "hardware.threads=1", "formats=[nerve]")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Starts segkit in tmp_path."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "segkit", *args]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def content(folder: Path) -> dict[str, bytes]:
    """Without what the parts keep for themselves."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".parts" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def wait_for(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def test_parts_leave_what_one_job_leaves(predict: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*predict, f"output={tmp_path / 'whole'}"]) == 0
    shared = (*predict, f"output={tmp_path / 'shared'}")
    assert main([*shared, "part=3/3"]) == 0
    assert "part 3/3, 2 of 7 images: 2 masks written" in capsys.readouterr().out
    assert not (tmp_path / "shared" / "sizes.csv").exists()
    assert main(["predict", "-m", *shared[1:], "part=1/3,2/3,3/3"]) == 0
    assert "2 there already" in capsys.readouterr().out
    assert content(tmp_path / "shared") == content(tmp_path / "whole")
    assert {"sizes.csv", "nerve_submission.csv", *(f"{i}.png" for i in range(7))} < set(content(tmp_path / "shared"))
    assert main([*shared, "part=30/40"]) == 0
    assert "0 of 7 images, nothing to do" in capsys.readouterr().out
    (tmp_path / "shared" / "4.png").unlink()
    assert main(list(shared)) == 0
    assert "1 masks written" in capsys.readouterr().out
    assert content(tmp_path / "shared") == content(tmp_path / "whole")


@pytest.mark.slow
def test_a_part_that_is_killed_resumes_while_another_runs(trained: Path, images: Path, tmp_path: Path, job: Job) -> None:
    for i in range(200):
        (tmp_path / "many").mkdir(exist_ok=True)
        shutil.copy(images / f"{i % 7}.png", tmp_path / "many" / f"{i}.png")
    predict = ("predict", f"ckpt={trained}", "input=many", "output=out", "hardware=cpu", "hardware.threads=1", "formats=[nerve]")
    first = job(*predict, "part=1/2")
    second = job(*predict, "part=2/2")
    wait_for(lambda: len(list((tmp_path / "out").glob("*.png"))) >= 5)
    first.send_signal(signal.SIGKILL)
    again = job(*predict, "part=1/2")
    for process in (second, again):
        assert process.wait(100) == 0, process.stdout and process.stdout.read()
    assert first.wait() == -signal.SIGKILL
    assert sorted(map(int, read_rows(tmp_path / "out" / "sizes.csv", SIZE_HEADER))) == list(range(200))
    assert len(list((tmp_path / "out").glob("*.png"))) == 200


@pytest.mark.slow
def test_several_processes_on_one_machine_tell_what_could_not_be_done(
    predict: tuple[str, ...], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "some")
    (tmp_path / "some" / "8.png").write_bytes(b"no picture")
    assert main([*predict, f"input={tmp_path / 'some'}", f"output={tmp_path / 'out'}", "hardware.devices=2"]) == 1
    told = capsys.readouterr().out
    assert "7 masks written" in told
    assert "1 images could not be predicted" in told
    assert "some/8.png" in told
    assert main([*predict, f"output={tmp_path / 'whole'}"]) == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_stop_stops_all_processes(predict: tuple[str, ...], images: Path, tmp_path: Path, job: Job) -> None:
    (tmp_path / "many").mkdir()
    for i in range(3000):
        (tmp_path / "many" / f"{i}.png").hardlink_to(images / f"{i % 7}.png")
    parent = job(*predict, "input=many", "output=out", "hardware.devices=2")
    wait_for(lambda: len(list((tmp_path / "out").glob("*.png"))) >= 5)
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.terminate()
    assert parent.wait(60) == 130
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert parent.stdout is not None
    assert "Traceback" not in parent.stdout.read()
    table = list((tmp_path / "out" / ".parts").glob("*/sizes.csv"))
    assert table  # so that what was done is known


def test_more_devices_than_there_are(predict: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*predict, f"output={tmp_path / 'out'}", "hardware.devices=9999"]) == 2
    assert "hardware.devices=9999 is more than the cores that it may use" in capsys.readouterr().err


def test_parts_of_an_audit_read_all_files_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    read: list[str] = []
    original = statistics_module.statistics_of
    monkeypatch.setattr(statistics_module, "statistics_of", lambda case: (read.append(case.id), original(case))[1])
    audit = ("audit", "data=phantom", "data.phantom_n=9")
    assert main([*audit, "part=1/2"]) == 0
    assert "part 1/2: 5 of 9 cases are measured" in capsys.readouterr().out
    assert main(["audit", "-m", *audit[1:], "part=1/2,2/2"]) == 0
    assert len(read) == len(set(read)) == 9
    assert main(list(audit)) == 0
    assert len(read) == 9
    assert "0 errors" in capsys.readouterr().out
