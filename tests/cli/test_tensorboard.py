"""`segkit tensorboard` shows the right runs under the right names; HPARAMS has a row for each trial."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from segkit.cli import tensorboard as board
from segkit.cli.main import main
from segkit.config.commands import Tensorboard
from segkit.config.schema import Train
from segkit.system.errors import SegkitError
from segkit.training.run_folder import RunFolder


def make_run(path: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(path)) as writer:  # type: ignore[no-untyped-call]
        writer.add_scalar("val/dice", 0.5, 0)  # type: ignore[no-untyped-call]
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    outputs = tmp_path / "outputs"
    for name in ("heads/first", "heads/second", "hearts/first", "heads/sweeps/s/lr-0.1", "heads/sweeps/s/lr-0.2", ".cache/x"):
        make_run(outputs / name)
    (outputs / "heads/sweeps/s/sweep.json").write_text("{}")
    return outputs


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, {"heads/first", "heads/second", "hearts/first", "heads/sweeps/s/lr-0.1", "heads/sweeps/s/lr-0.2"}),
        ("heads", {"first", "second", "sweeps/s/lr-0.1", "sweeps/s/lr-0.2"}),
        ("s", {"lr-0.1", "lr-0.2"}),
        ("heads/s", {"lr-0.1", "lr-0.2"}),
        ("second", {"."}),
        ("hearts/first", {"."}),
    ],
)
def test_a_name_means_the_runs_of_its_folder(asked: str | None, shown: set[str], outputs: Path) -> None:
    folder = board.find_folder(asked, outputs)
    assert {str(run.relative_to(folder)) for run in board.runs(folder)} == shown


def test_it_serves_until_it_is_stopped(outputs: Path, tmp_path: Path) -> None:
    """Runs go by their own names; those of segkit 0.1 kept their events one folder deeper."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    make_run(outputs / "heads/sweeps/s/old/tensorboard")
    command = [sys.executable, "-m", "segkit", "tensorboard", "s", f"port={port}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert served(port, 3) == {"lr-0.1", "lr-0.2", "old/tensorboard"}
        with pytest.raises(SegkitError, match=rf"^port={port} is not available on host=localhost: .*;   add  port={port + 1}$"):
            board.command(Tensorboard(name=None, port=port, host="localhost", output_dir=str(outputs)))
    finally:
        process.send_signal(signal.SIGTERM)  # as Ctrl-C, which whoever runs these tests in the background has made it ignore
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"http://localhost:{port}/" in out


def served(port: int, n: int) -> set[str]:
    for _ in range(600):
        try:
            found: list[str] = json.load(urlopen(f"http://localhost:{port}/data/runs"))
        except (URLError, OSError):
            found = []
        if len(found) == n:
            return set(found)
        time.sleep(0.1)
    return set()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["haeds"], "did you mean heads?"),
        (["first"], "say which: "),
        (["port=http"], "needs a whole number, got 'http'"),
        (["port=0"], "needs more than 0, got 0"),
        (["prot=6006"], "did you mean port?"),
        (["output_dir=nowhere"], "nowhere does not exist"),
        (["heads", "hearts"], 'needs text, got ["heads", "hearts"]'),
        (["host=no.such.host.invalid", "port=61234"], "host=no.such.host.invalid"),
    ],
)
def test_mistakes_are_printed_with_exit_code_2(
    argv: list[str], message: str, outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(outputs.parent)
    assert main(["tensorboard", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


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
    from segkit.training.loggers import build_loggers, record_result

    run, cfg = trial
    build_loggers(cfg, run, 0)
    record_result(run, cfg)
    events = EventAccumulator(str(run.path)).Reload()
    assert events.Scalars("best/dice")[0].value == 0.5
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content).hparams
    assert row["model"].string_value == "unet_light"
    assert row["split.fold"].number_value == 3
    assert row["augment.transforms.flip.p"].number_value == 0.25
    assert set(row) == {"model", "split.fold", "augment.transforms.flip.p"}, "what the sweep searches, and nothing else"


def test_no_run_dictates_the_columns_of_the_others(trial: tuple[RunFolder, Train]) -> None:
    """TensorBoard takes them from whichever run it reads first, where a run has such a list."""
    from segkit.training.loggers import build_loggers, record_result

    run, cfg = trial
    build_loggers(cfg, run, 0)
    record_result(run, cfg)
    events = EventAccumulator(str(run.path)).Reload()
    assert metadata.EXPERIMENT_TAG not in events.summary_metadata
