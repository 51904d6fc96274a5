"""`segkit plan`: the choices that a fingerprint leads to, and a preset that trains without an edit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.config import compose
from segkit.data.planning import Fingerprint, Machine, needs_slices, plan
from segkit.data.round_trip import RoundTrip
from tests.conftest import Cli

CPU = Machine("cpu", 8.0, 8 * 192 * 192, (16, 32, 64, 128, 256), 2500)
GPU = Machine("cuda", 40.0, 16 * 512 * 512, (32, 64, 128, 256, 512), 25_000)

IMAGES = Fingerprint(
    n=100, groups=80, dims=2, is_sliced=False, slices_per_volume=0,
    shape=(540, 800), aspect_spread=1.0,
    spacing_mm=(0.1, 0.1), spacing_spread=4.0, channels=1, dtype="uint8", is_ct=False, foreground=(3, 250),
    pixel_share={"head": 0.3}, diameter_px={"head": 400}, empty=0.0,
)  # fmt: skip
VOLUMES = replace(
    IMAGES, dims=3, shape=(120, 256, 256),
    spacing_mm=(1.0, 1.0, 1.0), spacing_spread=1.0, dtype="float32",
)  # fmt: skip


def chosen(seen: Fingerprint, machine: Machine = CPU, classes: tuple[str, ...] = ("head",)) -> dict[str, Any]:
    choices = plan(seen, machine, classes)
    assert all(choice.why for choice in choices)
    return {choice.key: choice.value for choice in choices}


def test_large_images_of_large_structures_are_made_smaller() -> None:
    found = chosen(IMAGES)
    rows, columns = found["preprocess.size"]
    assert rows * columns <= 1.15 * 192 * 192
    assert columns / rows == pytest.approx(800 / 540, rel=0.1)
    assert rows % 16 == columns % 16 == 0
    assert "sampling.patch" not in found
    assert "preprocess.spacing_mm" not in found  # bringing all to one size would undo it


def test_a_structure_that_would_vanish_is_seen_in_patches_at_full_resolution() -> None:
    found = chosen(replace(IMAGES, diameter_px={"head": 400, "teardrop": 12}))
    assert found["preprocess.size"] is None
    assert found["sampling.patch"] == [192, 192]
    assert found["sampling.patches_per_image"] == round(540 * 800 / 192**2)
    assert found["preprocess.spacing_mm"] == [0.1, 0.1]


def test_the_round_trip_of_masks_decides_where_it_is_measured() -> None:
    def measured(dice: float, thickness: float) -> dict[str, Any]:
        trip = RoundTrip(20, {"head": 0.99, "vessel": dice}, {"head": 100.0, "vessel": thickness})
        return {choice.key: choice for choice in plan(IMAGES, CPU, ("head", "vessel"), lambda size, fit: trip)}

    for found, why in (
        (measured(0.81, 4.0), "Dice 0.81 with themselves (vessel, lowest tenth of 20 cases)"),
        (measured(0.96, 1.2), "the thinnest structure measures 1.2 pixels"),
    ):
        assert found["preprocess.size"].value is None
        assert why in found["preprocess.size"].why
        assert found["sampling.patch"].value == [192, 192]
    kept = measured(0.97, 4.0)
    assert kept["preprocess.size"].value == [160, 240]
    assert "Dice 0.97" in kept["preprocess.size"].why
    assert "sampling.patch" not in kept


@pytest.mark.slow
def test_vessels_are_planned_in_patches_and_trained_so(segkit_in: Cli, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "eyes" / folder).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((480, 512), np.uint8)
        x = np.arange(512)
        for y in range(30, 470, 40):
            line = np.stack([x, y + 15 * np.sin(x / 20 + i)], axis=-1).round().astype(np.int32)
            cv2.polylines(mask, [line], False, 255, 3)
        for folder, pixels in (("images", 200 - mask // 2), ("masks", mask)):
            cv2.imwrite(str(tmp_path / "eyes" / folder / f"{i}.png"), pixels)
    labels = "data.labels={0: background, 255: vessel}"
    planned = segkit_in("plan", "data=folder", "data.root=eyes", labels, "name=eyes", "accelerator=cpu", "memory_gb=4")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert re.search(r"2\.6 times smaller, masks sent there and back keep Dice 0\.\d\d with themselves \(vessel", planned.stdout)
    assert "sampling.patch=[192, 192]" in planned.stdout
    trained = segkit_in("train", "experiment=eyes", "debug=fast")
    assert trained.returncode == 0, trained.stdout + trained.stderr


def test_small_images_keep_their_size() -> None:
    assert chosen(replace(IMAGES, shape=(100, 130)))["preprocess.size"] == [112, 144]


def test_shapes_that_differ_are_padded_not_distorted() -> None:
    assert chosen(replace(IMAGES, aspect_spread=1.6))["preprocess.fit"] == "pad"
    assert "preprocess.fit" not in chosen(IMAGES)


def test_hounsfield_units_get_a_window_and_other_volumes_their_own_percentiles() -> None:
    ct = chosen(replace(VOLUMES, is_ct=True, foreground=(-63.4, 180.2)))
    assert (ct["preprocess.scale"], ct["preprocess.window"], ct["preprocess.normalize"]) == ("window", [-63, 180], "dataset")
    mr = chosen(VOLUMES)
    assert (mr["preprocess.scale"], mr["preprocess.normalize"]) == ("percentiles", "volume")


def test_patches_of_volumes_fit_the_machine_and_never_exceed_the_volume() -> None:
    small, large = chosen(VOLUMES)["sampling.patch"], chosen(VOLUMES, GPU)["sampling.patch"]
    assert small[0] * small[1] * small[2] <= CPU.pixels // 2
    assert large[0] * large[1] * large[2] > small[0] * small[1] * small[2]
    assert all(p <= s for p, s in zip(large, VOLUMES.shape, strict=True))
    assert chosen(replace(VOLUMES, shape=(37, 50, 36)))["sampling.patch"] == [40, 56, 40]


def test_thick_slices_are_pooled_later_or_seen_one_by_one() -> None:
    pool = chosen(replace(VOLUMES, shape=(24, 256, 256), spacing_mm=(2.5, 1.0, 1.0)))["model.pool"]
    assert pool[0] == [1, 2, 2]
    assert needs_slices(replace(VOLUMES, spacing_mm=(5.0, 1.0, 1.0))) == "slices are 5.0 times thicker than their pixels"
    assert needs_slices(replace(VOLUMES, shape=(6, 256, 256))) == "only 6 slices a volume"
    assert needs_slices(VOLUMES) == ""


def test_batches_fit_the_memory() -> None:
    assert chosen(IMAGES, replace(CPU, memory_gb=0.2))["data.batch_size"] < chosen(IMAGES)["data.batch_size"]
    assert chosen(replace(IMAGES, n=10))["data.batch_size"] == 2


def test_rare_and_absent_structures_are_sampled_more_often() -> None:
    assert chosen(replace(VOLUMES, pixel_share={"lesion": 0.0004}))["sampling.foreground"] == 0.67
    assert chosen(replace(IMAGES, empty=0.6))["sampling.weights"] == "foreground"


@pytest.mark.parametrize(("classes", "flips"), [(("left_ilium", "sacrum"), False), (("kidney R",), False), (("bright", "upright"), True)])
def test_images_of_sided_structures_are_not_mirrored(classes: tuple[str, ...], flips: bool) -> None:
    assert ("augment.transforms.flip" not in chosen(IMAGES, classes=classes)) == flips


def test_the_written_preset_reads_like_one_and_trains_without_an_edit(segkit_in: Cli, tmp_path: Path) -> None:
    assert segkit_in("phantom", "output=heads", "n=12").returncode == 0
    (tmp_path / "heads" / "images").rename(tmp_path / "heads" / "pictures")
    planned = segkit_in(
        "plan", "data=folder", "data.root=heads", "data.source.images=pictures", "data.labels={0: background, 255: skull}", "name=mine"
    )
    assert planned.returncode == 0, planned.stdout + planned.stderr
    text = (tmp_path / "conf" / "experiment" / "mine.yaml").read_text()
    assert "#   segkit train experiment=mine" in text
    assert str(tmp_path / "heads") in text
    trained = segkit_in("train", "experiment=mine", "debug=fast")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert (next((tmp_path / "outputs" / "mine").iterdir()) / "cases.csv").read_text().count("skull")


def test_a_preset_is_not_overwritten_and_bad_data_is_not_planned_for(segkit_in: Cli, tmp_path: Path) -> None:
    segkit_in("phantom", "output=heads", "n=8")
    arguments = ("plan", "data=folder", "data.root=heads", "data.labels={0: background, 255: head}", "name=mine")
    assert segkit_in(*arguments).returncode == 0
    again = segkit_in(*arguments)
    assert again.returncode != 0
    assert "overwrite=true" in again.stdout + again.stderr
    next((tmp_path / "heads" / "masks").iterdir()).write_bytes(b"")
    broken = segkit_in(*arguments, "overwrite=true")
    assert broken.returncode != 0
    assert "zero bytes" in broken.stdout + broken.stderr


def test_the_choices_are_keys_that_a_training_knows() -> None:
    for seen in (IMAGES, VOLUMES, replace(VOLUMES, is_ct=True), replace(IMAGES, diameter_px={"head": 9}, empty=0.9)):
        for machine in (CPU, GPU):
            overrides = [
                f"{key}={str(value).replace(' ', '') if value is not None else 'null'}" for key, value in chosen(seen, machine).items()
            ]
            assert compose.compose("train", overrides)  # raises ProblemsFound otherwise
