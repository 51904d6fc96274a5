"""TensorBoard, csv, wandb (offline) and MLflow (SQLite) at once: what they have written is read back and compared."""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkit.config.compose import compose
from segkit.system.errors import ProblemsFound
from tests.conftest import PLAIN, run_segkit

Scalars = dict[str, dict[int, float]]
ALL = (*PLAIN, "logger=many", "trainer.log_every_n_steps=1", "callbacks.pictures.every_n_epochs=1", "callbacks.pictures.n_images=2",
       "~callbacks.validation_curves", "~callbacks.throughput")  # fmt: skip
STOP = """
import os
import signal
from pathlib import Path
import lightning


class StopOnce(lightning.Callback):
    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == 4 and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture(autouse=True)
def own_service() -> Iterator[None]:
    """wandb's background process belongs to one command, as in real life."""
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


def of_tensorboard(run: Path) -> tuple[Scalars, list[np.ndarray], dict[str, Any]]:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0}).Reload()
    scalars = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    pictures = [np.asarray(Image.open(io.BytesIO(e.encoded_image_string))) for e in events.Images("validation")]
    return scalars, pictures, {}


def of_csv(run: Path) -> tuple[Scalars, list[np.ndarray], dict[str, Any]]:
    scalars: Scalars = defaultdict(dict)
    with (run / "csv" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    assert scalars[name].get(int(row["step"]), float(value)) == float(value)
                    scalars[name][int(row["step"])] = float(value)
    pictures = [np.asarray(Image.open(path)) for path in sorted((run / "csv" / "validation").glob("*.png"))]
    return scalars, pictures, yaml.safe_load((run / "csv" / "hparams.yaml").read_text())


def of_mlflow(run: Path) -> tuple[Scalars, list[np.ndarray], dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parents[1]}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert found.info.run_id == json.loads((run / "loggers.json").read_text())["mlflow"]
    assert found.info.run_name == run.name
    scalars = {name: {m.step: m.value for m in client.get_metric_history(found.info.run_id, name)} for name in found.data.metrics}
    images = Path(found.info.artifact_uri.removeprefix("file://")) / "images"
    pictures = [np.asarray(Image.open(path)) for path in sorted(images.glob("*.png"), key=lambda path: int(path.name.split("+")[2]))]
    return scalars, pictures, found.data.params


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes, then blocks of 32 kB in LevelDB's log format."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", data, place) if left >= 7 else (0, 0, 0)
        if kind == 0:
            place += left
            continue
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield whole
            whole = b""


def of_wandb(run: Path) -> tuple[Scalars, list[np.ndarray], dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    scalars: Scalars = defaultdict(dict)
    pictures, config, ids = [], {}, set()
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            ids |= {record.run.run_id} if record.run.run_id else set()
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = row.get("trainer/global_step")
            for name, value in row.items():
                if isinstance(value, int | float) and not name.startswith(("_", "trainer/", "validation/")):
                    scalars[name][step] = value
            pictures += [np.asarray(Image.open(path.parent / "files" / name)) for name in row.get("validation/filenames", ())]
    assert ids == {json.loads((run / "loggers.json").read_text())["wandb"]}
    return scalars, pictures, config


@pytest.mark.slow
def test_all_loggers_get_the_same(tmp_path: Path) -> None:
    done = run_segkit(tmp_path, "train", *ALL, "run=r", f"output_dir={tmp_path}/outputs", "optimizer.lr=0.002")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "small" / "r"
    tensorboard, *others = (read(run) for read in (of_tensorboard, of_csv, of_mlflow, of_wandb))
    scalars, pictures, _ = tensorboard
    assert {"train/lr", "train/loss", "val/loss", "val/dice", "best/dice", "val_best/dice"} <= scalars.keys()
    assert len(scalars["train/loss"]) == 6
    assert len(pictures) == 2
    for theirs, images, hparams in others:
        assert theirs.keys() - {"epoch"} == scalars.keys(), "of which TensorBoard draws no curve"
        for name, values in scalars.items():
            assert theirs[name] == pytest.approx(values, rel=1e-6), name
        assert all(np.array_equal(a, b) for a, b in zip(pictures, images, strict=True))
        assert float(hparams["optimizer.lr"]) == 0.002
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]  # nothing in the working directory


@pytest.mark.slow
def test_a_run_that_resumes_goes_on_in_the_same_run_of_each_service(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STOP)
    keys = (*ALL, "run=r", "allow_targets=[mine]", "+callbacks.stop={_target_: mine.StopOnce}", "output_dir=outputs")
    first = run_segkit(tmp_path, "train", *keys)
    assert first.returncode == 130, first.stderr
    run = tmp_path / "outputs" / "small" / "r"
    known = (run / "loggers.json").read_text()
    second = run_segkit(tmp_path, "train", f"resume={run}", "allow_targets=[mine]")
    assert second.returncode == 0, second.stderr
    assert (run / "loggers.json").read_text() == known
    whole = run_segkit(tmp_path, "train", *ALL, "run=whole", "logger=csv", "output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    wanted = of_csv(tmp_path / "whole" / "small" / "whole")[0]
    for read in (of_tensorboard, of_csv, of_mlflow, of_wandb):
        scalars = read(run)[0]
        assert scalars.keys() | {"epoch"} == wanted.keys() | {"epoch"}, read
        for name, values in scalars.items():
            assert values == pytest.approx(wanted[name], rel=1e-6), (read, name)


def test_a_logger_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from lightning.pytorch.loggers import Logger\n\n\n"
        "class Lines(Logger):\n"
        "    name, version = 'lines', 'v1'\n\n"
        "    def __init__(self, save_dir):\n"
        "        super().__init__()\n"
        "        self.path = Path(save_dir) / 'lines.txt'\n\n"
        "    def log_hyperparams(self, params):\n"
        "        self.path.write_text(f'lr {params[\"optimizer.lr\"]}\\n')\n\n"
        "    def log_metrics(self, metrics, step=None):\n"
        "        self.path.open('a').write(''.join(f'{step} {name} {value}\\n' for name, value in metrics.items()))\n\n"
        "    def log_image(self, key, images, step=None):\n"
        "        self.path.open('a').write(f'{step} {key} {images[0].shape[2]} channels\\n')\n"
    )
    keys = ("logger=none", "+logger.lines={_target_: mine.Lines}", "allow_targets=[mine]", "run=r", "output_dir=outputs")
    done = run_segkit(tmp_path, "train", *PLAIN, *keys)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "outputs" / "small" / "r" / "lines.txt").read_text().splitlines()
    assert lines[0] == "lr 0.001"
    assert any(line.startswith("5 val_best/dice ") for line in lines)
    assert "6 validation 3 channels" in lines


@pytest.mark.parametrize(
    ("words", "module", "said"),
    [
        (["logger=wandb"], "wandb", "pip install wandb"),
        (["logger=mlflow"], "alembic", "pip install alembic"),
        (["logger=comet"], "comet_ml", "pip install comet-ml"),
        (["logger=comet"], "", "export COMET_API_KEY=KEY"),
        (["logger=wandb", "logger.wandb.offline=false"], "", "wandb login,  or add  logger.wandb.offline=true"),
    ],
)
def test_a_logger_without_its_package_or_key_is_refused(
    words: list[str], module: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from segkit.config import groups

    monkeypatch.setattr(groups, "find_spec", lambda name: None if name == module else True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("COMET_API_KEY", "WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProblemsFound) as found:
        compose("train", words)
    assert said in str(found.value)
