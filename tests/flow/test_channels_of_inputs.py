"""Gray and color images meet checkpoints of the other kind: converted where nothing is lost, said once, else refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import segkit
from segkit.system.errors import SegkitError
from tests.conftest import SMALL, Cli, run_segkit


def gray_and_rgb(folder: Path) -> None:
    """The same two pictures in one channel, as equal RGB, and with alpha."""
    for i in range(2):
        gray = cv2.GaussianBlur(np.random.default_rng(i).integers(0, 255, (48, 64), np.uint8), (0, 0), 3)
        images = {"gray": gray, "rgb": cv2.merge([gray] * 3), "rgba": cv2.merge([*[gray] * 3, np.full_like(gray, 255)])}
        for name, image in images.items():
            path = folder / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    (folder / "color").mkdir()
    cv2.imwrite(str(folder / "color/0.png"), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


def masks(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def test_pictures_of_three_equal_channels_meet_a_gray_checkpoint(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    gray_and_rgb(tmp_path)
    for name in ("gray", "rgb", "rgba"):
        done = segkit_in("predict", f"ckpt={trained}", f"input={name}", f"output=of_{name}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("channels   this checkpoint takes gray") == int(name != "gray")
    assert masks(tmp_path / "of_gray") == masks(tmp_path / "of_rgb") == masks(tmp_path / "of_rgba")
    assert len(masks(tmp_path / "of_gray")) == 2


def test_color_is_refused_by_a_gray_checkpoint_unless_its_luminance_is_typed(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    gray_and_rgb(tmp_path)
    line = ("predict", f"ckpt={trained}", "input=color", "output=masks")
    done = segkit_in(*line)
    assert done.returncode == 1
    said = "color/0.png   is a color image, but this checkpoint takes gray ones;   to read color as gray (its luminance):  data.channels=1"
    assert said in done.stdout
    done = segkit_in(*line, "data.channels=1")
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(SegkitError, match="is a color image"):
        segkit.load(trained).predict(tmp_path / "color/0.png")
    assert segkit.load(trained, channels=1).predict(tmp_path / "color/0.png").mask.shape == (48, 64)


def test_other_numbers_of_channels_are_refused_as_ever(trained: Path) -> None:
    with pytest.raises(SegkitError, match="trained on 1-channel images"):
        segkit.load(trained).predict(np.zeros((48, 64, 4), np.uint8))


@pytest.mark.parametrize(
    ("kind", "most", "said"),
    [(np.uint8, 200, ""), (np.uint16, 4000, "0 to 65535"), (np.float32, 200, "the range of each image"), (np.float32, 1, "")],
)
def test_numbers_of_another_type_than_those_of_the_training_are_told_once(
    kind: type[np.generic], most: int, said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = (np.linspace(0, 1, 48 * 64).reshape(48, 64) * most).astype(kind)
    assert len(list(segkit.load(trained).predict_all([image, image, image]))) == 3
    text = " ".join(capsys.readouterr().out.split())
    told = f"warning the image holds {image.dtype} (0 to {most}), of which preprocess.scale=auto maps {said} to 0..1;"
    assert text.count(told) == text.count("warning") == int(bool(said))


def test_what_is_no_image_is_refused(trained: Path) -> None:
    with pytest.raises(SegkitError, match="not list"):
        segkit.load(trained).predict([[1, 2], [3, 4]])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def of_color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on gray pictures read as color."""
    cwd = tmp_path_factory.mktemp("color")
    done = run_segkit(cwd, "train", *SMALL, "run=first", "data.channels=3", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "outputs/small/first"


def test_gray_pictures_meet_a_checkpoint_for_color(of_color: Path, tmp_path: Path, segkit_in: Cli) -> None:
    assert segkit.load(of_color).metadata.channels == 3
    gray_and_rgb(tmp_path)
    for name in ("gray", "rgb"):
        done = segkit_in("predict", f"ckpt={of_color}", f"input={name}", f"output=of_{name}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert masks(tmp_path / "of_gray") == masks(tmp_path / "of_rgb")
    done = segkit_in("evaluate", f"ckpt={of_color}", "data=phantom", "data.phantom_n=4", "data.channels=auto", "output=scores")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("channels   this checkpoint takes color: gray is repeated") == 1


def test_a_scan_is_not_taken_for_a_gray_picture_of_three_modalities(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    """A checkpoint of three channels may want three modalities: a volume of one is no picture in gray."""
    nib.save(nib.Nifti1Image(np.zeros((64, 48, 1), np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    predictor = segkit.load(trained)
    predictor.metadata = predictor.metadata.__class__(**{**vars(predictor.metadata), "channels": 3})
    with pytest.raises(SegkitError, match=r"trained on 3-channel images .*channels in files of their own are read with  data.root=FOLDER"):
        predictor.predict(tmp_path / "scan.nii.gz")


def test_an_image_without_a_single_number_is_named_and_the_others_are_predicted(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    (tmp_path / "scans").mkdir()
    for name, value in (("void", np.nan), ("void_2", np.nan), ("some", np.inf)):
        volume = np.full((64, 48, 3), value, np.float32)
        volume[..., 1:] = np.nan if name != "some" else np.random.default_rng(0).random((64, 48, 2))
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"scans/{name}.nii.gz")
    done = segkit_in("predict", f"ckpt={trained}", "input=scans", "output=masks")
    assert done.returncode == 1
    assert "2 images could not be predicted:\n  scans/void.nii.gz and 1 more   every value is NaN or infinite\n" in done.stdout
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["some.nii.gz"]


def test_a_series_of_volumes_is_refused_in_one_line(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    nib.save(nib.Nifti1Image(np.zeros((64, 48, 3, 5), np.float32), np.eye(4)), tmp_path / "time.nii.gz")
    done = segkit_in("predict", f"ckpt={trained}", "input=time.nii.gz", "output=masks")
    assert done.returncode == 1
    said = "is 4-D: 5 volumes in one file (time points?), but this checkpoint takes 1 channel;   save each volume as a file of its own"
    assert said in done.stdout


def test_masks_of_turned_pictures_lie_on_the_grid_that_viewers_show(trained: Path, tmp_path: Path, segkit_in: Cli) -> None:
    """A picture and a copy whose pixels are turned instead get the same mask."""
    (tmp_path / "scans").mkdir()
    upright = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8), (0, 0), 3)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(upright).save(tmp_path / "scans/upright.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "scans/turned.png", exif=exif)
    done = segkit_in("predict", f"ckpt={trained}", "input=scans", "output=masks")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [cv2.imread(str(tmp_path / f"masks/{name}.png"), cv2.IMREAD_UNCHANGED) for name in ("upright", "turned")]
    assert found[0].shape == (48, 64)
    assert np.array_equal(*found)
