"""The largest batch that fits, and what is said where one does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import segkit
from segkit.config.schema import Train
from segkit.data.audit.audit import prepare
from segkit.data.datamodule import intensity_statistics
from segkit.models.unet import UNet
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware
from segkit.training.building import build_parts, make_metadata
from segkit.training.checks import check_weights
from segkit.training.memory import Trials, largest_batch, validation_advice
from tests.conftest import SMALL, Cli


@pytest.mark.parametrize(
    ("limit", "most", "found"), [(0, 9, 0), (1, 9, 1), (5, 9, 4), (99, 9, 8), (99, 1, 1), (27, 500, 26), (150, 500, 144)]
)
def test_the_largest_batch_is_found_in_few_trials(limit: int, most: int, found: int) -> None:
    """It is even, no more than there are images, and at most an eighth below the limit."""
    tried: list[int] = []
    assert largest_batch(lambda n: tried.append(n) or n <= limit, most) == found  # type: ignore[func-returns-value]
    assert len(tried) <= 12
    assert len(set(tried)) == len(tried)


class Hungry(UNet):
    """Needs more memory than any machine has where there are more than six images."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return super().forward(x if len(x) <= 6 else x + torch.empty(10**16).sum())


def config(tmp_path: Path, network: str, *more: str) -> Any:
    keys = [key for key in SMALL if not key.startswith("data.batch_size")]
    node = f"model._target_=tests.training.test_memory.{network}"
    return segkit.compose("train", [*keys, "allow_targets=[tests]", node, f"output_dir={tmp_path}", *more])


def test_trials_are_real_steps_that_end_where_memory_does(tmp_path: Path) -> None:
    cfg: Train = config(tmp_path, "Hungry", "data.batch_size=1", "trainer.activation_checkpointing=true")
    prepared = prepare(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, cache_dir=tmp_path)
    trials = Trials(cfg, prepared, intensity_statistics(cfg, prepared), Hardware.choose("cpu", "32", 1))
    before = [weight.clone() for weight in trials.module.parameters()]
    assert largest_batch(trials.fits, len(prepared.split.train)) == 6
    assert not any(torch.equal(weight, old) for weight, old in zip(trials.module.parameters(), before, strict=True))


def test_without_a_gpu_the_default_is_taken_and_kept(segkit_in: Cli, tmp_path: Path) -> None:
    keys = [*SMALL, "data.batch_size=auto", "run=r", "resume=auto"]
    done = segkit_in("train", *keys)
    assert done.returncode == 0, done.stderr
    assert "data.batch_size=auto needs a GPU, whose memory it fills: 8 images a step" in done.stdout
    assert yaml.safe_load((tmp_path / "outputs/small/r/config.yaml").read_text())["data"]["batch_size"] == 8
    assert "is finished already" in segkit_in("train", *keys).stdout


def test_a_class_that_cannot_find_the_number_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="give this class a number"):
        segkit.SegmentationData.from_config(config(tmp_path, "Hungry", "data.batch_size=auto"))


class Counts(nn.Module):
    """A network of whole numbers."""

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(in_channels, out_channels, dtype=torch.int8), requires_grad=False)


def test_a_network_without_float_weights_is_refused_before_the_training(tmp_path: Path) -> None:
    cfg: Train = config(tmp_path, "Counts", "callbacks.weight_averaging.decay=0.9")
    prepared = prepare(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, cache_dir=tmp_path)
    with pytest.raises(
        SegkitError, match=r"Counts has no weights of floating point: .* nothing for callbacks\.weight_averaging to average"
    ):
        build_parts(cfg, make_metadata(cfg, prepared, intensity_statistics(cfg, prepared), "32"))
    with pytest.raises(SegkitError, match=r"add  '~callbacks\.weight_averaging'"):
        check_weights(Counts(1, 1), cfg, trains_itself=True)


@pytest.mark.parametrize(
    ("keys", "is_test", "ways"),
    [
        ((), False, "inference.window='[24,32]':"),
        (("inference.batch_size=8",), False, "inference.window='[24,32]' inference.batch_size=1:"),
        (("inference.batch_size=8",), True, "inference.batch_size=1:"),
        (("inference.batch_size=8", "sampling.patch=[32,32]"), False, "inference.batch_size=1:"),
        (("inference.batch_size=8", "sampling.patch=[32,32]", "inference.window=null"), False, "inference.batch_size=1:"),
        (("sampling.patch=[32,32]",), False, "inference.window='[16,16]':"),
    ],
)
def test_a_validation_without_memory_is_told_what_makes_it_smaller(keys: tuple[str, ...], is_test: bool, ways: str) -> None:
    assert f"  {ways}" in validation_advice(segkit.compose("train", [*SMALL, *keys]), is_test)
