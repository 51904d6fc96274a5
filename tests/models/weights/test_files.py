"""What is read from files of strangers, and what is refused, by name."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segkit.models.checkpoint import load_model
from segkit.models.weights.files import read
from segkit.system.errors import SegkitError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


def same(found: dict[str, Tensor]) -> bool:
    return list(found) == list(STATE) and all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [zipped, legacy])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "network", "weights"])
def test_weights_are_found_beside_other_things(tmp_path: Path, key: str, save: Callable[[Any, Path], None]) -> None:
    save({"epoch": 3, key: STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}, tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.network."])
def test_what_wrappers_put_before_every_name_is_taken_off(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt"))


def test_a_prefix_that_not_all_names_share_belongs_to_them(tmp_path: Path) -> None:
    torch.save({"model.weight": torch.ones(1), "head.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert list(read(tmp_path / "w.pt")) == ["model.weight", "head.weight"]


def test_a_key_leads_to_one_of_several(tmp_path: Path) -> None:
    torch.save({"students": {"ema": STATE}, "state_dict": {"b": torch.ones(1)}}, tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt", key="students.ema"))
    assert list(read(tmp_path / "w.pt")) == ["b"]
    with pytest.raises(SegkitError, match=r"w\.pt has no emma;   did you mean ema\?"):
        read(tmp_path / "w.pt", key="students.emma")


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file({"module." + name: tensor for name, tensor in STATE.items()}, tmp_path / "w.bin")
    assert same(dict(sorted(read(tmp_path / "w.bin").items(), reverse=True)))


@pytest.mark.parametrize("save", [zipped, legacy])
def test_numpy_beside_the_weights_is_passed_over(tmp_path: Path, save: Callable[[Any, Path], None]) -> None:
    history = {"best": np.float64(0.91), "epoch": np.int64(3), "losses": np.arange(4.0), "names": np.array(["a", None], object)}
    save({"state_dict": STATE, **history}, tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_protocol_that_cannot_be_read_safely_is_reported(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "w.pt", pickle_protocol=4)
    with pytest.raises(SegkitError, match=r"w\.pt is pickled with another protocol"):
        read(tmp_path / "w.pt")


def test_numpy_of_old_versions_is_passed_over(tmp_path: Path) -> None:
    """numpy 1 had its scalars in another module."""
    legacy({"state_dict": STATE, "best": np.float64(0.5)}, tmp_path / "w.pt")
    new = (tmp_path / "w.pt").read_bytes()
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    (tmp_path / "w.pt").write_bytes(old)
    assert same(read(tmp_path / "w.pt"))


@pytest.mark.parametrize("save", [zipped, legacy])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Any, Path], None]) -> None:
    monkeypatch.chdir(tmp_path)
    save({"state_dict": STATE, "extra": Bomb()}, Path("evil.pt"))
    with pytest.raises(SegkitError, match=r"evil\.pt holds more than tensors, (posix|nt)\.system"):
        read(Path("evil.pt"))
    assert not Path("exploded").exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(SegkitError, match=r"evil\.pth"):
        read(Path("evil.pth"))
    assert not Path("exploded").exists()
    pickle.loads(Path("evil.pth").read_bytes())
    assert Path("exploded").exists()  # it would have been


def test_a_whole_network_is_refused_and_its_owner_is_reported_what_to_save(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(SegkitError, match=r"torch\.nn\.modules\.linear\.Linear(.|\n)*model\.state_dict\(\)"):
        read(tmp_path / "whole.pt")


PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 31\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (PAGE, "is a web page, not weights: the download needs a login or has moved"),
        (POINTER, "git lfs pull"),
        (b"PK\x03\x04 and then nothing", "cut short, damaged or no file of weights"),
        (b'\x10\0\0\0\0\0\0\0{"a": 1', "cut short, damaged or no file of weights"),
        (gzip.compress(bytes(4000)), "cut short, damaged or no file of weights"),
        (b"some notes about weights", "cut short, damaged or no file of weights"),
        ([1, 2], "holds a list, not a state dict"),
        ({"epoch": 3, "args": {"lr": 0.1}}, "it has epoch, args;   name the place with  key="),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(SegkitError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("save", [zipped, legacy, lambda content, path: save_file(content, path)])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_file_that_is_cut_short_is_called_so(tmp_path: Path, save: Callable[[Any, Path], None], share: float) -> None:
    path = tmp_path / "w.pt"
    save({"a": torch.rand(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(SegkitError, match=r"w\.pt is cut short, damaged"):
        read(path)


def test_a_checkpoint_of_segkit_gives_its_network_alone(trained: Path) -> None:
    model, *_ = load_model(trained)
    found, expected = read(trained / "checkpoints" / "best.ckpt"), model.network.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
