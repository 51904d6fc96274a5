"""One manifest, seen as slices, as stacks of neighbours, and as volumes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.case import Case, encoded_mask
from segkit.data.labels import LabelMap
from segkit.data.slices import Recent, Region, Volume, view
from segkit.system.errors import Problem


@dataclass(frozen=True)
class Grey:
    """An image (H, W, 1), or volume (D, H, W, 1), whose voxels say where they are: 100 z + 10 y + x."""

    depth: int | None = None
    z: int = 0
    channels: bool = True

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path(f"/nowhere/{self.z}.png"),)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.depth or 1, 3, 4)

    def read(self) -> np.ndarray[Any, Any]:
        z, y, x = np.mgrid[: self.depth or 1, :3, :4]
        voxels = (100 * (z + self.z) + 10 * y + x).astype(np.uint16)
        voxels = voxels if self.depth else voxels[0]
        return voxels[..., None] if self.channels else voxels


def slices(positions: list[int], volume: str = "v") -> list[Case]:
    return [
        Case(f"{volume}_{z}", Grey(z=z), {"a": Grey(z=z, channels=False)}, "patient", volume=volume, position=z, spacing_mm=(3, 1, 1))
        for z in positions
    ]


VOLUME = Case("scan", Grey(depth=5), Grey(depth=5, channels=False), spacing_mm=(3.0, 1.0, 1.0), dims=3)


def test_a_volume_becomes_its_slices_and_each_knows_the_whole() -> None:
    problems: list[Problem] = []
    made = view([VOLUME], 2, [0], problems)
    assert [case.id for case in made] == ["scan_000", "scan_001", "scan_002", "scan_003", "scan_004"]
    assert {case.group for case in made} == {"scan"}
    assert (made[2].image.read()[..., 0] == VOLUME.image.read()[2, ..., 0]).all()
    assert (made[2].masks[""].read() == VOLUME.masks[""].read()[2]).all()
    assert made[0].whole == VOLUME.image
    assert made[0].pixel_mm == (1.0, 1.0)
    assert not problems


def test_slices_become_their_volume_in_order_of_position() -> None:
    problems: list[Problem] = []
    (volume,) = view(slices([3, 1, 2]), 3, [0], problems)
    assert (volume.id, volume.group, volume.dims, volume.pixel_mm) == ("v", "patient", 3, (3, 1, 1))
    assert volume.image.read()[:, 0, 0, 0].tolist() == [100, 200, 300]
    assert volume.masks["a"].read().shape == (3, 3, 4)


def test_neighbours_become_channels_and_the_nearest_slice_stands_in_for_a_missing_one() -> None:
    made = view(slices([1, 2, 3, 7]), 2, [-2, 0, 2], [])
    channels = {case.id: case.image.read()[0, 0].tolist() for case in made}
    assert channels == {"v_1": [100, 100, 300], "v_2": [100, 200, 300], "v_3": [100, 300, 300], "v_7": [300, 700, 700]}
    cut = view([VOLUME], 2, [-1, 0, 1], [])
    assert cut[0].image.read()[0, 0].tolist() == [0, 0, 100]


def test_neighbours_never_come_from_another_volume() -> None:
    made = view([*slices([0, 1], "v"), *slices([5, 6], "w")], 2, [-1, 0], [])
    assert {case.id: case.image.read()[0, 0].tolist() for case in made}["w_5"] == [500, 500]


@pytest.mark.parametrize(
    ("dims", "neighbours", "where"), [(3, [0], "data.dims"), (2, [-1, 0], "data.neighbours"), (3, [-1, 0], "data.neighbours")]
)
def test_images_that_belong_to_no_volume_cannot_be_stacked(dims: int, neighbours: list[int], where: str) -> None:
    problems: list[Problem] = []
    view([Case("a", Grey())], dims, neighbours, problems)
    assert where in {problem.where for problem in problems}


def test_a_structure_that_a_slice_does_not_have_is_empty_there() -> None:
    first, second = slices([0, 1])
    second = Case(second.id, second.image, {"b": Grey(z=1, channels=False)}, volume="v", position=1)
    (volume,) = view([first, second], 3, [0], [])
    assert not volume.masks["a"].read()[1].any()
    assert volume.masks["b"].read()[1].any()


def test_a_volume_with_some_unlabelled_slices_counts_as_unlabelled_and_says_so() -> None:
    problems: list[Problem] = []
    first, second = slices([0, 1])
    (volume,) = view([first, Case(second.id, second.image, None, volume="v", position=1)], 3, [0], problems)
    assert volume.mask is None
    assert "1 of 2 slices have no mask" in problems[0].what


def test_regions_of_one_map_may_overlap() -> None:
    mask = Grey(z=0, channels=False)
    assert Region(mask, (0, 10, 20)).read()[:, 0].tolist() == [1, 1, 1]
    assert Region(mask, (1, 11, 0)).read().sum() == 3


def test_recent_volumes_are_read_once_and_the_oldest_go() -> None:
    reads: list[int] = []

    @dataclass(frozen=True)
    class Counted(Grey):
        def read(self) -> np.ndarray[Any, Any]:
            reads.append(self.z)
            return super().read()

    recent = Recent(most_bytes=2 * Counted(depth=5).read().nbytes)
    for z in (0, 0, 1, 0, 2, 0, 1):
        recent.read(Counted(depth=5, z=z))
    assert reads[1:] == [0, 1, 2, 1]


def test_slices_of_unequal_size_make_no_volume() -> None:
    @dataclass(frozen=True)
    class Wide(Grey):
        def read(self) -> np.ndarray[Any, Any]:
            return np.zeros((3, 9, 1))

    with pytest.raises(Exception, match="3 x 9, but the first slice of its volume is 3 x 4"):
        Volume((Grey(), Wide(z=1))).read()


def test_an_overlapping_plane_that_is_called_background_is_left_out() -> None:
    (case, *_) = slices([3])
    case = replace(case, mask={"a": Grey(z=1, channels=False), "b": Grey(z=2, channels=False)})
    planes = encoded_mask(case, LabelMap.of({"a": "a", "b": "background"}, overlap=True))
    assert planes.shape == (1, 3, 4)
    assert planes.all()
