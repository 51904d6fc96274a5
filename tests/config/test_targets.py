"""What a `_target_` may name, how its keywords are checked, and that hostile nodes build nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.config.aliases import renamed
from segkit.config.signatures import check_call, check_name
from segkit.config.targets import instantiate, keywords_of, target_nodes
from segkit.system.errors import SegkitError

OWN = '''
from __future__ import annotations
import os
import typing as t
from dataclasses import dataclass, field
from os import system
from typing import Literal, NamedTuple, Optional, Sequence

from .deep import Aliased as Renamed, Base
from .deep import *

Size = tuple[int, int]

def function(a: int, /, b: Size, *, c: "Optional[float]" = None, d=0.5, e: Unknown = 3, f: Literal["x", "y"] = "x"): return b

class Net(Base):
    """Inherits its __init__."""

class Open:
    def __init__(self, width: int, **kwargs): self.kwargs = kwargs

@dataclass
class Parent:
    root: str
    names: Sequence[str] = ()

@dataclass
class Child(Parent):
    depth: int | None = None
    hidden: int = field(default=1, init=False)
    constant: t.ClassVar[int] = 3

class Pair(NamedTuple):
    left: float
    right: float = 1.0

class Picky:
    def __init__(self, width: int):
        if width > 3: raise ValueError("width may be 3 at most")

class Holder:
    def __init__(self, inner=None, many=(), by_name=None): self.inner, self.many, self.by_name = inner, many, by_name
    def method(self): ...

value = 3
'''
DEEP = """
class Base:
    def __init__(self, in_channels: int, out_channels: int, width: int = 8): self.width = width
class Aliased:
    def __init__(self, flag: bool): ...
class Starred:
    pass
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "target_nets").mkdir()
    (folder / "target_nets" / "__init__.py").write_text(OWN)
    (folder / "target_nets" / "deep.py").write_text(DEEP)
    sys.path.append(str(folder))
    yield ["target_nets"]
    sys.path.remove(str(folder))


def complaints(
    node: dict[str, Any], allow: list[str] | None = None, supplied: tuple[str, ...] = (), training: bool = False
) -> dict[str, str]:
    found = [(".".join(path), inner) for path, inner in target_nodes(node, ("model",), built=True)]
    problems = [problem for where, inner in found for problem in check_name(inner, where, allow or [], training=training)]
    problems = problems or [
        p for where, inner in found for p in check_call(inner, where, allow or [], supplied if where == "model" else (), training=training)
    ]
    return {p.where: f"{p.what} {p.fix}".strip() for p in problems}


def test_keywords_are_those_of_the_signature(own: list[str]) -> None:
    assert keywords_of("target_nets.function", own) == ["b", "c", "d", "e", "f"]
    assert keywords_of("target_nets.Net", own) == ["in_channels", "out_channels", "width"]
    assert keywords_of("target_nets.Renamed", own) == ["flag"]
    assert keywords_of("target_nets.Starred", own) == []
    assert keywords_of("target_nets.Child", own) == ["root", "names", "depth"]
    assert keywords_of("target_nets.Pair", own) == ["left", "right"]


def test_values_must_fit_annotations_and_defaults(own: list[str]) -> None:
    node = {"_target_": "target_nets.function", "b": [1, "x"], "c": "x", "d": "x", "e": "x", "f": "z"}
    assert complaints(node, own) == {
        "model.b.1": "needs a whole number, got 'x'",
        "model.c": "needs a number, got 'x'",
        "model.d": "needs a number, got 'x'",
        "model.f": "must be one of x, y; got 'z'",
    }
    assert not complaints({"_target_": "target_nets.function", "b": [1, 2], "c": None, "d": 1, "e": [], "f": "y"}, own)


def test_names_and_requirements(own: list[str]) -> None:
    assert complaints({"_target_": "target_nets.Net", "widht": 3}, own, ("in_channels",)) == {
        "model.widht": "Net takes no widht; did you mean model.width?",
        "model.out_channels": "is needed by Net add  +model.out_channels=VALUE",
    }
    assert complaints({"_target_": "target_nets.Picky"}, own, ("width", "mode")) == {
        "model": "target_nets.Picky must take mode: segkit passes it"
    }
    assert not complaints({"_target_": "target_nets.Open", "width": 3, "anything": 4}, own, ("mode",))
    assert "did you mean target_nets.Net?" in complaints({"_target_": "target_nets.Nett"}, own)["model"]
    assert "there is no package nowhere" in complaints({"_target_": "nowhere.Net"}, ["nowhere"])["model"]


def test_nested_targets_are_checked(own: list[str]) -> None:
    inner = {"_target_": "target_nets.Picky", "width": "x"}
    node = {"_target_": "target_nets.Holder", "inner": inner, "many": [inner]}
    assert set(complaints(node, own)) == {"model.inner.width", "model.many.0.width"}
    assert set(complaints({**node, "by_name": {"a": {"_target_": "os.system"}}}, own)) == {"model.by_name.a"}, "before any import"


def test_library_signatures() -> None:
    """The libraries that presets name: torch, albumentations, lightning, segmentation-models-pytorch."""
    flip = {"_target_": "albumentations.HorizontalFlip", "p": "x"}
    assert complaints(flip) == {"model.p": "needs a number, got 'x'"}
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitr": "loss"}
    assert set(complaints(stop)) == {"model.monitr", "model.monitor"}
    assert "HorizontalFlip?" in complaints({"_target_": "albumentations.HorizontalFlipp"})["model"]
    dice = {"_target_": "segmentation_models_pytorch.losses.DiceLoss", "smoth": 1.0}
    assert complaints(dice, supplied=("mode",)) == {"model.smoth": "DiceLoss takes no smoth; did you mean model.smooth?"}
    adam = {"_target_": "torch.optim.Adam", "lr": "x", "betas": [0.9, 0.99], "amsgrad": True}
    assert complaints(adam, supplied=("params",)) == {"model.lr": "needs a number, got 'x'"}


def test_building(own: list[str]) -> None:
    inner = {"_target_": "target_nets.Net", "width": 4, "in_channels": 1, "out_channels": 1}
    holder = instantiate({"_target_": "target_nets.Holder", "many": [inner, 3]}, allow=own, inner=1)
    assert holder.inner == 1
    assert holder.many[0].width == 4
    assert holder.many[1] == 3
    assert instantiate({"_target_": "target_nets.Net", "width": 5}, allow=own, in_channels=1, out_channels=2).width == 5


def test_the_keys_of_hydra(own: list[str]) -> None:
    inner = {"_target_": "target_nets.Net", "_partial_": True, "width": 4}
    holder = {"_target_": "target_nets.Holder", "_args_": [inner], "_convert_": "all"}
    assert not complaints(holder, own), "a partial lacks keywords"
    net = instantiate(holder, allow=own).inner
    assert isinstance(net, partial)
    assert net(in_channels=1, out_channels=2).width == 4
    raw = {**holder, "_recursive_": False, "_args_": [{**inner, "_partial_": False}]}
    assert not complaints(raw, own), "it gets the node as it is written"
    assert instantiate(raw, allow=own).inner["_target_"] == "target_nets.Net"
    assert instantiate(inner, allow=own, in_channels=1, out_channels=2).width == 4, "complete, so it is built"
    function = {"_target_": "target_nets.function", "_args_": [1, [1, "x"]], "c": 1.0}
    assert complaints(function, own) == {"model.b.1": "needs a whole number, got 'x'"}
    assert "at most 2" in complaints({**function, "_args_": [1, [1, 2], 3]}, own)["model._args_"]
    assert complaints({**inner, "widht": 4}, own) == {"model.widht": "Net takes no widht; did you mean model.width?"}
    assert complaints({**inner, "_convert_": "none", "_recurse_": 1, "_args_": 1}, own).keys() == {
        "model._convert_",
        "model._recurse_",
        "model._args_",
    }


def test_more_may_be_named_of_what_only_training_needs() -> None:
    schedule = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gama": 0.1}
    assert complaints(schedule, supplied=("optimizer",), training=True) == {"model.gama": "StepLR takes no gama; did you mean model.gamma?"}
    for target in ("timm.optim.Lion", "lightning.pytorch.plugins.environments.SLURMEnvironment", "torchmetrics.Dice"):
        assert "outside the allowed packages" in complaints({"_target_": target})["model"]
    assert not complaints({"_target_": "timm.optim.Lion", "lr": 0.1}, supplied=("params",), training=True)
    assert not complaints({"_target_": "lightning.pytorch.plugins.environments.SLURMEnvironment"}, training=True)
    assert not complaints({"_target_": "torchmetrics.F1Score", "task": "binary"}, training=True)
    f1 = instantiate({"_target_": "torchmetrics.F1Score", "task": "binary"}, training=True)
    assert type(f1).__name__ == "BinaryF1Score"
    average = instantiate({"_target_": "torch.optim.swa_utils.get_ema_multi_avg_fn", "decay": 0.9}, training=True)
    assert callable(average), "a function"
    for target in ("torch.nn.attention._fa3._fa3_import_module", "lightning.pytorch.Trainer", "os.system", "torch.hub.load"):
        with pytest.raises(SegkitError):
            instantiate({"_target_": target}, training=True)


def test_a_network_of_smp_is_ours_by_another_name() -> None:
    theirs = {"_target_": "segmentation_models_pytorch.FPN", "encoder_name": "resnet18", "classes": 2, "in_channels": 1}
    assert renamed(theirs) == {
        "encoder_weights": "imagenet",
        "_target_": "segkit.models.SMP",
        "arch": "FPN",
        "encoder_name": "resnet18",
        "out_channels": 2,
        "in_channels": 1,
    }, "as there, weights are downloaded where nothing else is said"
    wrapped = instantiate({"_target_": "torch.nn.Sequential", "_args_": [{**theirs, "encoder_weights": None}]})
    assert wrapped(torch.zeros(2, 1, 32, 32)).shape == (2, 2, 32, 32)
    assert "decoder_channels" not in keywords_of("segmentation_models_pytorch.FPN")
    assert "encoder_name" in keywords_of("segmentation_models_pytorch.FPN")


def test_complaints_of_a_constructor_name_it(own: list[str]) -> None:
    with pytest.raises(SegkitError, match=r"target_nets\.Picky: width may be 3 at most"):
        instantiate({"_target_": "target_nets.Picky", "width": 4}, allow=own)
    with pytest.raises(SegkitError, match=r"target_nets\.Picky: .*widht"):
        instantiate({"_target_": "target_nets.Picky", "widht": 4}, allow=own)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "segkit.data.sources.Path",
        "segkit.data.io.images.os.system",
        "segkit.config.targets.instantiate",
        "segkit.cli.main.main",
        "segkit.models",
        "segkit.models.weights.download.fetch",
        "segkit.models.weights.load.obtain",
        "segkit.models.smp._from_hub",
        "segkit.models.smp.Recipe",
        "segkit.models.smp.SMPNetwork",
        "segkit.models.UNets",
        "segmentation_models_pytorch.Unet",
        "segkitx.models.Net",
        "torch.nn",
        "torch.nn.modules.module.torch.hub.load",
        "torch.nn.Module.__init__.__globals__",
        "torch.load",
        "torch.nn.functional.conv2d",
        "torch.nn.attention._fa3._fa3_import_module",
        "segmentation_models_pytorch.datasets.oxford_pet.download_url",
        "target_nets.system",
        "target_nets.os.system",
        "target_nets.value",
        "target_nets.Holder.method",
        "target_nets",
        "",
        "None",
        "../evil.Net",
    ],
)
def test_hostile_nodes_build_nothing(own: list[str], target: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for node in ({"_target_": target, "command": f"touch {witness}"}, {"_target_": target}):
        with pytest.raises(SegkitError):
            instantiate(node, allow=own)
        with pytest.raises(SegkitError):
            instantiate({"_target_": "target_nets.Holder", "many": [{"deeper": node}]}, allow=own)
    assert not witness.exists()
