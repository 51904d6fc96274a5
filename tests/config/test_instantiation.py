"""What every YAML of a group stands for is really built from it, by the code that a training uses."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch

from segkit.config import compose
from segkit.config.schema import Train
from segkit.config.targets import instantiate
from segkit.data.labels import LabelMap
from segkit.data.sources import Phantom
from segkit.data.splits import Split, make_split
from segkit.data.transforms.augment import Augmentation
from segkit.models.checkpoint import Metadata
from segkit.system.errors import ProblemsFound, SegkitError
from segkit.system.hardware import Hardware
from segkit.training.building import build_parts
from segkit.training.callbacks.build import build_callbacks
from segkit.training.callbacks.checkpoints import Checkpoints
from segkit.training.loggers import ending_loggers
from segkit.training.module import SegmentationModule
from segkit.training.own import build_module
from segkit.training.run_folder import RunFolder
from segkit.training.trainer import build_trainer

GROUPS = sorted(compose.groups("train").items())
ELSEWHERE = ("data", "experiment", "hparams_search", "model")
"""Groups whose options have tests of their own."""
OPTIONS = [
    pytest.param(f"{group}={name}", marks=[pytest.mark.slow] * (group in ELSEWHERE)) for group, (_, names) in GROUPS for name in names
]


def metadata_of(cfg: Train) -> Metadata:
    weighted = {name: name for node in cfg.loss.parts.values() if node for name in node.get("class_weights") or {}}
    values = weighted or cfg.data.labels or {"0": "background", "1": "a", "2": "b"}
    labels = LabelMap.of(values, overlap="background" not in values.values()).as_dict()
    split = {"train": ["1"], "val": ["2"], "test": []}
    dims = len(cfg.sampling.patch or cfg.preprocess.size or (1, 1))
    return Metadata(cfg.model_dump(mode="json"), labels, 1, 255, [0.5], [0.2], split, "", "", False, "32", {}, dims=dims)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_builds_what_it_names(option: str, tmp_path: Path) -> None:
    small = [] if option.startswith(("model", "experiment", "hparams_search")) else ["model.widths=[8,16]"]
    if option == "logger=comet":
        with pytest.raises(ProblemsFound, match=r"pip install comet-ml|export COMET_API_KEY"):
            compose.compose("train", [option])
        return
    cfg = compose.compose("train", [option, *small, f"output_dir={tmp_path}"])
    assert isinstance(cfg, Train)
    task = build_module(cfg, build_parts(cfg, metadata_of(cfg)))
    assert isinstance(task, SegmentationModule)
    Augmentation(cfg.augment.transforms)
    assert any(isinstance(callback, Checkpoints) for callback in build_callbacks(cfg, RunFolder(tmp_path)))
    instantiate(cfg.data.source, root=tmp_path)
    needs_gpu = cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available()
    if needs_gpu:
        with pytest.raises(SegkitError, match="torch sees no GPU"):
            Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
        return
    hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
    with ending_loggers(RunFolder(tmp_path)):
        assert isinstance(build_trainer(cfg, RunFolder(tmp_path), hardware, 0, 10), L.Trainer)


@pytest.mark.parametrize("kind", ["holdout", "kfold"])
def test_splits_divide_a_real_manifest(kind: str, tmp_path: Path) -> None:
    from segkit.data.case import Manifest

    cfg = compose.compose("train", [f"split={kind}"])
    assert isinstance(cfg, Train)
    Phantom(root=tmp_path).write_phantom(tmp_path, 10, 0)
    cases = tuple(Phantom(root=tmp_path).cases())
    split = make_split(Manifest("phantom", tmp_path, cases, LabelMap.of({0: "background", 255: "head"})), cfg.split)
    assert isinstance(split, Split)
    assert sorted([*split.train, *split.val]) == sorted(case.id for case in cases)
