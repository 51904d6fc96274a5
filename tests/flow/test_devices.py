"""One training in two processes on the processor (gloo): as exact as in one, and it ends as one."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import psutil
import pytest
import torch

import segkit
from segkit.config.schema import Train
from segkit.data.datamodule import SegmentationData
from segkit.inference import predictor
from segkit.models import checkpoint
from segkit.models.fitting import model_weights
from segkit.training.module import SegmentationModule
from tests.conftest import CORES, SMALL, run_segkit
from tests.training.sweeps.conftest import NET, SEARCH, SWEEP, states

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(CORES) < 2, reason="two processes want two cores"),
    pytest.mark.usefixtures("all_cores"),
]

KEYS = (
    *SMALL, "data.phantom_n=25", "model.norm=instance", "model.widths=[8,16,32]", "model.deep_supervision=1",
    "optimizer=sgd", "optimizer.lr=0.03", "loss.parts.dice.per_image=true", "callbacks.weight_averaging.decay=0.9",
    "callbacks.checkpoint.every_minutes=0.0001", "trainer.precision=32", "inference.tta=none", "inference.threshold=0.3",
)  # fmt: skip
"""20 cases to train and 5 to validate, which two processes cannot share equally. Losses are means over pixels and images, and nothing
is a statistic of the batch, so that two processes with two images each take the steps of one with four."""
TWO = (*KEYS, "data.batch_size=2", "trainer.devices=2", "trainer.threads=1")


def start(cwd: Path, *args: str, env: dict[str, str] | None = None, module: tuple[str, ...] = ("segkit",)) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *module, "train", *args]
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder of a training in two processes, and what was printed."""
    cwd = tmp_path_factory.mktemp("two")
    done = run_segkit(cwd, "train", *TWO, "run=two")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "outputs/small/two", done.stdout + done.stderr


def weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "checkpoints/last.ckpt"
    return model_weights(path, checkpoint.read(path))


def epochs(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert epochs(one) == epochs(other)
    assert (one / "cases.csv").read_bytes() == (other / "cases.csv").read_bytes()


def test_one_folder_and_one_voice(two: tuple[Path, str]) -> None:
    folder, said = two
    assert [path.name for path in folder.parent.iterdir()] == ["two"]
    assert "2 processes of" in said
    assert said.count("network  ") == said.count("SYNTHETIC DATA") == said.count("epoch 1/1") == 1
    assert "Warning" not in said
    assert "sync_dist" not in said


def test_two_processes_with_two_images_take_the_steps_of_one_with_four(two: tuple[Path, str]) -> None:
    """The same images in each step, each once an epoch, and the gradient of all of them; then the same tables."""
    done = run_segkit(two[0].parents[2], "train", *KEYS, "data.batch_size=4", "trainer.threads=1", "run=one")
    assert done.returncode == 0, done.stdout + done.stderr
    one = two[0].with_name("one")
    a, b = weights(one), weights(two[0])
    assert all(torch.allclose(a[key], b[key], atol=1e-4) for key in a)
    validated = [[{k: float(v) for k, v in row.items() if k.startswith(("val/", "step"))} for row in epochs(f)] for f in (one, two[0])]
    assert validated[0] == [pytest.approx(row, abs=1e-3) for row in validated[1]]
    assert (one / "cases.csv").read_text().splitlines()[0] == (two[0] / "cases.csv").read_text().splitlines()[0]
    ids = [[line.split(",")[0] for line in (f / "cases.csv").read_text().splitlines()] for f in (one, two[0])]
    assert ids[0] == ids[1]


def test_its_validation_is_that_of_one_process_with_the_same_weights(two: tuple[Path, str]) -> None:
    """All five cases, none twice, though the processes have three each; losses and scores."""
    alone = validated_alone(two[0])
    last = {name: float(value) for name, value in epochs(two[0])[-1].items() if name.startswith("val/")}
    assert {"val/loss", "val/loss_ce", "val/dice", "val/iou"} <= set(last)
    assert {name: alone[name] for name in last} == pytest.approx(last, abs=1e-6)


def validated_alone(folder: Path) -> dict[str, float]:
    loaded = predictor.load(folder / "checkpoints/last.ckpt", "cpu", "32")
    cfg = loaded.config
    assert isinstance(cfg, Train)
    data = SegmentationData.from_config(cfg.model_copy(update={"output_dir": str(folder.parents[1])}))
    task = SegmentationModule.load_from_checkpoint(folder / "checkpoints/last.ckpt")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    (values,) = trainer.validate(task, data, verbose=False)
    return {name: float(value) for name, value in values.items()}


def test_its_table_is_that_of_an_evaluation_in_one_process(two: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two[0].parents[2])
    segkit.evaluate(two[0], f"output={tmp_path}", "hardware.accelerator=cpu")
    assert (tmp_path / "cases.csv").read_bytes() == (two[0] / "cases.csv").read_bytes()


def test_killed_and_stopped_and_resumed_by_torchrun_and_by_srun(two: tuple[Path, str], tmp_path: Path) -> None:
    """kill -9 and Ctrl-C leave no process behind and lose nothing; whoever starts the processes, it is the same training."""
    folder, keys = tmp_path / "outputs/small/r", (*TWO, "run=r", "resume=auto")
    process, others = started_training(tmp_path, folder, *keys)
    process.kill()
    process.communicate(timeout=60)
    assert ended(others)
    last = folder / "checkpoints/last.ckpt"
    before = last.stat().st_mtime_ns
    again = start(tmp_path, *keys, module=("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "segkit"))
    wait_for(lambda: last.stat().st_mtime_ns > before)
    ranks = psutil.Process(again.pid).children()
    os.killpg(again.pid, signal.SIGINT)
    out, _ = again.communicate(timeout=120)
    assert "resuming" in out, out
    assert ended(ranks)
    state = json.loads((folder / "status.json").read_text())["state"]
    assert state == "interrupted", out
    codes, said = zip(*(end_of(task) for task in as_srun_starts_them(tmp_path, *keys)), strict=True)
    assert codes == (0, 0), said
    assert said[1] == ""
    assert_same(folder, two[0])


def started_training(cwd: Path, folder: Path, *args: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A training that has ended its first epoch, and the processes that share it."""
    process = start(cwd, *args)
    wait_for((folder / "metrics.csv").exists)
    return process, psutil.Process(process.pid).children(recursive=True)


def as_srun_starts_them(cwd: Path, *args: str) -> list[subprocess.Popen[str]]:
    job = {
        "SLURM_JOB_ID": str(20000 + os.getpid() % 9000),
        "SLURM_JOB_NAME": "training",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
    }
    tasks = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    return [start(cwd, *args, env={**job, **tasks, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def wait_for(there: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():  # type: ignore[operator]
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def ended(processes: list[psutil.Process]) -> bool:
    assert processes
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def test_a_process_that_is_lost_ends_the_training_with_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "outputs/small/r"
    process, (other,) = started_training(tmp_path, folder, *TWO, "trainer.max_epochs=50", "run=r")
    other.kill()
    out, _ = process.communicate(timeout=60)
    assert process.returncode in (1, 2)
    assert "process 2 of the 2 that share this training was killed by signal 9" in out
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


def test_trials_in_two_processes_each_and_the_bad_one_is_pruned(tmp_path: Path) -> None:
    """quality=0 predicts nothing. Both processes of a trial stop; no folder but the trials' own."""
    (tmp_path / "toynet.py").write_text(NET)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/toy.yaml").write_text("_target_: toynet.Net\nquality: 1\n")
    median = ("hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=1", "hydra.sweeper.warmup_epochs=1", "hydra.sweeper.seed=0")
    command = (*SEARCH, "model.quality=1,0", "trainer.max_epochs=6", "trainer.devices=2", *median)
    done = run_segkit(tmp_path, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(tmp_path / SWEEP) == {"quality-1": "finished", "quality-0": "pruned"}
    assert [path.name for path in (tmp_path / "outputs/small").iterdir()] == ["sweeps"]
    assert "2 processes of" in (tmp_path / SWEEP / "quality-0/console.txt").read_text()
    assert (tmp_path / SWEEP / "quality-0/metrics.csv").read_text().count("\n") == 2


def test_a_network_that_leaves_weights_unused(tmp_path: Path) -> None:
    """PSPNet does not look at its encoder's last level, for which plain DDP would wait."""
    pspnet = ("model=smp", "model.arch=PSPNet", "model.encoder_name=resnet18")
    small = [key for key in SMALL if not key.startswith("model.")]
    done = run_segkit(tmp_path, "train", *small, *pspnet, "debug=fast", "trainer.limit_train_batches=3", "trainer.devices=2", "run=r")
    assert done.returncode == 0, done.stdout + done.stderr
