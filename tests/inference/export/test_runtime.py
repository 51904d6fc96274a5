"""What is opened in the place of a checkpoint, what is refused, and what a hostile file cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segkit
from segkit.inference.export import card, runtime
from segkit.inference.export.graph import OUTPUTS
from segkit.system.errors import SegkitError
from tests.conftest import Cli, run_segkit

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8)


@pytest.fixture(scope="module")
def files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an ONNX and a TorchScript export."""
    cwd = tmp_path_factory.mktemp("exported")
    for fmt in ("onnx", "torchscript"):
        done = run_segkit(trained.parents[2], "export", f"ckpt={trained}", f"format={fmt}", f"output={cwd}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "images     3 validation images" in done.stdout
        assert "images/s   torch fp32 " in done.stdout
    return cwd


@pytest.fixture
def copied(files: Path, tmp_path: Path) -> Path:
    """Files to damage."""
    for file in files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_file_predicts_what_its_checkpoint_does(trained: Path, files: Path) -> None:
    ours = segkit.load(trained, precision="32").predict(IMAGE)
    for name in ("", "model.onnx", "model.torchscript"):  # a folder holds one network
        theirs = segkit.load(files / name).predict(IMAGE)
        assert np.abs(ours.probs - theirs.probs).max() < 1e-4
        assert np.array_equal(ours.mask, theirs.mask)


def test_the_card_says_what_the_file_takes_and_gives(files: Path) -> None:
    section = json.loads((files / "model.onnx.json").read_text())["export"]
    assert section["image"] == "(batch, 1, rows, columns) float32, 0 to 1 (8-bit images over 255)"
    assert section["mask"] == "(batch, rows, columns) uint8, class indices, 0 is background"
    assert section["classes"] == ["head"]
    assert section["parity"]["largest"] < 1e-4


def test_the_class_of_the_network_is_not_asked_for(copied: Path) -> None:
    """It is in the file: where it was somebody's own, their package need not be here."""
    file = copied / "model.onnx"
    edit(card.card_of(file), lambda content: content["config"].update(model={"_target_": "mynets.Net"}))  # type: ignore[attr-defined]
    assert segkit.load(file).labels.classes == ("head",)


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def without_hash(path: Path) -> None:
    """As of a file that somebody has worked on."""
    edit(card.card_of(path), lambda content: content["export"].update(sha256=None))  # type: ignore[attr-defined]


def test_damaged_and_foreign_files_are_one_line(copied: Path) -> None:
    onnx, script = copied / "model.onnx", copied / "model.torchscript"
    whole = onnx.read_bytes()
    onnx.write_bytes(whole[:-100])
    refused(onnx, "is damaged, or was changed after it was written")
    without_hash(onnx)
    refused(onnx, "cannot be opened by OnnxRuntime")
    onnx.write_bytes(whole.replace(b"probabilities", b"probabilitiez"))
    refused(onnx, r"it maps image -> probabilitiez, mask, not image -> probabilities, mask")
    script.write_bytes(script.read_bytes()[:500])
    without_hash(script)
    refused(script, "is damaged")
    edit(copied / "model.onnx.json", lambda content: content.pop("export"))
    refused(onnx, "has no section export")
    (copied / "model.onnx.json").unlink()
    refused(onnx, r"has no card model.onnx.json beside it.*segkit export ckpt=RUN")


def refused(path: Path, words: str) -> None:
    with pytest.raises(SegkitError, match=words) as caught:
        segkit.load(path)
    assert "\n" not in str(caught.value)


class Writer(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        torch.save(image, "exploded")
        return image, image


def test_a_script_that_writes_files_is_not_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    path = copied / "model.torchscript"
    with pytest.warns(FutureWarning):  # deprecated, and what an attacker would use
        torch.jit.script(Writer()).save(str(path))  # type: ignore[no-untyped-call]
    without_hash(path)
    refused(path, "names save, which no exported network needs: it is refused")
    assert not Path("exploded").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_spelling_hides_the_code_of_a_script(tmp_path: Path) -> None:
    path = tmp_path / "model.torchscript"
    for names, message in {
        ("m/code/a.py", "m/code/b.PY"): "names save, which no exported network needs",
        ("m/code/a.py", "m/code/a.py"): "holds two files of one name",
        ("m/code/a.py", "M/code/A.Py"): "holds two files of one name",
    }.items():
        with zipfile.ZipFile(path, "w") as archive:
            for name, code in zip(names, ("x = 1", "torch.save(x)"), strict=True):
                archive.writestr(name, code)
        with pytest.raises(SegkitError, match=message):
            runtime.TorchScript.check(path, ())


def test_a_pickle_in_a_pt2_is_not_opened_without_consent(copied: Path) -> None:
    (copied / "model.pt2").write_bytes(b"anything")
    (copied / "model.pt2.json").write_bytes((copied / "model.onnx.json").read_bytes())
    without_hash(copied / "model.pt2")
    refused(copied / "model.pt2", r"if you trust this file, add  'allow_targets=\[torch.export\]'")


def test_what_an_exported_file_cannot_be_used_for(files: Path, segkit_in: Cli) -> None:
    for words, message in {
        ("share", "output=x"): "is an exported network",
        ("calibrate",): "is an exported network;   calibrate the checkpoint",
        ("export", "output=x"): "is an exported network",
        ("evaluate", "hardware.accelerator=gpu"): "runs on the processor",
        ("predict", "input=x", "output=y", "hardware.precision=bf16"): "has its own precision",
    }.items():
        done = segkit_in(words[0], f"ckpt={files / 'model.onnx'}", *words[1:])
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_package_names_the_line_that_installs_it(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(files / "model.onnx", r"needs the package onnxruntime;   pip install onnx onnxscript onnxruntime openvino")


def test_a_file_of_one_size_takes_smaller_images_one_at_a_time() -> None:
    class Echo(runtime.Runtime):
        def __init__(self) -> None:
            self.shapes: list[tuple[int, ...]] = []

        def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.shapes.append(images.shape)
            return images, (images[:, 0] > 0.5).astype(np.uint8)

    fields = {"format": "onnx", "precision": "fp32", "size": (8, 8), "batch": 1, "classes": ["a"], **dict.fromkeys(("image", *OUTPUTS), "")}
    echo = Echo()
    model = runtime.ExportedModel(echo, card.Exported.model_validate(fields))
    image = torch.randint(0, 256, (3, 1, 5, 8), dtype=torch.uint8)
    assert torch.equal(model(image), image.float() / 255)
    assert echo.shapes == [(1, 1, 8, 8)] * 3
    with pytest.raises(SegkitError, match=r"takes windows of \[8, 8\], not of \[9, 8\]"):
        model(torch.zeros(1, 1, 9, 8))


@pytest.mark.slow
def test_checkpoints_need_no_package_of_the_exports(trained: Path) -> None:
    code = f"""
import sys, numpy, segkit, segkit.training.train, segkit.cli.predict, segkit.cli.export
segkit.load({str(trained)!r}).predict(numpy.zeros((50, 60), numpy.uint8))
print(sorted({{"onnx", "onnxscript", "onnxruntime", "openvino"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
