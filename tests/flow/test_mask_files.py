"""Masks that are files already are judged as a network's are: found by their case, in the values of the data, on the image's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
import tifffile

from segkit.cli.evaluate import evaluate
from segkit.cli.predict import predict
from segkit.config import compose
from segkit.data.audit.audit import load_labelled
from segkit.data.case import Manifest, encoded_mask
from segkit.data.phantoms.base import write_png
from segkit.inference.evaluation import Result
from segkit.inference.inputs import of_cases
from segkit.inference.writers.masks import write_mask
from segkit.system.errors import ProblemsFound, SegkitError

LAYOUTS = {
    "folder": (),
    "hc18": (),  # truth is an outline
    "labelme": (),  # classes overlap: a file each
    "pelvis": (),  # 2-D NIfTI
    "isbi_em": (),  # slices, a file each
    "decathlon": (),  # slices of NIfTI volumes
    "nnunet": ("data.dims=3",),  # volumes, whose images are called CASE_0000
    "uw_madison": ("data.dims=3",),  # volumes of pictures, a picture each
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def phantom(name: str, *more: str, n: int = 6) -> tuple[Manifest, Any]:
    cfg = composed("audit", f"data={name}", f"data.phantom_n={n}", *more)
    return load_labelled(cfg.data, 0, cache_dir=Path("outputs/.cache")), cfg.data


def write_truth(manifest: Manifest, orient: str | None, folder: Path) -> None:
    """As `segkit predict` would, of a perfect network."""
    labels = manifest.labels
    for job in of_cases(manifest):
        masks = [encoded_mask(case, labels) for case in job.cases]
        mask = np.stack(masks, axis=masks[0].ndim - 2) if job.is_stack(job.cases) else masks[0]
        for path, part in zip(job.files(folder), job.split(mask, labels.overlap), strict=True):
            write_mask(path, part, labels, job.like, orient or "LPS")


def composed(command: str, *keys: str) -> Any:
    return compose.compose(command, keys)


def judge(*keys: str) -> Result:
    return evaluate(composed("evaluate", "masks=masks", *keys))


@pytest.fixture
def boxes(here: Path) -> Path:
    """Ten images of 20 x 30 whose truth is a box of 100 pixels, and masks that find 80 of them."""
    for i in range(1, 11):
        write_png(here / f"set/images/{i}.png", np.random.default_rng(i).integers(0, 255, (20, 30), np.uint8))
        box = np.zeros((20, 30), np.uint8)
        box[5:15, 5:15] = 255
        write_png(here / f"set/masks/{i}.png", box)
        box[5:7] = 0
        write_png(here / f"masks/{i}.png", box)
    return here


BOXES = ("data=folder", "data.root=set")


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_predict_writes_of_a_layout_is_found_again(name: str, here: Path) -> None:
    manifest, data = phantom(name, *LAYOUTS[name])
    write_truth(manifest, data.source.get("orient"), here / "masks")
    result = judge(f"data={name}", "data.phantom_n=6", *LAYOUTS[name])
    overall = result.summary.line("dice")
    assert (overall.mean, overall.n, overall.missing) == (1.0, len(manifest), 0)
    assert sorted(path.name for path in result.folder.iterdir()) == ["cases.csv", "examples", "samples.png", "summary.json"]


def test_pages_of_a_stack_are_a_picture_each(here: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (5, 40, 50), np.uint8)
    (here / "em").mkdir()
    tifffile.imwrite(here / "em/train-volume.tif", drawn)
    tifffile.imwrite(here / "em/train-labels.tif", np.where(drawn > 100, 255, 0).astype(np.uint8))
    manifest, _ = phantom("isbi_em", "data.root=em")
    write_truth(manifest, None, here / "masks")
    assert len(list((here / "masks").glob("*.png"))) == 5
    assert judge("data=isbi_em", "data.root=em").summary.line("dice").mean == 1.0


def test_masks_are_evaluated_by_the_metric_that_is_asked_for(boxes: Path) -> None:
    result = judge(*BOXES, "metric=surface", "metric.cases.surface.unit=px", "output=judged")
    assert result.folder == Path("judged")
    assert result.summary.line("dice").mean == pytest.approx(2 * 80 / 180)
    assert result.summary.line("hd_px").mean == pytest.approx(2.0)
    assert judge(*BOXES).summary.line("dice").n == 10


def test_masks_of_a_folder_of_images_are_called_as_these(here: Path) -> None:
    """In the folders of the images; also where the case is called otherwise."""
    manifest, _ = phantom("uw_madison")
    for case in manifest:
        place = case.image.paths[0].relative_to(manifest.root / "train").with_suffix("")
        planes = encoded_mask(case, manifest.labels)
        write_mask(here / "masks" / f"{place}.png", planes, manifest.labels)
    write_png(here / "masks" / f"{place}_overlay.png", planes[0])  # what lies beside is no mask
    assert judge("data=uw_madison", "data.phantom_n=6").summary.line("dice").mean == 1.0


def test_masks_for_a_part_of_the_cases_say_which_lack(boxes: Path) -> None:
    for i in range(3, 11):
        (boxes / f"masks/{i}.png").unlink()
    with pytest.raises(ProblemsFound, match=r"holds no mask of 8 of 10 cases: 3, 4, 5, 6, 7 and 3 more;   .*partial=true") as refused:
        judge(*BOXES)
    assert len(refused.value.problems) == 1
    assert not (boxes / "outputs/masks").exists()
    assert judge(*BOXES, "partial=true").summary.line("dice").n == 2
    excluded = ",".join(f'"{i}"' for i in range(3, 11))
    assert judge(*BOXES, f"data.exclude=[{excluded}]").summary.line("dice").n == 2


def test_reference_with_other_names_says_both(boxes: Path) -> None:
    for i in range(1, 11):
        (boxes / f"masks/{i}.png").rename(boxes / f"masks/scan{i}.png")
    for more in ((), ("partial=true",)):
        with pytest.raises(ProblemsFound) as refused:
            judge(*BOXES, *more)
        told = str(refused.value)
        assert "holds no mask of 10 of 10 cases: 1, 2, 3, 4, 5 and 5 more;   name each mask by its case" in told
        assert "holds 10 masks of no labelled case: scan1, scan2, scan3, scan4, scan5 and 5 more" in told


def test_a_mask_of_another_size_names_the_file(boxes: Path) -> None:
    write_png(boxes / "masks/4.png", np.zeros((20, 31), np.uint8))
    with pytest.raises(SegkitError, match=r"masks/4\.png is 20 x 31, its image 4\.png 20 x 30"):
        judge(*BOXES)
    assert not (boxes / "outputs/masks").exists()


def test_values_that_the_data_does_not_have_are_no_background(boxes: Path) -> None:
    write_png(boxes / "masks/4.png", np.ones((20, 30), np.uint8))
    with pytest.raises(SegkitError, match=r"masks/4\.png holds 1, but masks of this data hold 0, 255;   write it in these values"):
        judge(*BOXES)


def test_a_volume_on_another_grid_is_refused(here: Path) -> None:
    manifest, _ = phantom("decathlon", "data.dims=3")
    write_truth(manifest, "LPS", here / "masks")
    first, second, *_ = sorted((here / "masks").glob("*.nii.gz"))
    image: Any = nib.load(first)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([2, 1, 1, 1])), first)
    other: Any = nib.load(second)
    nib.save(nib.Nifti1Image(np.asarray(other.dataobj)[1:], other.affine), second)
    with pytest.raises(ProblemsFound) as refused:
        judge("data=decathlon", "data.dims=3", "data.phantom_n=6")
    assert [Path(problem.where).name for problem in refused.value.problems] == [first.name, second.name]
    assert "spacing" in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("masks=masks",), "is needed: what the masks are of;   add  data=NAME data.root=FOLDER"),
        (("masks=masks", "ckpt=x", *BOXES), "and ckpt exclude each other;   leave one out: ckpt or masks"),
        (("masks=nowhere", *BOXES), "masks=nowhere is not a folder"),
        (("masks=masks", *BOXES, "subset=test"), "of another data set all cases are evaluated"),
        (("masks=masks", "data=foldr", "data.root=set"), "foldr is not a valid option; did you mean folder?"),
    ],
)
def test_what_does_not_go_together(keys: tuple[str, ...], told: str, boxes: Path) -> None:
    with pytest.raises(SegkitError) as refused:
        evaluate(composed("evaluate", *keys))
    assert told in str(refused.value)


def test_masks_of_a_checkpoint_have_its_scores(trained: Path, here: Path) -> None:
    """And a checkpoint can be asked for another metric than its own."""
    manifest, _ = phantom("phantom", n=4)
    assert predict(composed("predict", f"ckpt={trained}", f"input={manifest.root}/images", "output=masks", "overlays=true")) == 0
    data = ("data=phantom", f"data.root={manifest.root}", "metric=confusion")
    one, other = (evaluate(composed("evaluate", what, *data, f"output={what[:4]}")) for what in (f"ckpt={trained}", "masks=masks"))
    assert (one.folder / "cases.csv").read_text() == (other.folder / "cases.csv").read_text()
    assert "precision" in (one.folder / "cases.csv").read_text()
    assert cv2.imread(str(other.folder / "samples.png")) is not None
