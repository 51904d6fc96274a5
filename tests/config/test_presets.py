"""Every preset runs on its phantom, and reproductions are what the table of the source projects says."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import segkit
from segkit.config.compose import CONF, check, compose, groups
from segkit.data.labels import LabelMap
from segkit.inference.evaluation import Result
from segkit.inference.predictor import load
from segkit.models.checkpoint import Metadata, build_model
from segkit.models.unet import UNet
from segkit.training.building import build_loss
from tests.conftest import QUICK

PRESETS, COMBINATIONS = (groups(command)["experiment"][1] for command in ("train", "evaluate"))
DEEP = "model.widths=[4,4,4,4,4]"
"""As deep as the source's, so that sizes go through as there."""
SMALLER = {
    "chest_bones": ("preprocess.size=[64,64]",),
    "gi_tract_25d": ("preprocess.size=[160,192]",),
    "gi_tract_3d": ("model.widths=[4,4,4,4]", "sampling.patch=[8,48,48]"),
    "em_membrane_fast": (DEEP, "sampling.patch=[64,64]"),
    **dict.fromkeys(("pelvis_joint", "pelvis_134", "pelvis_256"), (DEEP, "trainer.channels_last=false")),
}
"""Keys that make a preset small and nothing else. Torch 2.15 crashes where a 1x1 convolution with strides has few channels, last."""
CHANNELS = {
    "brain_flair": (3, 1),
    "brain_tumor": (1, 1),
    "chest_bones": (1, 3),
    "chest_bones_binary": (1, 1),
    "chest_organs": (1, 5),
    "em_membrane": (1, 1),
    "em_membrane_fast": (1, 1),
    "fetal_head": (1, 1),
    "fetal_head_as_coded": (1, 1),
    "fetal_head_valid": (1, 1),
    "gi_tract_25d": (3, 3),
    "gi_tract_3d": (1, 3),
    "gi_tract_sgd": (1, 3),
    "nerve": (1, 1),
    "pelvis_134": (1, 4),
    "pelvis_256": (1, 4),
    "pelvis_joint": (1, 7),
    "quickstart": (1, 1),
}
"""Into the network and out of it. Against the table: a grey radiograph stays one channel (the chest bone project makes three equal ones of
it), and the pelvis groups have no outputs for classes that never occur (the pelvis project: seven)."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that presets of one data set share its phantom."""
    return tmp_path_factory.mktemp("presets")


TYPICAL = ("fetal_head", "fetal_head_valid", "pelvis_134", "gi_tract_3d")
"""One of each kind: whole images, unpadded network, patches and windows, volumes."""
FEWER = [name if name in TYPICAL else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]


@pytest.fixture(scope="module", params=FEWER)
def trained(request: pytest.FixtureRequest, place: Path) -> tuple[str, Result]:
    name: str = request.param
    here = (f"output_dir={place}", "trainer.accelerator=cpu", "trainer.threads=1", "logger.tensorboard=false")
    return name, segkit.train(f"experiment={name}", "debug=fast", *QUICK, *here, *SMALLER.get(name, (DEEP,)))


def test_a_preset_trains_on_its_phantom_and_is_evaluated(trained: tuple[str, Result]) -> None:
    name, result = trained
    assert result.folder.parent.name == name
    assert (result.folder / "cases.csv").is_file()
    assert result.summary.line("dice").n > 0


def test_channels_in_and_out(trained: tuple[str, Result]) -> None:
    name, result = trained
    metadata = load(result.ckpt, "cpu").metadata
    assert (metadata.channels, metadata.label_map().n_outputs) == CHANNELS[name]


def test_a_prediction_covers_the_image(trained: tuple[str, Result]) -> None:
    """Also where a network returns less than it takes, and where the preset crops, pads or goes by windows."""
    _, result = trained
    predictor = load(result.ckpt, "cpu")
    shape = (5, 40, 56)[-predictor.metadata.dims :]
    image = torch.rand(*shape, predictor.metadata.channels, generator=torch.Generator().manual_seed(0)).numpy()
    assert predictor.predict(image).probs.shape == (predictor.metadata.label_map().n_outputs, *shape)


# table 7.2

ADAM, SGD = "torch.optim.Adam", "torch.optim.SGD"
TABLE: dict[str, dict[str, Any]] = {
    "pelvis_134": {"batch": 8, "loss": {"dice": 1}, "optimizer": (ADAM, 1e-4), "epochs": 200, "monitor": "dice"},
    "pelvis_256": {"batch": 8, "loss": {"dice": 1}, "optimizer": (ADAM, 1e-4), "epochs": 175, "monitor": "dice"},
    "fetal_head_as_coded": {"batch": 4, "loss": {"ce": 1}, "optimizer": (ADAM, 1e-3), "epochs": 5, "monitor": "loss"},
    "fetal_head_valid": {"batch": 4, "loss": {"ce": 1}, "optimizer": (ADAM, 1e-3), "epochs": 5, "monitor": "loss"},
    "chest_bones_binary": {"batch": 1, "loss": {"ce": 1}, "optimizer": (ADAM, 1e-4), "epochs": 5, "monitor": "dice"},
    "gi_tract_sgd": {"loss": {"ce": 1, "dice": 1}, "optimizer": (SGD, 1e-2), "monitor": "loss"},
    "gi_tract_25d": {"batch": 64, "loss": {"ce": 0.5, "tversky": 0.5}, "optimizer": (ADAM, 2e-3), "epochs": 5, "monitor": "dice"},
    "em_membrane": {"batch": 1, "loss": {"mse": 1}, "optimizer": (ADAM, 1e-4), "epochs": 5, "monitor": "loss"},
    "brain_tumor": {"batch": 8, "loss": {"ce": 1, "dice": 1}, "optimizer": (ADAM, 1e-4), "epochs": 30, "monitor": "dice"},
    "brain_flair": {"batch": 16, "loss": {"dice": 1}, "optimizer": (ADAM, 1e-4), "epochs": 100, "monitor": "dice"},
}
"""The last row is 5.4's. What a row lacks the source leaves free."""


@cache
def config(name: str) -> Any:
    return compose("train", [f"experiment={name}"])


@pytest.mark.parametrize("name", TABLE)
def test_a_reproduction_trains_as_its_source(name: str) -> None:
    cfg = config(name)
    found = {
        "batch": cfg.data.batch_size,
        "loss": {part: cfg.loss.weights.get(part, 1.0) for part, node in cfg.loss.parts.items() if node},
        "optimizer": (cfg.optimizer["_target_"], cfg.optimizer["lr"]),
        "epochs": cfg.trainer.max_epochs,
        "monitor": cfg.metric.monitor,
    }
    assert {key: found[key] for key in TABLE[name]} == TABLE[name]
    assert cfg.metric.mode == ("min" if cfg.metric.monitor == "loss" else "max")
    assert cfg.trainer.deterministic
    assert cfg.trainer.gradient_clip_val is None  # no source clips


@pytest.mark.parametrize(
    ("name", "given", "returned"),
    [
        ("fetal_head_as_coded", 252, 240),
        ("fetal_head_valid", 252, 68),
        ("em_membrane", 572, 388),
        ("chest_bones_binary", 512, 512),
        ("brain_tumor", 240, 240),
        ("brain_flair", 256, 256),
    ],
)
def test_sizes_through_the_network_are_the_sources(name: str, given: int, returned: int) -> None:
    cfg = config(name)
    assert cfg.preprocess.size == (given, given)
    keywords = {key: value for key, value in cfg.model.items() if key not in ("_target_", "weights", "widths")}
    narrow = UNet(1, 1, widths=[2] * len(cfg.model["widths"]), **keywords).eval()
    with torch.inference_mode():
        assert narrow(torch.zeros(1, 1, given, given)).shape == (1, 1, returned, returned)


@pytest.mark.parametrize("name", ["pelvis_joint", "pelvis_134", "pelvis_256"])
def test_pelvis_crops_and_windows_are_the_sources(name: str) -> None:
    cfg = config(name)
    assert (cfg.sampling.patch, cfg.preprocess.size, cfg.inference.window) == ((350, 350), (600, 600), (300, 300))
    assert cfg.model["widths"] == [32, 64, 128, 256, 512]
    assert cfg.preprocess.window == (0, 225)  # the source's, where 255 was meant


@pytest.mark.parametrize(("name", "unpadded"), [("gi_tract_25d", (266, 266)), ("gi_tract_25d", (310, 360)), ("em_membrane", (512, 512))])
def test_images_are_padded_and_not_scaled(name: str, unpadded: tuple[int, int]) -> None:
    from segkit.data.transforms.geometry import Pad, plan

    cfg = config(name)
    (step,) = plan(cfg.preprocess, unpadded)
    assert isinstance(step, Pad)
    assert step.target == {"gi_tract_25d": (320, 384), "em_membrane": (572, 572)}[name]
    assert step.mode == {"gi_tract_25d": "constant", "em_membrane": "reflect"}[name]


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("em_membrane", 1, 31_030_593),
        ("brain_tumor", 1, 31_042_369),
        ("chest_bones_binary", 3, 31_043_521),
        ("brain_flair", 3, 7_763_041),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, channels: int, parameters: int) -> None:
    values, ones = {"values": {"0": "background", "1": "structure"}, "overlap": False}, [1.0] * channels
    metadata = Metadata(config(name).model_dump(mode="json"), values, channels, 255, ones, ones, {}, "", "", False, "32", {})
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(metadata).parameters()) == parameters


@pytest.mark.parametrize("own", [(1, 3, 4), (2, 5, 6)])
def test_the_loss_of_the_pelvis_counts_classes_that_never_occur(own: tuple[int, ...]) -> None:
    """Seven outputs for three structures: a perfect prediction still pays 3/7, as in the source's curves."""
    cfg = config("pelvis_joint")
    loss = build_loss(cfg, LabelMap.of({i: "background" if i == 0 else f"bone{i}" for i in range(7)}))
    mask = torch.tensor([0, *own], dtype=torch.uint8).repeat_interleave(16).view(1, 8, 8)
    logits = 8.0 * torch.nn.functional.one_hot(mask.long(), 7).movedim(-1, 1)
    assert float(loss(logits, mask)["loss"]) == pytest.approx(3 / 7, abs=1e-2)


@pytest.mark.parametrize(("name", "own"), [("pelvis_134", [1, 3, 4]), ("pelvis_256", [2, 5, 6])])
def test_the_groups_of_the_pelvis_differ_from_the_joint_training_in_labels_and_length_alone(name: str, own: list[int]) -> None:
    group, joint = (config(preset).model_dump() for preset in (name, "pelvis_joint"))
    assert group["data"]["source"].pop("labels") == own
    assert joint["data"]["source"].pop("labels") is None
    for tree in (group, joint):
        tree["name"] = tree["trainer"]["max_epochs"] = None
    assert group == joint


def test_what_else_the_reference_says_of_single_presets() -> None:
    coded, sgd, deep, flair = (config(name) for name in ("fetal_head_as_coded", "gi_tract_sgd", "gi_tract_25d", "brain_flair"))
    assert (coded.split.grouped, coded.split.val_fraction, coded.split.stratify) == (False, 0.2, False)
    assert coded.model["head_norm"]
    assert coded.model["pre_norm"]
    assert (coded.model["target"], config("fetal_head_valid").model["target"]) == ("resize", "resize")
    assert (sgd.optimizer["momentum"], sgd.optimizer["nesterov"], sgd.optimizer["weight_decay"]) == (0.9, True, 1e-4)
    assert (deep.data.neighbours, deep.optimizer["weight_decay"], deep.model["encoder_name"]) == ([-2, 0, 2], 1e-6, "efficientnet-b0")
    assert deep.scheduler.name == "cosine"
    assert deep.scheduler.min_lr_ratio * deep.optimizer["lr"] == pytest.approx(1e-6)
    assert flair.loss.parts["dice"]["smooth"] == 1
    assert flair.sampling.weights == "foreground"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("pelvis_joint", (None, None)),
        ("fetal_head_as_coded", (1.0, 0.0)),
        ("nerve", (1.0, 0.0)),
        ("chest_bones_binary", (0.0, 0.0)),
        ("gi_tract_sgd", (None, 0.0)),
        ("gi_tract_25d", (None, 0.0)),
        ("gi_tract_3d", (None, 0.0)),
        ("brain_flair", (1.0, 0.0)),
        ("brain_tumor", (1.0, 0.0)),
    ],
)
def test_empty_masks_score_as_in_the_field(name: str, rule: tuple[float | None, float | None]) -> None:
    """Table 7.1: both empty, and only truth empty."""
    from segkit.metrics.overlap import Overlap

    node = {key: value for key, value in config(name).metric.cases["overlap"].items() if key != "_target_"}
    overlap = Overlap(**node)
    assert (overlap.both_empty, overlap.truth_empty) == rule


def head_of(name: str) -> str:
    """The comment above a preset."""
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def commands_of(name: str) -> list[list[str]]:
    """Words of the commands in it; a longer one goes on in a line that is set in deeper."""
    text = head_of(name).replace("\n#     ", "")
    return [shlex.split(line, comments=True) for line in re.findall(r"^#   (segkit .*)$", text, re.M)]


def test_every_preset_belongs_to_a_command() -> None:
    assert sorted([*PRESETS, *COMBINATIONS]) == sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", [*FEWER, *COMBINATIONS])
def test_a_preset_says_what_to_type_and_what_to_expect(name: str) -> None:
    commands = commands_of(name)
    first = "train" if name in PRESETS else "evaluate"
    assert ["segkit", first, f"experiment={name}"] in [words[:3] for words in commands]
    for _, command, *words in commands:
        check(command, [word for word in words if word != "-m"], multirun="-m" in words)
    assert name == "quickstart" or re.search("not measured yet|Measured: ", head_of(name))
