"""Starting from weights that are there: of another run, with other classes, frozen in part, at rates of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import segkit
from segkit import SegkitError
from segkit.models import checkpoint
from segkit.models.fitting import model_weights
from segkit.models.unet import UNet
from segkit.training.optim import freeze, matching, parameter_groups
from tests.conftest import SMALL, Cli


def network_of(run: Path, file: str = "last.ckpt") -> dict[str, torch.Tensor]:
    path = run / "checkpoints" / file
    weights = model_weights(path, checkpoint.read(path))
    return {key.removeprefix("network."): value for key, value in weights.items() if key.startswith("network.")}


def test_frozen_parts_keep_every_value_and_statistic_while_the_rest_learns(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, f"init_from={trained}", "freeze=[encoder.*]", "run=frozen")
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = network_of(trained, "best.ckpt"), network_of(tmp_path / "outputs/small/frozen")
    for key, value in before.items():
        assert torch.equal(value, after[key]) == key.startswith("encoder."), key


@pytest.mark.slow
def test_a_part_with_a_rate_of_its_own_moves_less(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    moved = {}
    for run, keys in {"plain": (), "slow": ("lr_scales={encoder.*: 0.001}",)}.items():
        done = segkit_in("train", *SMALL, f"init_from={trained}", f"run={run}", *keys)
        assert done.returncode == 0, done.stdout + done.stderr
        before, after = network_of(trained, "best.ckpt"), network_of(tmp_path / "outputs/small" / run)
        key = "encoder.0.convs.0.conv.weight"
        moved[run] = float((after[key] - before[key]).norm())
    assert 0 < moved["slow"] < 0.01 * moved["plain"]


def test_a_resumed_fine_tuning_keeps_what_was_frozen(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, f"init_from={trained}", "freeze=[encoder]", "run=r", "trainer.max_minutes=0.0001")
    assert done.returncode == 0, done.stdout + done.stderr
    after = network_of(tmp_path / "outputs/small/r")
    assert torch.equal(
        network_of(trained, "best.ckpt")["encoder.0.convs.0.norm.running_mean"], after["encoder.0.convs.0.norm.running_mean"]
    )


def test_the_head_is_newly_initialized_for_other_classes_and_kept_for_the_same(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, f"init_from={trained}", "run=same", "debug=fast")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "newly initialized" not in done.stdout
    other = ("data=folder", f"data.root={phantom_folder(segkit_in, tmp_path)}", "data.labels={0: background, 255: other}")
    done = segkit_in("train", *SMALL, *other, f"init_from={trained}", "run=other", "debug=fast")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "newly initialized: head.conv.weight, head.conv.bias" in done.stdout


def test_weights_that_fit_by_shape_and_not_by_meaning_are_refused(trained: Path, segkit_in: Cli) -> None:
    done = segkit_in("train", *SMALL, f"init_from={trained}", "model.concat=up_first", "run=x")
    assert done.returncode == 2
    assert "use  model.concat=skip_first" in done.stderr


def phantom_folder(segkit_in: Cli, tmp_path: Path) -> Path:
    made = segkit_in("phantom", "data=phantom", "output=images", "n=8")
    assert made.returncode == 0, made.stderr
    return tmp_path / "images"


def test_patterns_that_name_nothing_are_refused_before_anything_is_written(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "freeze=[encodr.*]", "run=x")
    assert done.returncode == 2
    assert "freeze: no parameter of the network is named encodr.*" in done.stderr
    assert not (tmp_path / "outputs/small/x").exists()


def test_names_of_modules_and_of_parameters() -> None:
    network = UNet(1, 1, (4, 8))
    assert matching(network, "encoder", "freeze") == matching(network, "encoder.*", "freeze")
    assert matching(network, "*.bias", "freeze") > {"head.conv.bias"}
    groups = parameter_groups(network, 0.5, {"*": 0.1, "head": 2.0})
    assert sorted((group["lr"], len(group["params"])) for group in groups) == [(0.05, len(list(network.parameters())) - 2), (1.0, 2)]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    with pytest.raises(SegkitError, match="nothing to train"):
        freeze(network, ["*"])


def test_batches_that_a_norm_cannot_take_are_refused_before_training(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "data.batch_size=1", "preprocess.size=[32,32]", "model.widths=[4,4,4,4,4,4]", "run=x")
    assert done.returncode == 2
    assert "(BatchNorm2d) needs two values a channel in training, but each step has a batch of 1 image of 32 x 32" in done.stderr
    assert "add  data.batch_size=2" in done.stderr
    assert not (tmp_path / "outputs/small/x").exists()


def test_an_inadmissible_size_is_refused_before_training(segkit_in: Cli, tmp_path: Path) -> None:
    keys = ("model=unet_valid", "model.target=center_crop", "model.widths=[2,2,2,2,2]", "preprocess.size=[696,696]", "run=x")
    done = segkit_in("train", *SMALL, *keys)
    assert done.returncode == 2
    assert "use  preprocess.size='[684,684]'  or  preprocess.size='[700,700]'" in done.stderr
    assert not (tmp_path / "outputs/small/x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["overlap_tile", *(pytest.param(name, marks=pytest.mark.slow) for name in ("center_crop", "resize"))])
def test_unpadded_networks_train_and_predict_with_every_target(target: str, segkit_in: Cli, tmp_path: Path) -> None:
    size = "preprocess.size=[60,60]"
    keys = ("model=unet_valid", f"model.target={target}", "model.widths=[4,8,16]", "model.norm=batch", size, f"run={target}")
    done = segkit_in("train", *SMALL, *keys)
    assert done.returncode == 0, done.stdout + done.stderr
    import numpy as np

    found = segkit.load(tmp_path / "outputs/small" / target).predict(np.zeros((90, 70), np.uint8))
    assert found.mask.shape == (90, 70)


OWN = """
from torch import nn

class Bottle(nn.Module):
    stride = 4
    def __init__(self, in_channels, out_channels, width=8):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(in_channels, width, 4, 4), nn.ReLU(), nn.ConvTranspose2d(width, out_channels, 4, 4))
    def forward(self, x):
        return self.net(x){end}
"""


def test_a_network_of_ones_own_is_one_yaml(segkit_in: Cli, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(OWN.format(end=""))
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/bottle.yaml").write_text("_target_: mynets.Bottle\nwidth: 6\n")
    own = [key for key in SMALL if not key.startswith("model.")]
    done = segkit_in("train", *own, "model=bottle", "allow_targets=[mynets]", "run=own")
    assert done.returncode == 0, done.stdout + done.stderr
    done = segkit_in("evaluate", "ckpt=outputs/small/own", "allow_targets=[mynets]")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "mynets.py").write_text(OWN.format(end=".sum(1)"))
    done = segkit_in("train", *own, "model=bottle", "allow_targets=[mynets]", "run=wrong")
    assert done.returncode == 2
    assert "the network returns (4, 48, 64), but logits (B, classes, H, W) are needed" in done.stderr


def test_a_loss_of_torch_needs_no_wrapper(segkit_in: Cli) -> None:
    loss: tuple[Any, ...] = (
        "loss=ce",
        "+loss.parts.bce={_target_: torch.nn.BCEWithLogitsLoss}",
        "loss.parts.ce=null",
        "run=bce",
        "debug=fast",
    )
    done = segkit_in("train", *SMALL, *loss)
    assert done.returncode == 0, done.stdout + done.stderr
