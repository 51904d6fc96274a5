"""LightningModules and DataModules of the user's own under `segkit train`: written without segkit, or below segkit's."""

from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import segkit
from segkit import SegkitError
from segkit.training.callbacks.logging import Costs
from tests.conftest import PLAIN, QUICK, REPOSITORY, run_segkit, run_segkit_process

NODES = {
    "data/digits": {"_target_": "digits.DigitsDataModule", "batch_size": 8, "n": 48},
    "module/digits": {
        "_target_": "digits.DigitsLitModule",
        "net": {"_target_": "digits.SimpleDenseNet", "hidden": 16},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.01},
        "scheduler": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "_partial_": True, "mode": "min", "patience": 2},
    },
}
OWN = (
    *QUICK,
    "data=digits",
    "module=digits",
    "allow_targets=[digits]",
    "metric.monitor=acc",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the template's classes and their configs."""
    shutil.copy(REPOSITORY / "tests/fixtures/own/digits.py", tmp_path)
    for name, node in NODES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(node))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_templates_experiment_trains_and_is_tested(project: Path) -> None:
    result = run_segkit(project, "train", *OWN, "run=r", "test=true")
    assert result.returncode == 0, result.stderr
    assert "no cases.csv will be written" in result.stdout
    assert "test/acc" in result.stdout
    run = project / "outputs/digits/r"
    assert [set(row) >= {"epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc"} for row in rows(run)] == [True, True]
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert "net.model.1.weight" in content["state_dict"]
    assert list(run.glob("events.out.tfevents*"))
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


def test_it_resumes_where_it_was_stopped(project: Path) -> None:
    (project / "stopping.py").write_text(STOP)
    own = [word for word in OWN if "allow_targets" not in word]
    own += ["allow_targets=[digits,stopping]", "+callbacks.stop={_target_: stopping.Stop}"]
    stopped = run_segkit(project, "train", *own, "run=r")
    assert stopped.returncode == 130, stopped.stderr
    assert len(rows(project / "outputs/digits/r")) == 1
    resumed = run_segkit(project, "train", "resume=outputs/digits/r", "allow_targets=[digits,stopping]")
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in rows(project / "outputs/digits/r")] == ["3", "6"]


STOP = """
import os, signal
import lightning as L

class Stop(L.Callback):
    def on_train_epoch_end(self, trainer, module):
        if not os.path.exists("stopped"):
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.slow
def test_it_is_swept(project: Path) -> None:
    result = run_segkit_process(project, "train", "-m", *OWN, "module.net.hidden=4,16", "sweep.name=widths")
    assert result.returncode == 0, result.stderr
    finished = [json.loads(path.read_text())["state"] for path in project.glob("outputs/digits/sweeps/widths/*/status.json")]
    assert finished == ["finished", "finished"]


def test_a_monitor_that_is_not_logged_is_found_before_the_training(project: Path) -> None:
    result = run_segkit(project, "train", *(word for word in OWN if "monitor" not in word))
    assert result.returncode == 2
    assert "metric.monitor=acc" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(project.glob("outputs/digits/*/metrics.csv"))


@pytest.mark.parametrize(
    "callback", ["callbacks.early_stopping", "callbacks.model_checkpoint"], ids=lambda name: str(name).removeprefix("callbacks.")
)
def test_a_callback_that_waits_for_a_number_that_is_not_logged_is_one_line(callback: str, project: Path) -> None:
    on = {"callbacks.early_stopping": "patience=3", "callbacks.model_checkpoint": "save_top_k=2"}[callback]
    result = run_segkit(project, "train", *OWN, f"{callback}.monitor=val/ac", f"{callback}.mode=max", f"{callback}.{on}", "run=r")
    assert result.returncode == 2
    assert f"{callback}.monitor=ac is not logged by the validation of DigitsLitModule" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_monitor_under_any_name(project: Path) -> None:
    result = run_segkit(project, "train", *OWN, "module.log_as=val_acc", "+module.log_as=val_acc", "metric.monitor=val_acc", "run=r")
    assert result.returncode == 2  # no such key without the plus
    result = run_segkit(project, "train", *OWN, "+module.log_as=val_acc", "metric.monitor=val_acc", "run=r")
    assert result.returncode == 0, result.stderr


BELOW = """
import segkit
import torch
from segkit import SegmentationData, SegmentationModule

class Mine(SegmentationModule):
    def __init__(self, *args, weight=1.0):
        super().__init__(*args)
        self.weight = weight

    def training_step(self, batch, batch_idx):
        parts = super().training_step(batch, batch_idx)
        self.log("train/weighted", self.weight * parts["loss"].detach())
        return parts

class Few(SegmentationData):
    def __init__(self, *args, most=2):
        super().__init__(*args)
        self.train.cases = self.train.cases[: most]

class Free(SegmentationModule):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())

class Pairs(torch.utils.data.Dataset):
    scale = 1
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i):
        mask = torch.zeros(1, 32, 32)
        mask[:, 8:24, i % 8 + 4 : i % 8 + 20] = 1
        return {"image": mask + 0.1 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(i)), "label": self.scale * mask}

import lightning as L

class Monai(L.LightningDataModule):
    labels = {0: "background", 1: "square"}
    def __init__(self, batch_size=4):
        super().__init__()
        self.batch_size = batch_size
    def train_dataloader(self): return torch.utils.data.DataLoader(Pairs(16), self.batch_size)
    def val_dataloader(self): return torch.utils.data.DataLoader(Pairs(6), 4)

class Twos(Pairs):
    scale = 2

class Wrong(Monai):
    def train_dataloader(self): return torch.utils.data.DataLoader(Twos(16), self.batch_size)

class Plain(L.LightningModule):
    def __init__(self, network, loss, optimizer, scheduler):
        super().__init__()
        self.network, self.loss, self.optimizer, self.scheduler = network, loss, optimizer, scheduler
    def training_step(self, batch, batch_idx):
        return self.loss(self.network(batch["image"].float() / 255), batch["mask"])["loss"]
    def validation_step(self, batch, batch_idx):
        image, mask = batch
        loss = self.loss(self.network(image.float() / 255), mask)["loss"]
        self.log("val_loss", loss)
    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

class Keeper(Plain):
    def __init__(self, network, loss, optimizer, scheduler, metadata):
        super().__init__(network, loss, optimizer, scheduler)
        self.metadata = {"trained on": metadata.data_root}
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/mine", loss, on_step=False, on_epoch=True)
        return loss
"""
MINE = (*PLAIN, "allow_targets=[below]", "run=r")


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "below.py").write_text(BELOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_classes_below_segkits_own(below: Path) -> None:
    own = ("module._target_=below.Mine", "+module.weight=0.5", "data._target_=below.Few", "+data.most=8", "test=true")
    untested = run_segkit(below, "train", *MINE, *own)
    assert untested.returncode == 2
    assert "split.test_fraction=0.2" in untested.stderr
    result = run_segkit(below, "train", *MINE, *own, "split.test_fraction=0.2")
    assert result.returncode == 0, result.stderr
    run = below / "outputs/small/r"
    subsets = [{row["subset"] for row in csv.DictReader(path.open())} for path in (run / "cases.csv", run / "test/cases.csv")]
    assert subsets == [{"val"}, {"test"}]


def test_an_own_datamodule_with_segkits_network_and_loss(below: Path) -> None:
    (below / "conf/data").mkdir(parents=True)
    (below / "conf/data/squares.yaml").write_text("_target_: below.Monai\nbatch_size: 4\n")
    words = (
        "data=squares",
        "model.widths=[4,8]",
        "trainer.max_epochs=2",
        "name=small",
        "optimizer.lr=0.01",
        "allow_targets=[below]",
        "run=r",
    )
    result = run_segkit(below, "train", *words)
    assert result.returncode == 0, result.stderr
    assert float(rows(below / "outputs/small/r")[-1]["val/dice"]) > 0
    with pytest.raises(SegkitError, match=r"below.Monai.*load_from_checkpoint"):
        segkit.load(below / "outputs/small/r")
    module = segkit.SegmentationModule.load_from_checkpoint(below / "outputs/small/r")
    assert module.model(torch.rand(1, 1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.slow
def test_an_own_module_with_segkits_data(below: Path) -> None:
    words = ("metric.monitor=val_loss", "metric.mode=min", "model.supervision=0")
    result = run_segkit(below, "train", *MINE, "module._target_=below.Plain", *words[:2])
    assert result.returncode == 0, result.stderr
    assert (below / "outputs/small/r/split.json").exists()
    assert not (below / "outputs/small/r/cases.csv").exists()


def test_masks_that_the_labels_do_not_name_are_refused(below: Path) -> None:
    (below / "conf/data").mkdir(parents=True)
    (below / "conf/data/wrong.yaml").write_text("_target_: below.Wrong\n")
    result = run_segkit(below, "train", "data=wrong", "model.widths=[4,8]", "allow_targets=[below]")
    assert result.returncode == 2
    assert "below.Wrong: its masks hold values 2" in result.stderr
    assert not (below / "outputs").exists() or not list(below.glob("outputs/wrong/*"))


@pytest.mark.slow
def test_a_module_below_segkits_with_its_own_optimizer_resumes(below: Path) -> None:
    (below / "stopping.py").write_text(STOP)
    words = [word for word in MINE if "allow_targets" not in word]
    words += ["module._target_=below.Free", "allow_targets=[below,stopping]", "+callbacks.stop={_target_: stopping.Stop}"]
    assert run_segkit(below, "train", *words).returncode == 130
    resumed = run_segkit(below, "train", "resume=outputs/small/r", "allow_targets=[below,stopping]")
    assert resumed.returncode == 0, resumed.stderr
    assert len(rows(below / "outputs/small/r")) == 2


def test_what_a_test_needs_is_missed_before_the_training(project: Path) -> None:
    (project / "untested.py").write_text(
        "import digits, lightning as L\nclass Module(digits.DigitsLitModule):\n    test_step = L.LightningModule.test_step\n"
    )
    own = [word for word in OWN if "allow_targets" not in word]
    result = run_segkit(project, "train", *own, "module._target_=untested.Module", "allow_targets=[digits,untested]", "test=true")
    assert result.returncode == 2
    assert "untested.Module has no test_step()" in result.stderr


def test_an_own_module_may_keep_what_segkit_offers_it(below: Path) -> None:
    """Its validation returns no masks to draw, and its metadata are its own; TensorBoard has a row of it."""
    words = ("module._target_=below.Keeper", "metric.monitor=val_loss", "metric.mode=min", "callbacks.pictures.every_n_epochs=1")
    result = run_segkit(below, "train", *MINE, *words, "trainer.max_epochs=1")
    assert result.returncode == 0, result.stderr
    run = below / "outputs/small/r"
    assert rows(run)[0]["train/mine"]
    events = EventAccumulator(str(run)).Reload()
    assert "best/val_loss" in events.Tags()["scalars"]
    assert "_hparams_/session_end_info" in events.summary_metadata


def test_the_costs_of_an_own_module(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = import_module("digits")
    module = digits.DigitsLitModule(digits.SimpleDenseNet(hidden=1), torch.optim.Adam)
    costs = Costs(project / "costs.json")
    keys = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, callbacks=[costs], **keys)
    torn_down = trainer.strategy.teardown
    were_measured: list[bool] = []

    def teardown() -> None:  # moves the weights off a GPU
        were_measured.append((project / "costs.json").exists())
        torn_down()

    monkeypatch.setattr(trainer.strategy, "teardown", teardown)
    trainer.fit(module, digits.DigitsDataModule())
    assert were_measured == [True]
    assert json.loads((project / "costs.json").read_text()) == {"parameters": 64 + 1 + 4 + 4}
