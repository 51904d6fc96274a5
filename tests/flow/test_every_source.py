"""Every layout, from its phantom to masks on the original grid: what a new user does first with a data set of that kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

import segkit
from segkit.cli.audit import command as audit
from segkit.cli.phantom import command as phantom
from segkit.cli.predict import predict
from segkit.config import compose
from segkit.data.audit.audit import inspect
from segkit.data.case import Case, Manifest, encoded_mask
from segkit.data.manifest import find
from segkit.inference.predictor import load
from tests.conftest import QUICK

SOURCES = sorted(file.stem for file in (compose.CONF / "data").glob("*.yaml") if not file.name.startswith("_"))
N = {"decathlon": 4, "nnunet": 4, "brats": 4}
"""Volumes; of all others twelve images."""
TRAINED = ("decathlon", "dicom")
"""By the fast tests."""
SMALL = (
    *QUICK,
    "model=unet_light",
    "model.widths=[8,16]",
    "trainer.accelerator=cpu",
    "debug=fast",
    "split=holdout",
    "split.val_fraction=0.25",
)


def size_of(name: str) -> str:
    dims = compose.compose("train", [f"data={name}"]).data.dims  # type: ignore[attr-defined]
    return "preprocess.size=[32,32]" if dims == 2 else "preprocess.size=[8,32,32]"


@pytest.fixture(scope="module", params=SOURCES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A phantom as `segkit phantom` writes it."""
    name: str = request.param
    root = tmp_path_factory.mktemp(name) / "set"
    assert phantom(compose.compose("phantom", [f"data={name}", f"n={N.get(name, 12)}", f"output={root}"])) == 0  # type: ignore[arg-type]
    return name, root


def test_its_phantom_audits_clean(made: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, root = made
    code = audit(compose.compose("audit", [f"data={name}", f"data.root={root}", f"output={tmp_path}"]))  # type: ignore[arg-type]
    problems = json.loads((tmp_path / "audit.json").read_text())["problems"]
    assert code == 0
    assert [p for p in problems if p["severity"] != "note"] == []


@pytest.mark.parametrize(
    "made", [pytest.param(name, marks=[] if name in TRAINED else [pytest.mark.slow]) for name in SOURCES], indirect=True, scope="module"
)
def test_a_network_trains_on_it_and_its_masks_come_back_on_the_original_grid(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root = made
    monkeypatch.chdir(tmp_path)
    result = segkit.train(f"data={name}", f"data.root={root}", size_of(name), *SMALL, f"name={name}")
    assert (result.folder / "cases.csv").is_file()
    assert result.summary.line("dice").n > 0

    predictor = load(result.ckpt)
    for case in some_cases(name, root):
        found = predictor.predict(case)
        assert found.mask.shape[-case.dims :] == case.image.read().shape[:-1]

    assert run_predict(result.ckpt, root, tmp_path / "masks") == 0
    written = [path for path in (tmp_path / "masks").rglob("*") if path.suffix in (".png", ".gz", ".tif", ".nii")]
    assert written
    again = run_predict(result.ckpt, root, tmp_path / "masks")
    assert again == 0


def run_predict(ckpt: Path, root: Path, output: Path) -> Any:
    """The data set itself as the input."""
    cfg: Any = compose.compose("predict", [f"ckpt={ckpt}", f"output={output}", f"data.root={root}"])
    return predict(cfg)


def some_cases(name: str, root: Path) -> list[Case]:
    cfg: Any = compose.compose("train", [f"data={name}", f"data.root={root}"])
    cases = find(cfg.data, 0, (), root / ".cache").cases
    return [cases[0], cases[-1]]


def test_its_reference_is_not_what_a_threshold_finds(made: tuple[str, Path]) -> None:
    """Otsu's threshold, on the better side and channel, over all structures together; mean Dice below 0.8."""
    name, root = made
    cfg: Any = compose.compose("train", [f"data={name}", f"data.root={root}"])
    manifest = inspect(cfg.data, None, 0, (), root / ".cache").labelled
    known = [score for case in manifest if (score := best_threshold_dice(case, manifest)) is not None]
    assert known
    assert np.mean(known) < 0.8


def best_threshold_dice(case: Case, manifest: Manifest) -> float | None:
    truth = manifest.labels.planes(encoded_mask(case, manifest.labels)).any(axis=0)
    if not truth.any():
        return None
    scores = []
    for channel in np.moveaxis(case.image.read().astype(np.float32), -1, 0):
        grey = cv2.normalize(channel.reshape(len(channel), -1), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
        above = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)[1].reshape(truth.shape) > 0
        scores += [2 * (found & truth).sum() / (found.sum() + truth.sum()) for found in (above, ~above)]
    return float(max(scores))


VIEWS = [
    pytest.param("uw_madison", "data.dims=3", marks=pytest.mark.slow),
    pytest.param("dicom", "data.dims=3", marks=pytest.mark.slow),
    pytest.param("lgg", "data.dims=3", marks=pytest.mark.slow),
    pytest.param("brats", "data.dims=2", marks=pytest.mark.slow),  # as decathlon, with regions
    ("decathlon", "data.dims=2 data.neighbours=[-1,0,1]"),
    ("uw_madison", "data.neighbours=[-2,0,2]"),
]


@pytest.mark.parametrize(("name", "keys"), VIEWS)
def test_slices_train_as_volumes_and_volumes_as_slices(name: str, keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same manifest in 2-D, 2.5-D and 3-D; predictions return where they came from."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "set"
    phantom(compose.compose("phantom", [f"data={name}", f"n={N.get(name, 12)}", f"output={root}"]))  # type: ignore[arg-type]
    size = "preprocess.size=[8,32,32]" if "dims=3" in keys else "preprocess.size=[32,32]"
    result = segkit.train(f"data={name}", f"data.root={root}", *keys.split(), size, *SMALL, "data.batch_size=2")
    assert run_predict(result.ckpt, root, tmp_path / "masks") == 0
    volumes = sorted((tmp_path / "masks").rglob("*.nii*"))
    if name == "decathlon":  # slices become the volume's mask again, on its own grid
        originals = sorted(path for path in (root / "labelsTr").iterdir() if not path.name.startswith("."))
        assert [path.name for path in volumes] == [path.name for path in originals]
        for mine, theirs in zip(volumes, originals, strict=True):
            assert nibabel.load(mine).shape == nibabel.load(theirs).shape  # type: ignore[attr-defined]
            assert np.allclose(nibabel.load(mine).affine, nibabel.load(theirs).affine)  # type: ignore[attr-defined]
