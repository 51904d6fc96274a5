"""SegmentationData and SegmentationModule with a plain `lightning.Trainer`, without segkit's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import segkit
from segkit.config.targets import Refused, find
from segkit.data.dataset import Batch, collate
from tests.conftest import SMALL

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path]:
    folder = tmp_path_factory.mktemp("plain")
    config = segkit.compose("train", [*SMALL, f"output_dir={folder}", "split.test_fraction=0.2"])
    data = segkit.SegmentationData.from_config(config)
    module = segkit.SegmentationModule.from_config(config, data)
    trainer = L.Trainer(max_epochs=2, default_root_dir=folder, enable_checkpointing=False, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / "plain.ckpt")
    return trainer, module, data, folder / "plain.ckpt"


def test_fit_validate_test_and_predict(trained: tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path]) -> None:
    trainer, module, data, _ = trained
    (validated,) = trainer.validate(module, data, verbose=False)
    assert {"val/loss", "val/dice", "val/iou"} <= set(validated)
    (tested,) = trainer.test(module, data, verbose=False)
    assert {"test/loss", "test/dice", "test/iou"} <= set(tested)
    masks = {name: mask for batch in trainer.predict(module, data) for name, mask in batch.items()}
    assert set(masks) == {case.id for case in data.test.cases}
    for case in data.test.cases:
        assert masks[case.id].shape == case.image.read().shape[:2]


def test_its_checkpoint_opens_everywhere(
    trained: tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, module, data, path = trained
    loaded = segkit.SegmentationModule.load_from_checkpoint(path)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), loaded.state_dict().values(), strict=True))
    before, after = (trainer.validate(one, data, verbose=False)[0] for one in (module, loaded))
    assert before == after
    case = data.val.cases[0]
    prediction = segkit.load(path, accelerator="cpu", precision="32").predict(case)
    masks = {name: mask for batch in trainer.predict(loaded, data.val_dataloader()) for name, mask in batch.items()}
    assert np.array_equal(prediction.mask, masks[case.id])


def test_whole_images_are_validated_in_batches_with_the_result_of_one_by_one(
    trained: tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path], tmp_path: Path
) -> None:
    trainer, module, data, _ = trained
    together, alone = data.val_dataloader(), DataLoader(data.val, batch_size=1, collate_fn=collate)
    assert len(together) < len(alone)
    (of_batches,), (one_by_one,) = (trainer.validate(module, loader, verbose=False) for loader in (together, alone))
    assert of_batches == pytest.approx(one_by_one, abs=1e-5)
    for keys, size in (
        (("sampling.patch=[16,16]",), 1),
        (("inference.window=[16,16]",), 1),
        (("inference.batch_size=3", "data.batch_size=1"), 3),
    ):
        config = segkit.compose("train", [*SMALL, f"output_dir={tmp_path}", *keys])
        assert segkit.SegmentationData.from_config(config).val_dataloader().batch_size == size


class Seen(L.Callback):
    """The images of each batch, by epoch."""

    def __init__(self) -> None:
        self.indices: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        self.indices.append(batch.indices)


def test_overfit_batches_trains_on_the_same_images_in_every_epoch(tmp_path: Path) -> None:
    config = segkit.compose("train", [*SMALL, f"output_dir={tmp_path}"])
    keys: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    seen = {}
    for name, limit in {"same": {"overfit_batches": 1}, "others": {"limit_train_batches": 1}}.items():
        data = segkit.SegmentationData.from_config(config)
        callback = Seen()
        L.Trainer(max_epochs=3, callbacks=[callback], **limit, **keys).fit(segkit.SegmentationModule.from_config(config, data), data)
        seen[name] = callback.indices
    assert len(seen["same"]) == 3
    assert len(set(seen["same"])) == 1
    assert len(set(seen["others"])) > 1


def test_without_test_cases_it_says_what_to_type(tmp_path: Path) -> None:
    data = segkit.SegmentationData.from_config(segkit.compose("train", [*SMALL, f"output_dir={tmp_path}"]))
    with pytest.raises(segkit.SegkitError, match=r"split.test_fraction=0.2"):
        data.test_dataloader()


def test_a_batch_unpacks_and_has_keys(trained: tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path]) -> None:
    batch = collate([trained[2].train[0], trained[2].train[1]])
    image, mask = batch
    assert isinstance(batch, Batch)
    assert batch["image"] is image
    assert batch["mask"] is mask


def test_a_checkpoint_calls_no_function(
    trained: tuple[L.Trainer, segkit.SegmentationModule, segkit.SegmentationData, Path], tmp_path: Path
) -> None:
    """Neither as a part of the loss, nor as a metric of torchmetrics, which only a training builds."""
    content = torch.load(trained[3], weights_only=True)
    (tmp_path / "a").write_text("hostile")
    node = {"_target_": "segkit.training.callbacks.checkpoints.link_or_copy", "source": str(tmp_path / "a"), "target": str(tmp_path / "b")}
    content["segkit"]["config"]["metric"]["torchmetrics"] = {"x": node}
    torch.save(content, tmp_path / "metric.ckpt")
    segkit.SegmentationModule.load_from_checkpoint(tmp_path / "metric.ckpt")
    content["segkit"]["config"]["loss"]["parts"]["x"] = node
    torch.save(content, tmp_path / "loss.ckpt")
    with pytest.raises(segkit.SegkitError, match="link_or_copy"):
        segkit.SegmentationModule.load_from_checkpoint(tmp_path / "loss.ckpt")
    assert not (tmp_path / "b").exists()
    with pytest.raises(Refused, match="is a function"):
        find(str(node["_target_"]), training=True)
