"""Masks as people have them: blurred, compressed, of half the size, with fractions, NaN, negative values or many classes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

from segkit.data import statistics as statistics_module
from segkit.data.labels import MAX_CLASSES, color_of
from segkit.data.mask_values import cut_between_clusters
from segkit.data.quantiles import PERCENTILES, quantiles
from segkit.data.structures import structures
from tests.runner import Cli, run_segkit

Array = np.ndarray


def disc(i: int, size: int = 64) -> tuple[Array, Array]:
    random = np.random.default_rng(i)
    y, x = np.mgrid[:size, :size]
    inside = (y - random.integers(24, 40)) ** 2 + (x - random.integers(24, 40)) ** 2 < random.integers(8, 15) ** 2
    return (40 + 120 * inside + random.normal(0, 8, inside.shape)).clip(0, 255).astype(np.uint8), inside


def blurred(mask: Array) -> Array:
    small = cv2.resize(mask.astype(np.uint8) * 255, (21, 21), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)


def levels(mask: Array) -> Array:
    """An anti-aliased border of nine values, as downscaled drawings have."""
    soft = blurred(mask)
    return np.where((soft > 0) & (soft < 255), soft // 32 * 32, soft).astype(np.uint8)


@dataclass
class Set:
    """A folder of pairs, what `segkit audit` prints about it, and the lines that it says to type."""

    root: Path

    def fill(self, change: Callable[[Array], Array], suffix: str = ".png", n: int = 8) -> Set:
        for i in range(n):
            image, inside = disc(i)
            self.write(f"images/c{i}.png", image)
            self.write(f"masks/c{i}{suffix}", change(inside))
        return self

    def write(self, name: str, pixels: Array) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix_is_volume(name):
            nib.save(nib.Nifti1Image(pixels[..., None] if pixels.ndim == 2 else pixels, np.eye(4)), path)  # type: ignore[no-untyped-call]
        else:
            assert cv2.imwrite(str(path), pixels)

    def audit(self, *overrides: str, data: str = "folder") -> tuple[int, str]:
        done = run_segkit(self.root, "audit", f"data={data}", f"data.root={self.root}", *overrides)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout

    def typed(self, *before: str, data: str = "folder") -> tuple[str, list[str]]:
        """What is printed, and the words of the one line that it says to add, as a shell splits them; typed, it works."""
        code, said = self.audit(*before, data=data)
        assert code == 1, said
        line = next(line for line in said.splitlines() if "-> " in line).split("-> ")[1].removeprefix("add  ").split("   (")[0]
        words = shlex.split(line)
        kept = [word for word in before if not word.startswith(tuple(f"{other.split('=')[0]}=" for other in words))]
        code, after = self.audit(*kept, *words, data=data)
        assert code == 0, after
        assert "0 errors" in after
        return said, words


def suffix_is_volume(name: str) -> bool:
    return name.endswith((".nii", ".nii.gz"))


@pytest.fixture
def pairs(tmp_path: Path) -> Set:
    return Set(tmp_path / "set")


@pytest.mark.parametrize("data", ["folder", pytest.param("csv", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("change", "suffix"),
    [
        pytest.param(blurred, ".png", marks=pytest.mark.slow),
        pytest.param(levels, ".png", marks=pytest.mark.slow),
        (lambda mask: mask.astype(np.uint8) * 255, ".jpg"),
    ],
)
def test_blurred_and_jpeg_masks_are_one_finding_with_the_threshold_to_type(
    change: Callable[[Array], Array], suffix: str, data: str, pairs: Set
) -> None:
    pairs.fill(change, suffix)
    rows = "\n".join(f"images/c{i}.png,masks/c{i}{suffix}" for i in range(8))
    (pairs.root / "cases.csv").write_text(f"image,mask\n{rows}\n")
    said, words = pairs.typed(data=data)
    assert "1 error, " in said
    assert "smoothed" not in said
    assert "(in 8 masks)" in said
    assert words == ["data.source.threshold=128"]
    wrong = pairs.typed("data.labels={0: background, 1: head}", data=data)[1]
    assert wrong == ["data.source.threshold=128", "data.labels={0: background, 255: head}"]


def test_one_jpeg_among_sound_label_maps_asks_for_no_threshold(pairs: Set) -> None:
    pairs.fill(lambda mask: mask.astype(np.uint8))
    pairs.write("masks/c3.png", blurred(disc(3)[1]))
    _, said = pairs.audit("data.labels={0: background, 1: head}")
    assert "masks/c3.png" in said
    assert "threshold=" not in said
    assert pairs.audit("data.labels={0: background, 1: head}", "data.exclude=[c3]")[0] == 0
    assert "data.exclude='[\"c3\"]'" in said


@pytest.mark.parametrize(
    "counts",
    [
        dict.fromkeys(range(101), 100),  # label maps: closely numbered classes
        {0: 9000, **dict.fromkeys(range(1, 21), 200), 255: 300},  # 20 classes, and a border to ignore
        {0: 9000, 85: 500, 170: 400, 255: 300},
        {0: 9000, 64: 500, 128: 500, 191: 400, 255: 300},  # five classes, spread for the eye
        {0: 100, 255: 100},
        dict(zip(range(256), np.random.default_rng(0).integers(10, 30, 256).tolist(), strict=True)),  # a photograph
    ],
)
def test_labels_and_photographs_are_no_two_clusters(counts: dict[int, int]) -> None:
    assert cut_between_clusters(counts) is None


def test_the_cost_does_not_grow_with_the_number_of_values(monkeypatch: pytest.MonkeyPatch, pairs: Set) -> None:
    """Gray levels are counted, and no shape is measured of any of them."""
    measured: list[int] = []
    monkeypatch.setattr(statistics_module, "structures", lambda numbered: (measured.append(1), structures(numbered))[1])
    pairs.fill(blurred)
    pairs.audit()
    assert measured == []
    assert structures(np.random.default_rng(0).integers(0, 200, (96, 96))) is None


@pytest.mark.parametrize("suffix", [".nii.gz", ".npy"])
@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_fractions_and_nan_are_one_finding_with_the_threshold_to_type(empty: float, suffix: str, tmp_path: Path) -> None:
    """SPM leaves NaN outside of the brain, and resampling with splines leaves fractions."""
    pairs = Set(tmp_path / "set")
    for i in range(4):
        image, inside = (np.stack([plane] * 6, axis=-1) for plane in disc(i))
        for folder, pixels in (("images", image.astype(np.float32)), ("masks", np.where(inside, 0.9, empty))):
            path = pairs.root / folder / f"v{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".npy":
                np.save(path, pixels.transpose(2, 0, 1))
            else:
                nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)  # type: ignore[no-untyped-call]
    said, words = pairs.typed("data.dims=3")
    assert said.count("error ") == 1 + said.count("1 error ")
    assert "(and 3 more: v1, v2, …)" in said
    assert words[0].startswith("data.source.threshold=0.")


@pytest.mark.parametrize(
    ("size", "suffix"),
    [
        ((32, 32), ".png"),
        pytest.param((128, 128), ".png", marks=pytest.mark.slow),
        ((21, 21), ".png"),
        pytest.param((32, 32), ".jpg", marks=pytest.mark.slow),
    ],
)
def test_masks_of_another_size_are_one_finding_with_the_key_to_type(size: tuple[int, int], suffix: str, pairs: Set) -> None:
    pairs.fill(lambda mask: cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST), suffix)
    before = ["data.source.threshold=128"] * (suffix == ".jpg")
    said, words = pairs.typed(*before)
    assert f"is {size[0]} x {size[1]} but its image is 64 x 64 (and 7 more: c1, c2, …)" in said
    assert words == ["data.source.resize_masks=true"]


def test_masks_of_another_shape_are_not_stretched(pairs: Set) -> None:
    pairs.fill(lambda mask: mask[:, :32].astype(np.uint8))
    _, said = pairs.audit()
    assert "resize_masks" not in said
    code, said = pairs.audit("data.source.resize_masks=true")
    assert code == 1
    assert "masks/c0.png   is 64 x 32 but its image is 64 x 64: no scaled version of it" in said


def negative(mask: Array) -> Array:
    out = mask.astype(np.int16)
    out[:4] = -1
    return out


@pytest.mark.parametrize("labels", ["", "data.labels={-1: ignore, 0: background, 1: organ}"])
def test_negative_values_are_labels_like_others(labels: str, pairs: Set) -> None:
    for i in range(6):
        image, inside = disc(i)
        pairs.write(f"images/v{i}.nii", np.stack([image] * 4, -1))
        pairs.write(f"masks/v{i}.nii", np.stack([negative(inside)] * 4, -1))
    if not labels:
        assert pairs.typed("data.dims=3")[1] == ["data.labels={0: background, -1: ignore, 1: NAME}"]
    else:
        code, said = pairs.audit("data.dims=3", labels)
        assert (code, "labels      -1: ignore, 0: background, 1: organ" in said) == (0, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask.astype(np.uint16) * 300,
        lambda mask: np.dstack([mask * 0, mask * 0, mask * 200]).astype(np.uint8),
        lambda mask: mask.astype(np.uint8) * 3,
    ],
)
def test_the_line_that_the_audit_proposes_works(change: Callable[[Array], Array], pairs: Set) -> None:
    pairs.fill(change)
    assert pairs.typed()[1][0].startswith("data.labels={")


@pytest.mark.parametrize("kind", ["bool", "float32", "float64", "int64", "uint8"])
def test_masks_of_0_and_1_need_no_key_whatever_their_type(kind: str, pairs: Set) -> None:
    for i in range(4):
        image, inside = disc(i)
        for folder, pixels in (("images", image), ("masks", inside.astype(kind))):
            (pairs.root / folder).mkdir(parents=True, exist_ok=True)
            np.save(pairs.root / folder / f"v{i}.npy", pixels)
    code, said = pairs.audit()
    assert (code, "labels      0: background, 1: foreground" in said) == (0, True)


# many classes


def many_classes(pairs: Set, n: int) -> list[str]:
    """Label maps of n classes, and the override that names them."""
    for i in range(4):
        values = np.kron(np.arange(400).reshape(20, 20) % (n + 1), np.ones((6, 6))).astype(np.uint16)
        pairs.write(f"images/c{i}.png", np.random.default_rng(i).integers(0, 255, values.shape, dtype=np.uint8))
        pairs.write(f"masks/c{i}.png", values)
    return [f"data.labels={{0: background, {', '.join(f'{k}: c{k}' for k in range(1, n + 1))}}}"]


@pytest.mark.parametrize("n", [100, MAX_CLASSES])
def test_label_maps_of_many_classes_are_sound(n: int, pairs: Set) -> None:
    code, said = pairs.audit(*many_classes(pairs, n))
    assert (code, f"c{n}: " in said, "not one pixel" in said) == (0, True, False)


def test_more_classes_than_an_index_holds_are_one_line(pairs: Set) -> None:
    code, said = pairs.audit(*many_classes(pairs, MAX_CLASSES + 1))
    assert code == 1
    assert "names 255 classes; at most 254 can exclude each other" in said
    assert "1 error," in said


def test_classes_that_no_mask_shows_are_one_line_and_the_fix_works(pairs: Set) -> None:
    (labels,) = many_classes(pairs, 10)
    code, said = pairs.audit(labels.replace("10: c10", "10: c10, 11: neck, 12: spleen"))
    assert code == 1
    assert "2 classes   not one pixel of neck, spleen in 4 masks" in said
    (fix,) = shlex.split(next(line for line in said.splitlines() if "leave them out:  " in line).split("leave them out:  ")[1])
    assert fix == labels
    assert pairs.audit(fix)[0] == 0


def test_every_class_has_a_color_of_its_own() -> None:
    assert len({color_of(k) for k in range(MAX_CLASSES)}) == MAX_CLASSES


def test_a_mask_with_more_values_than_are_counted_is_an_error(segkit_in: Cli, pairs: Set) -> None:
    pairs.fill(lambda mask: np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    code, said = pairs.audit("data.labels={0: background, 1: head}")
    assert code == 1
    assert "4096 different values" in said
    assert "at most 1024 are counted" in said


# a data set without a case


def test_an_audit_without_a_case_says_only_that(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    code, said = Set(tmp_path).audit()
    assert code == 1
    assert [line.strip() for line in said.splitlines() if line.startswith("  ") and "->" not in line] == ["cases       none"]


def test_an_audit_of_unreadable_files_says_so(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text("no image")
    code, said = Set(tmp_path).audit("output=report")
    assert code == 1
    assert "1, of these 1 labelled, in 1 groups; none can be read" in said
    assert "0.0% of the pixels" not in said
    assert "x columns" not in said + (tmp_path / "report" / "audit.html").read_text()


def test_extremes_of_float_images_are_of_all_pixels_not_of_the_sample() -> None:
    image = np.random.default_rng(0).normal(0, 1, (700, 700, 1)).astype(np.float32)
    image[1, 1], image[3, 3], image[5, 5] = -50, 70, np.nan
    (found,) = quantiles(image)
    assert (found[0], found[-1], len(found)) == (-50, 70, len(PERCENTILES))
