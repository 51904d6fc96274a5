"""What is opened as a checkpoint, what is refused, and what a hostile one cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.models import checkpoint
from segkit.models.metadata import Card, Metadata
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.unet import UNet
from segkit.system.errors import SegkitError


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_card_opens_with_weights_only_and_is_plain_data(trained: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    metadata = Metadata.from_dict(content["segkit"])
    assert metadata.label_map().classes == ("head",)
    assert metadata.split["val"]
    assert metadata.config["model"]["widths"] == [8, 16]
    assert metadata.score["val/dice"] == pytest.approx(content["segkit"]["score"]["val/dice"])


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "segkit": Bomb()}, "evil.ckpt")
    with pytest.raises(SegkitError, match="could run code; it is refused"):
        checkpoint.load_model("evil.ckpt")
    assert not Path("exploded").exists()


def test_a_card_cannot_name_code_outside_the_allowed_packages(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["segkit"]["config"]["model"] = {"_target_": "os.system", "command": "touch exploded"}
    content["segkit"]["config"]["allow_targets"] = ["os"]
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(SegkitError, match="outside the allowed packages"):
        checkpoint.load_model(tmp_path / "evil.ckpt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "is a web page"),
        (b"some notes", "damaged or no file of weights"),
        ({"model_state_dict": {}, "epoch": 3}, "another program"),
        ([1, 2], "holds a list"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "other.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SegkitError, match=words):
        checkpoint.load_model(path)


def test_a_truncated_checkpoint_is_called_damaged(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SegkitError, match="damaged"):
        checkpoint.load_model(tmp_path / "half.ckpt")


def test_a_missing_file_and_an_empty_run_folder(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="no such file"):
        checkpoint.find(tmp_path / "nothing.ckpt")
    with pytest.raises(SegkitError, match=r"holds no checkpoints/best\.ckpt"):
        checkpoint.find(tmp_path)


FILL_THE_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from segkit.models import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
checkpoint.save({"state_dict": {"w": torch.zeros(100_000)}}, Path(sys.argv[1]))
"""


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """The file-size limit of a process stands for the disk: writes fail in the same way, in the middle."""
    path = tmp_path / "last.ckpt"
    checkpoint.save({"state_dict": {"w": torch.zeros(10)}}, path)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FILL_THE_DISK, str(path)], capture_output=True, text=True)
    assert "DiskFull: disk full while writing" in done.stderr
    assert "the previous file is intact" in done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def small_model(n_outputs: int = 1, widths: tuple[int, ...] = (8, 16)) -> SegmentationModel:
    return SegmentationModel(UNet(1, n_outputs, widths), Normalizer("unit"), "binary" if n_outputs == 1 else "multiclass")


def test_init_from_takes_what_fits_and_says_what_it_rewritten(trained: Path) -> None:
    path = checkpoint.find(trained)
    model = small_model(n_outputs=4)
    assert checkpoint.init_weights(model, path, ("a", "b", "c")) == ["head.conv.weight", "head.conv.bias"]
    theirs, *_ = checkpoint.load_model(path)
    assert torch.equal(model.network.encoder[0].convs[0].conv.weight, theirs.network.encoder[0].convs[0].conv.weight)  # type: ignore[index,union-attr]


def test_init_from_another_architecture_is_refused(trained: Path) -> None:
    with pytest.raises(SegkitError, match="another architecture"):
        checkpoint.init_weights(small_model(widths=(12, 24, 48)), checkpoint.find(trained), ("head",))


def test_the_schema_of_the_metadata_has_their_fields() -> None:
    assert {*Card.model_fields, "split"} == {field.name for field in fields(Metadata)}


def test_a_metadata_field_out_of_bounds_is_named_with_the_file(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["segkit"] |= {"channels": 10**9, "mean": ["a"]}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(SegkitError) as error:
        checkpoint.load_model(tmp_path / "bad.ckpt")
    first, second = str(error.value).splitlines()
    assert first == f"{tmp_path}/bad.ckpt has damaged metadata: channels needs at most 4096, got 1000000000"
    assert second == "  mean.0 needs a number, got 'a'"


def test_a_changed_byte_among_the_weights_is_noticed(trained: Path, tmp_path: Path) -> None:
    path = trained / "checkpoints" / "best.ckpt"
    data, weights = bytearray(path.read_bytes()), checkpoint.read(path)["state_dict"]
    kernel = bytes(max(weights.values(), key=torch.numel).untyped_storage())
    data[data.index(kernel[:64]) + 40] ^= 1  # not the padding between tensors, which changes nothing
    (tmp_path / "bad.ckpt").write_bytes(data)
    with pytest.raises(SegkitError, match="damaged"):
        checkpoint.load_model(tmp_path / "bad.ckpt")
