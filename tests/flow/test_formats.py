"""Predictions in other formats through the command line, from a data set in its layout to files that others read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from segkit.data.io import rle
from tests.conftest import SMALL, Cli, run_segkit

N = 12
CASES = {
    "hc18": ("data=hc18", "hc18_submission.csv"),
    "uw_madison": ("data=uw_madison", "uw_madison_submission.csv"),
    "nerve": ("data=nerve", "nerve_submission.csv"),
    "labelme": ("data=hc18", ""),
    "dicom_seg": ("data=dicom", ""),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.mark.parametrize(
    "name", ["hc18", "labelme", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dicom_seg", "nerve", "uw_madison"))]
)
def test_a_prediction_of_a_data_set_in_another_format(name: str, place: Path, tmp_path: Path) -> None:
    data, table = CASES[name]
    layout = data.removeprefix("data=")
    images, run = place / layout, place / "outputs" / layout / "r"
    if not run.exists():  # two formats share one training
        own = [key for key in SMALL if not key.startswith(("data", "name"))]
        done = run_segkit(place, "phantom", data, f"output={images}", f"n={N}")
        assert done.returncode == 0, done.stderr
        keys = (f"data.root={images}", *own, f"name={layout}", "run=r", "debug=fast", "data.batch_size=2")
        done = run_segkit(place, "train", data, *keys)
        assert done.returncode == 0, done.stdout + done.stderr
    words = ("predict", f"ckpt={run}", f"data.root={images}", "output=masks", f"formats=[{name}]")
    done = run_segkit(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    masks = tmp_path / "masks"
    assert list(masks.rglob("*.png"))
    if table:
        with (masks / table).open() as file:
            rows = list(csv.reader(file))
        assert len(rows) > N / 2
        if name == "nerve":
            assert rows[0] == ["img", "pixels"]
            assert all(rle.decode(code, 420, 580, "columns").shape == (420, 580) for _, code in rows[1:3] if code)
    elif name == "labelme":
        document = json.loads(min(masks.glob("[!.]*.json")).read_text())
        assert {"shapes", "imagePath", "imageHeight"} <= set(document)
        assert (masks / document["imagePath"]).resolve().is_file()
    else:
        import pydicom

        (seg, *_) = sorted(masks.rglob("*.dcm"))
        assert pydicom.dcmread(seg).Modality == "SEG"
    assert "0 masks written" in run_segkit(tmp_path, *words).stdout


def test_a_format_that_cannot_hold_the_images_is_refused_before_anything_is_predicted(
    trained: Path, segkit_in: Cli, tmp_path: Path
) -> None:
    assert segkit_in("phantom", "data=phantom", "output=images", "n=2").returncode == 0
    done = segkit_in("predict", f"ckpt={trained}", "input=images/images", "output=masks", "formats=[dicom_seg]")
    assert done.returncode == 2
    assert "dicom_seg cannot be written" in done.stderr
    assert not (tmp_path / "masks").exists()
