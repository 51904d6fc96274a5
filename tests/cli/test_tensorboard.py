"""`segkit tensorboard` shows the right runs under the right names; HPARAMS has a row for each trial."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from segkit.cli import tensorboard as watching
from segkit.config.schema import Train
from segkit.training.run_folder import RunFolder


def make_run(path: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(path / "tensorboard")) as writer:  # type: ignore[no-untyped-call]
        writer.add_scalar("val/dice", 0.5, 0)  # type: ignore[no-untyped-call]
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    outputs = tmp_path / "outputs"
    for name in ("heads/first", "heads/second", "hearts/first", "heads/sweeps/s/lr-0.1", "heads/sweeps/s/lr-0.2", ".cache/x"):
        make_run(outputs / name)
    (outputs / "heads/sweeps/s/sweep.json").write_text("{}")
    return outputs


def names(logdir: Path) -> set[str]:
    return {str(path.relative_to(logdir)) for path in logdir.rglob("*") if path.is_symlink()}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, {"heads/first", "heads/second", "hearts/first", "heads/sweeps/s/lr-0.1", "heads/sweeps/s/lr-0.2"}),
        ("heads", {"first", "second", "sweeps/s/lr-0.1", "sweeps/s/lr-0.2"}),
        ("s", {"lr-0.1", "lr-0.2"}),
        ("heads/s", {"lr-0.1", "lr-0.2"}),
        ("second", {"second"}),
        ("hearts/first", {"first"}),
    ],
)
def test_runs_go_by_their_own_names(asked: str | None, shown: set[str], outputs: Path, tmp_path: Path) -> None:
    logdir = tmp_path / "logdir"
    watching.link_runs(watching.find_folder(asked, outputs), logdir)
    assert names(logdir) == shown
    assert all(list(path.glob("events*")) for path in logdir.rglob("*") if path.is_symlink())


def test_a_run_that_starts_later_is_added(outputs: Path, tmp_path: Path) -> None:
    logdir = tmp_path / "logdir"
    watching.link_runs(outputs / "hearts", logdir)
    make_run(outputs / "hearts/later")
    watching.link_runs(outputs / "hearts", logdir)
    assert names(logdir) == {"first", "later"}


def test_a_look_that_fails_is_not_the_last(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, looks, link = Event(), iter((True, False)), watching.link_runs

    def look(folder: Path, logdir: Path) -> None:
        if next(looks):
            raise OSError("Stale file handle")
        link(folder, logdir)
        stop.set()

    monkeypatch.setattr(watching, "link_runs", look)
    monkeypatch.setattr(watching, "SECONDS_BETWEEN_LOOKS", 0.001)
    watching.follow(outputs / "hearts", tmp_path / "logdir", stop)
    assert names(tmp_path / "logdir") == {"first"}


def test_it_serves_until_it_is_stopped_and_leaves_nothing(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "segkit", "tensorboard", "s", f"port={port}"]
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert served(port) == {"lr-0.1", "lr-0.2"}
        taken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert taken.returncode == 2
        assert taken.stderr.startswith(f"segkit tensorboard: port={port} cannot be had")
        assert f"add  port={port + 1}" in taken.stderr
    finally:
        process.send_signal(signal.SIGTERM)  # as Ctrl-C, which whoever runs these tests in the background has made it ignore
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"http://localhost:{port}/" in out
    assert not list((tmp_path / "tmp").glob("segkit*"))


def served(port: int) -> set[str]:
    for _ in range(600):
        try:
            found: list[str] = json.load(urlopen(f"http://localhost:{port}/data/runs"))
        except (URLError, OSError):
            found = []
        if len(found) == 2:
            return set(found)
        time.sleep(0.1)
    return set()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["haeds"], "did you mean heads?"),
        (["first"], "say which: "),
        (["port=http"], "must be a number from 1 to 65535"),
        (["prot=6006"], "did you mean port?"),
        (["output_dir=nowhere"], "there is no folder nowhere"),
        (["host=no.such.host.invalid"], "is not known"),
    ],
)
def test_mistakes_are_told_in_one_line(
    argv: list[str], message: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outputs.parent)
    assert watching.main([*argv, *(["port=61234"] if "port" not in argv[0] and "prot" not in argv[0] else [])]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


# --- HPARAMS ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path: Path) -> tuple[RunFolder, Train]:
    """A pruned trial of a sweep over keys of sections that are not always recorded, and over a group."""
    import segkit

    typed = ["model=unet_light", "split.fold=3", "split.kind=kfold", "augment.transforms.flip.p=0.25", "data.phantom_n=8"]
    cfg = segkit.compose("train", typed)
    sweep = tmp_path / "small/sweeps/s"
    space = {"model": "choice(unet, unet_light)", "split.fold": "0 to 4", "augment.transforms.flip.p": "0.0 to 0.5"}
    (sweep / "t").mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"space": space}))
    (sweep / "t/overrides.yaml").write_text(json.dumps(typed))
    (sweep / "t/metrics.csv").write_text("epoch,seconds,val/dice\n0,1.0,0.5\n1,1.0,0.4\n")
    return RunFolder(sweep / "t"), cfg


def test_a_pruned_trial_is_a_row_with_all_keys_of_its_search(trial: tuple[RunFolder, Train]) -> None:
    from segkit.training.hparams import record_hparams

    run, cfg = trial
    record_hparams(run.path, cfg)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert events.Scalars("best/dice")[0].value == 0.5
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content).hparams
    assert row["model"].string_value == "unet_light"
    assert row["split.fold"].number_value == 3
    assert row["augment.transforms.flip.p"].number_value == 0.25
    assert row["optimizer.lr"].number_value == cfg.optimizer["lr"]
    assert "data.phantom_n" not in row


def test_no_run_dictates_the_columns_of_the_others(trial: tuple[RunFolder, Train]) -> None:
    """TensorBoard takes them from whichever run it reads first, where a run has such a list."""
    from segkit.training.hparams import record_hparams

    run, cfg = trial
    record_hparams(run.path, cfg)
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert metadata.EXPERIMENT_TAG not in events.summary_metadata
