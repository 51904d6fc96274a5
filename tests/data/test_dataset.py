"""What the network is fed: a function of (seed, epoch, index), whatever reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from segkit.data.case import Case
from segkit.data.dataset import CaseDataset, Sample, collate
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.labels import IGNORE, Array, LabelMap
from segkit.data.statistics import statistics_of
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.intensity import Intensity, intensity_max, unit_scale
from segkit.data.transforms.patches import Patches
from segkit.system.errors import SegkitError
from tests.data.transforms.test_geometry import Grid

LABELS = LabelMap.of({0: "background", 255: "head"})
TRANSFORMS = {
    "flip": {"_target_": "albumentations.HorizontalFlip", "p": 0.5},
    "affine": {"_target_": "albumentations.Affine", "rotate": [-20, 20], "p": 0.8},
    "noise": {"_target_": "albumentations.GaussNoise", "p": 0.5},
}


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(8):
        image, mask = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        cv2.imwrite(str(image), rng.integers(0, 255, (37, 53), np.uint8))
        cv2.imwrite(str(mask), (rng.random((37, 53)) > 0.5).astype(np.uint8) * 255)
        made.append(Case(str(i), ImageFile(image), MaskFile(mask)))
    return made


def dataset(cases: list[Case], seed: int = 0, size: tuple[int, int] | None = (32, 48)) -> CaseDataset:
    return CaseDataset(cases, LABELS, Grid(size), Augmentation(TRANSFORMS), seed)


def stream(data: CaseDataset, epoch: int, workers: int) -> list[Sample]:
    keys = [(epoch, index) for index in range(len(data))]
    loader: Any = DataLoader(data, batch_size=None, sampler=keys, num_workers=workers)  # type: ignore[arg-type]
    return list(loader)


def same(a: list[Sample], b: list[Sample]) -> bool:
    return all(torch.equal(x.image, y.image) and torch.equal(x.mask, y.mask) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_the_images(cases: list[Case], workers: int) -> None:
    assert same(stream(dataset(cases), 3, 0), stream(dataset(cases), 3, workers))


def test_every_epoch_and_every_seed_has_its_own_stream(cases: list[Case]) -> None:
    first = stream(dataset(cases), 0, 0)
    assert not same(first, stream(dataset(cases), 1, 0))
    assert not same(first, stream(dataset(cases, seed=1), 0, 0))
    assert same(first, stream(dataset(cases), 0, 0))


def test_memory_and_disk_give_the_same(cases: list[Case]) -> None:
    cached = dataset(cases)
    cached.keep_in_memory(2)
    assert same(stream(cached, 0, 2), stream(dataset(cases), 0, 0))


def test_mask_moves_with_its_image(tmp_path: Path) -> None:
    """The image is its own mask, so they must still agree after augmentation."""
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 20:50] = 255
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    file = tmp_path / "a.png"
    moves = {"affine": {**TRANSFORMS["affine"], "p": 1.0}}
    data = CaseDataset([Case("a", ImageFile(file), MaskFile(file))], LABELS, Grid(None), Augmentation(moves), 0)
    for epoch in range(5):
        sample = data[(epoch, 0)]
        agree = ((sample.image[0] > 127) == (sample.mask == 1)).float().mean()
        assert agree > 0.97


def test_unequal_images_share_a_batch_and_the_padding_is_ignored() -> None:
    ones = [torch.ones(1, h, w, dtype=torch.uint8) for h, w in [(3, 5), (4, 2)]]
    samples = [Sample(image, image[0], i) for i, image in enumerate(ones)]
    batch = collate(samples)
    assert batch.image.shape == (2, 1, 4, 5)
    assert batch.mask[0, 3].eq(IGNORE).all()
    assert batch.mask[1, :, 2:].eq(IGNORE).all()
    assert batch.image[1, 0, :, 2:].eq(0).all()


def test_12_bits_in_16_fill_the_scale_that_augmentation_works_on(tmp_path: Path) -> None:
    """Divided by 65535 such images live in 0..0.06, and a change of brightness by 0.15 would drown them."""
    rng = np.random.default_rng(0)
    file, mask = tmp_path / "a.png", tmp_path / "m.png"
    cv2.imwrite(str(file), rng.integers(200, 4095, (32, 32)).astype(np.uint16))
    cv2.imwrite(str(mask), np.zeros((32, 32), np.uint8))
    case = Case("a", ImageFile(file), MaskFile(mask))
    top = intensity_max([statistics_of(case)])
    assert top == 4095
    brighter = {"b": {"_target_": "albumentations.RandomBrightnessContrast", "brightness_limit": 0.15, "p": 1.0}}
    data = CaseDataset([case], LABELS, Grid(None), Augmentation(brighter), 0, top)
    assert all(data[(epoch, 0)].image.std() > 0.1 for epoch in range(10))


def test_unit_scale() -> None:
    intensity, case = Intensity(Grid(None)), Case("a", ImageFile(Path("a.png")))
    small, large = np.full((2, 2, 1), 200, np.uint8), np.full((2, 2, 1), 65535, np.uint16)
    assert intensity.apply(small, intensity.range_of(case, small)).dtype == np.uint8
    assert intensity.apply(large, intensity.range_of(case, large)).max() == 1.0
    stretched = unit_scale(np.array([[[-1000.0], [3000.0]]], np.float32))
    assert (stretched.min(), stretched.max()) == (0.0, 1.0)
    assert not np.isnan(unit_scale(np.array([[[np.nan], [3.0]]], np.float32))).any()


def test_transforms_are_drawn_independently_of_each_other() -> None:
    """With random streams of the same seed, an image would be mirrored along all axes or along none."""
    vertical = {"_target_": "albumentations.VerticalFlip", "p": 0.5}
    nested = {"_target_": "albumentations.Sequential", "transforms": [{"_target_": "albumentations.Transpose", "p": 0.5}], "p": 1.0}
    augmentation = Augmentation({"flip": TRANSFORMS["flip"], "vertical": vertical, "nested": nested})
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)  # of which each of the eight combinations is another one
    n = 800
    seen = Counter(augmentation(image, image[..., 0], (0, 0, i))[0].tobytes() for i in range(n))
    assert len(seen) == 8
    expected = n / 8
    assert all(abs(count - expected) < 4 * expected**0.5 for count in seen.values())


def test_the_slices_of_a_volume_are_augmented_alike() -> None:
    """Equal slices stay equal under shifts, turns and brightness, and the mask goes with them."""
    plane = np.zeros((40, 50), np.uint8)
    plane[10:25, 15:40] = 200
    volume = np.repeat(plane[None, ..., None], 6, axis=0)
    moves = {name: {**TRANSFORMS[name], "p": 1.0} for name in ("flip", "affine")}
    augmentation = Augmentation({**moves, "b": {"_target_": "albumentations.RandomBrightnessContrast", "p": 1.0}})
    image, mask = augmentation(volume, (volume[..., 0] > 0).astype(np.uint8), (0, 1, 2))
    assert image.shape == volume.shape
    assert (image == image[:1]).all()
    assert ((image[..., 0] > 60) == (mask > 0)).mean() > 0.97
    assert not (image == volume).all()
    planes = np.stack([mask, mask])
    assert augmentation(volume, planes, (0, 1, 2))[1].shape == planes.shape


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_plane_is_augmented_as_if_it_were_the_only_mask(n: int) -> None:
    """However many structures overlap; ignored pixels move along."""
    rng = np.random.default_rng(0)
    image, planes = rng.integers(0, 255, (40, 50, 1), np.uint8), rng.integers(0, 2, (n, 40, 50), np.uint8)
    planes[:, 12:20, 9:31] = IGNORE
    elastic = {"_target_": "albumentations.ElasticTransform", "alpha": 30, "sigma": 6, "p": 0.5}
    augmentation = Augmentation({**TRANSFORMS, "elastic": elastic})
    for index in range(20):
        key = (0, 0, index)
        out, together = augmentation(image, planes, key)
        alone = [augmentation(image, plane, key) for plane in planes]
        assert all((out == other).all() for other, _ in alone)
        assert (together == np.stack([mask for _, mask in alone])).all()


class MaskOnly(A.DualTransform):
    """Of a user, who has thought of one mask only."""

    targets = property(lambda self: {"image": self.apply, "mask": self.apply})

    def apply(self, img: Array, **_: object) -> Array:
        return img[::-1].copy()


@pytest.mark.parametrize(
    ("target", "is_volume", "has_planes", "words"),
    [
        (f"{__name__}.MaskOnly", False, True, "flip: MaskOnly does not change `masks`, and .* `image` and `masks` here"),
        (f"{__name__}.MaskOnly", True, False, "flip: MaskOnly does not change `images`"),
        ("albumentations.CubicSymmetry", True, False, "flip: CubicSymmetry does not change `images`"),
        ("albumentations.MaskDropout", False, True, "flip: MaskDropout needs `mask`, .*augment.transforms.flip=null"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_transform_that_would_leave_image_or_mask_as_it_is_is_an_error(
    target: str, is_volume: bool, has_planes: bool, words: str, nested: bool
) -> None:
    """albumentations says nothing where a transform does not know a target."""
    node: dict[str, object] = {"_target_": target, "p": 1.0}
    if nested:
        node = {"_target_": "albumentations.OneOf", "transforms": [node], "p": 1.0}
    with pytest.raises(SegkitError, match=words):
        Augmentation({"flip": node}, [__name__.partition(".")[0]], is_volume, has_planes)
    if not target.endswith("CubicSymmetry"):
        Augmentation({"flip": node}, [__name__.partition(".")[0]])


def test_images_that_are_no_unit_scale_are_not_clipped_by_augmentation(cases: list[Case]) -> None:
    image = np.linspace(-3, 5, 40 * 50, dtype=np.float32).reshape(40, 50, 1)
    out, _ = Augmentation({"flip": TRANSFORMS["flip"]})(image, np.zeros((40, 50), np.uint8), (0, 0, 0))
    assert (out.min(), out.max()) == (-3, 5)


def test_patches_are_a_function_of_seed_epoch_and_index_too(cases: list[Case]) -> None:
    def patched() -> CaseDataset:
        return CaseDataset(cases, LABELS, Grid(None), Augmentation(TRANSFORMS), 0, patches=Patches((16, 24), 0.5, {}), per_case=3)

    assert len(patched()) == 24
    first, again = stream(patched(), 1, 0), stream(patched(), 1, 2)
    assert same(first, again)
    assert first[0].image.shape == (1, 16, 24)
    assert [sample.index for sample in first[:10]] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    assert not torch.equal(first[0].image, first[8].image)
