"""`segkit import`: a network of another program, from its file to masks and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segkit
from segkit.cli.import_ import command
from segkit.config import compose
from segkit.config.commands import Import
from segkit.models import checkpoint
from segkit.models.unet import UNet
from segkit.system.errors import ProblemsFound, SegkitError
from tests.conftest import QUICK, Cli
from tests.models.weights.test_load import FOREIGN, GIVES_PROBABILITIES, foreign_network

UNIT = ("preprocess=native", "preprocess.normalize=unit")


def run(*overrides: str) -> int:
    cfg = compose.compose("import", overrides)
    assert isinstance(cfg, Import)
    return command(cfg)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(schema: str) -> tuple[nn.Module, Tensor]:
    network, image = foreign_network(schema)
    torch.save(network.state_dict(), "w.pt")
    return network, image


@pytest.mark.parametrize("schema", FOREIGN)
def test_masks_are_those_of_the_foreign_network(schema: str) -> None:
    network, images = saved(schema)
    assert run("weights=w.pt", "name=theirs", *UNIT) == 0
    predictor = segkit.load("outputs/imported/theirs", accelerator="cpu", threads=1)
    image = images[0] if schema == "isbi_valid_unet" else images[0, :, :32, :32]
    with torch.no_grad():
        out = network(mirrored(image) if schema == "isbi_valid_unet" else image[None])[0, 0]
    expected = middle(out if schema in GIVES_PROBABILITIES else out.sigmoid(), image.shape[1:]).numpy()
    prediction = predictor.predict(image.numpy().transpose(1, 2, 0))
    assert np.abs(prediction.probs[0] - expected).max() < 1e-5
    assert np.array_equal(prediction.mask, expected >= 0.5)
    assert 0.02 < prediction.mask.mean() < 0.98


def mirrored(image: Tensor) -> Tensor:
    """By reflection to a size that unpadded convolutions can take: 188 -> 380 -> 196, 204 -> 396 -> 212."""
    return nn.functional.pad(image[None], (96, 96, 96, 96), mode="reflect")


def middle(out: Tensor, size: torch.Size) -> Tensor:
    top, left = (out.shape[0] - size[0]) // 2, (out.shape[1] - size[1]) // 2
    return out[top : top + size[0], left : left + size[1]]


def test_from_the_command_line_to_a_table(segkit_in: Cli) -> None:
    """The commands that an import proposes: evaluate on other data, predict, and train from it."""
    saved("brats_unet")
    done = segkit_in("import", "weights=w.pt", "name=mr", "preprocess.normalize=unit", "preprocess.size=[32,48]")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("brats_unet, ", "rests on the schema", "segkit evaluate ckpt=outputs/imported/mr data=NAME data.root=DIR"):
        assert words in done.stdout
    done = segkit_in("evaluate", "ckpt=outputs/imported/mr", "data=phantom", "data.phantom_n=3", "hardware.threads=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = Path("outputs/imported/mr/evaluation").glob("*/cases.csv")
    assert len(table.read_text().splitlines()) == 1 + 3


def test_training_starts_from_an_import(segkit_in: Cli) -> None:
    saved("brats_unet")
    assert run("weights=w.pt", *UNIT) == 0
    done = segkit_in(
        "train", *QUICK, "init_from=outputs/imported/brats_unet", "data=phantom", "data.phantom_n=4", "model.widths=[2,3,4,5,6]",
        "preprocess.size=[32,48]", "trainer.max_epochs=1", "trainer.compile=false", "trainer.accelerator=cpu", "trainer.threads=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights from outputs/imported/brats_unet" in done.stdout


def test_the_card_says_all_that_is_known() -> None:
    saved("mateuszbuda_hub")
    run("weights=w.pt", "name=flair", "preprocess.normalize=volume", "data.labels={0:background,1:tumour}")
    model, metadata, _ = checkpoint.load_model("outputs/imported/flair")
    assert (metadata.channels, metadata.dims, metadata.label_map().classes, metadata.is_phantom) == (3, 2, ("tumour",), False)
    assert (metadata.split["train"], metadata.split["val"], metadata.split["test"]) == ([], [], [])
    config = metadata.train_config()
    assert (config.name, config.model["weights"], config.model["concat"]) == ("flair", None, "up_first")
    assert isinstance(model.network, UNet)
    assert model.normalizer.kind == "volume"


def test_statistics_of_a_data_set_are_not_in_a_file_of_weights() -> None:
    saved("fetal_head_unet")
    with pytest.raises(SegkitError, match=r"unit\|volume\|image(.|\n)*252 x 252(.|\n)*preprocess\.scale=none"):
        run("weights=w.pt", "preprocess.normalize=dataset")
    assert not Path("outputs").exists()


def reference(network: nn.Module, image: Tensor, **changes: Tensor) -> None:
    with torch.no_grad():
        arrays = {"input": image, "output": network(image), **changes}
    np.savez("r.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})


@pytest.mark.parametrize("schema", ["brats_unet", "fetal_head_unet"])
def test_a_reference_proves_the_meaning(schema: str, capsys: pytest.CaptureFixture[str]) -> None:
    reference(*saved(schema))
    assert run("weights=w.pt", "reference=r.npz", *UNIT) == 0
    assert "agrees with r.npz" in capsys.readouterr().out


def test_a_reference_of_the_other_order_is_recognised_and_nothing_written() -> None:
    """A program with the same names that joins the other way round, as a fork of the hub's network may."""
    saved("mateuszbuda_hub")
    state, image = torch.load("w.pt"), torch.rand(1, 3, 32, 48)
    for i in (1, 2, 3, 4):
        name = f"decoder{i}.dec{i}conv1.weight"
        state[name] = torch.cat(state[name].chunk(2, dim=1)[::-1], dim=1)
    network, _ = foreign_network("mateuszbuda_hub")  # its own order, with the halves of the fork swapped back
    reference(network, image)
    torch.save(state, "w.pt")
    with pytest.raises(SegkitError, match="fit up_first by shape, not by meaning: with skip_first they give the reference"):
        run("weights=w.pt", "reference=r.npz", *UNIT)
    assert not Path("outputs").exists()


def test_a_reference_of_logits_where_the_network_gives_probabilities_is_recognised() -> None:
    network, image = saved("mateuszbuda_hub")
    with torch.no_grad():
        reference(network, image, output=network(image).logit())
    with pytest.raises(SegkitError, match=r"holds logits, where the network gives probabilities \(final=sigmoid\)"):
        run("weights=w.pt", "reference=r.npz", *UNIT)


def test_a_reference_that_nothing_explains_tells_the_difference() -> None:
    network, image = saved("brats_unet")
    reference(network, image, output=torch.zeros(2, 1, 32, 48))
    with pytest.raises(SegkitError, match="does not agree, nothing is written: the largest difference is"):
        run("weights=w.pt", "reference=r.npz", *UNIT)
    reference(network, image, input=torch.zeros(1, 2, 32, 48))
    with pytest.raises(SegkitError, match=r"does not take its input \(1, 2, 32, 48\)"):
        run("weights=w.pt", "reference=r.npz", *UNIT)
    np.savez("r.npz", images=np.zeros(3))
    with pytest.raises(SegkitError, match="as arrays input and output"):
        run("weights=w.pt", "reference=r.npz", *UNIT)


def test_plain_weights_are_of_the_network_that_the_config_builds() -> None:
    network = UNet(2, 3, (4, 8), residual=True).eval()
    torch.save({"weights": network.state_dict()}, "own.pt")
    options = ("weights=own.pt", "model.widths=[4,8]", "model.residual=true", *UNIT)
    with pytest.raises(SegkitError, match="schema=plain"):
        run(*options)
    assert run(*options, "schema=plain") == 0
    model, metadata, _ = checkpoint.load_model("outputs/imported/own")
    assert metadata.label_map().classes == ("class_1", "class_2")
    x = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.logits(x), network(x))


def test_labels_must_be_as_many_as_outputs() -> None:
    torch.save(UNet(1, 3, (4, 8)).state_dict(), "own.pt")
    options = ("weights=own.pt", "schema=plain", "model.widths=[4,8]", *UNIT)
    run(*options, "name=planes", "data.overlap=true")
    assert checkpoint.load_model("outputs/imported/planes")[1].label_map().classes == ("class_1", "class_2", "class_3")
    with pytest.raises(SegkitError, match=r"another shape 2: head\.conv\.weight"):
        run(*options, "data.labels={0:background,1:a}")
    saved("brats_unet")
    with pytest.raises(SegkitError, match=r"names 2 classes, for which a network has 3 outputs(.|\n)*this one has 1"):
        run("weights=w.pt", "data.labels={0:background,1:a,2:b}", *UNIT)


def test_a_softmax_over_two_is_recognized() -> None:
    torch.save(UNet(1, 2, (4, 8)).state_dict(), "own.pt")
    with pytest.raises(SegkitError, match=r"2 exclusive outputs, background and one class, are one output here"):
        run("weights=own.pt", "schema=plain", "model.widths=[4,8]", *UNIT)


def test_an_import_never_overwrites_another() -> None:
    saved("brats_unet")
    assert run("weights=w.pt", *UNIT) == 0
    with pytest.raises(SegkitError, match="exists already;   choose another  name="):
        run("weights=w.pt", *UNIT)


def test_images_are_not_volumes() -> None:
    saved("brats_unet")
    with pytest.raises(SegkitError, match=r"add  data\.dims=2"):
        run("weights=w.pt", "data.dims=3", *UNIT)


def test_sigmoid_outputs_do_not_exclude_each_other() -> None:
    network, _ = foreign_network("mateuszbuda_hub")
    state = network.state_dict()
    state |= {name: torch.cat([state[name]] * 3) for name in ("conv.weight", "conv.bias")}
    torch.save(state, "w.pt")
    with pytest.raises(SegkitError, match=r"3 sigmoid outputs, each by itself;   add  data\.overlap=true"):
        run("weights=w.pt", *UNIT)
    assert run("weights=w.pt", "data.overlap=true", *UNIT) == 0


def test_what_to_import_must_be_given() -> None:
    with pytest.raises(ProblemsFound, match=r"before segkit import starts\n +weights +is needed"):
        compose.compose("import", [])
