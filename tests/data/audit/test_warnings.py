"""What only looks wrong: one fault planted among sound cases is suspected, and sound cases are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from segkit.data.audit.audited import DataWarning
from segkit.data.audit.warnings import find_warnings, near_duplicates
from segkit.data.case import Case, Manifest
from segkit.data.labels import LabelMap
from segkit.data.sources.folder import Folder
from segkit.data.sources.hc18 import HC18
from segkit.data.splits import Split
from segkit.data.statistics import CaseStatistics, scan, statistics_of
from segkit.system.errors import Problem

LABELS = LabelMap.of({0: "background", 255: "head"})
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Held:
    """Pixels in memory."""

    name: str
    array: Array

    @property
    def paths(self) -> tuple[Path, ...]:
        return (Path("/none") / self.name,)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[:3]

    def read(self) -> Array:
        return self.array


def case(name: str, image: Array, mask: Array | dict[str, Array] | None, **more: object) -> Case:
    dims: Literal[2, 3] = 3 if image.ndim == 4 else 2
    pixels = {plane: Held(f"masks/{name}{plane}", array) for plane, array in mask.items()} if isinstance(mask, dict) else None
    single = None if mask is None or isinstance(mask, dict) else Held(f"masks/{name}", mask)
    return Case(name, Held(f"images/{name}", image), pixels or single, dims=dims, **more)  # type: ignore[arg-type]


def blob(i: int, side: int = 160) -> tuple[Array, Array]:
    """A bright shape without symmetry on a dark, noisy ground, and its mask."""
    random = np.random.default_rng(i)
    y, x = np.mgrid[:side, :side]
    cy, cx = random.uniform(0.35, 0.45, 2) * side
    mask = ((y - cy) / 40) ** 2 + ((x - cx) / 22) ** 2 < 1
    mask |= (abs(y - cy - 20) < 12) & (x > cx) & (x < cx + 55)
    image = 60 + 90 * mask + random.normal(0, 8, mask.shape)
    return image.clip(0, 255).astype(np.uint8)[..., None], np.where(mask, 255, 0).astype(np.uint8)


def blobs(n: int = 12) -> list[Case]:
    return [case(f"c{i}", *blob(i)) for i in range(n)]


def suspect(cases: Sequence[Case], labels: LabelMap = LABELS) -> list[DataWarning]:
    return find_warnings(Manifest("toy", Path("/none"), tuple(cases), labels), scan(cases))


def only(found: list[DataWarning]) -> Problem:
    assert len(found) == 1, found
    return found[0].problem


def changed(cases: list[Case], which: Sequence[int], change: Callable[[Array], Array]) -> list[Case]:
    return [case(c.id, c.image.read(), change(c.masks[""].read())) if i in which else c for i, c in enumerate(cases)]


def test_sound_cases_are_not_suspected() -> None:
    assert suspect(blobs()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: mask.T.copy(), "transposed"),
        (lambda mask: mask[:, ::-1].copy(), "flipped left-right"),
        (lambda mask: mask[::-1].copy(), "flipped upside down"),
        (lambda mask: np.roll(mask, (12, 12), (0, 1)), "moved by about -12 rows and -12 columns"),
    ],
)
def test_one_mask_that_is_off_its_image_and_all_that_are(change: Callable[[Array], Array], said: str) -> None:
    problem = only(suspect(changed(blobs(), [5], change)))
    assert (problem.where, problem.severity) == ("masks/c5", "warning")
    assert said in problem.what
    assert problem.fix == "data.exclude='[\"c5\"]'"
    everywhere = only(suspect(changed(blobs(), range(12), change)))
    assert f"{said}: so for 1" in everywhere.what
    assert everywhere.fix == "inspect them with  output=DIR"


def test_masks_that_follow_no_edges_are_not_accused() -> None:
    random = np.random.default_rng(0)
    cases = [case(f"c{i}", random.integers(0, 255, (160, 160, 1), dtype=np.uint8), blob(i)[1]) for i in range(12)]
    assert suspect(cases) == []


def ring(mask: Array) -> Array:
    inside = mask > 0
    for axis in (0, 1):
        inside &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis) > 0
    return np.where(inside, 0, mask)


def test_outlines_are_distinguished_from_areas_and_from_nets_of_lines() -> None:
    problem = only([s for s in suspect(changed(blobs(), [1, 2], ring)) if s.mark == "outline only"])
    assert problem.what == "head is a thin line around an area, not the area (and 1 more: c2)"
    assert "cv2.FILLED" in problem.fix
    net = np.zeros((160, 160), np.uint8)
    net[::12], net[:, ::12] = 255, 255
    assert not [s for s in suspect(changed(blobs(), [1], lambda mask: net)) if s.mark == "outline only"]


def test_smoothed_borders_are_reported_with_the_way_to_fix_them() -> None:
    def smoothed(mask: Array) -> Array:
        soft = mask.copy()
        soft[20:30, 20] = np.arange(10) * 20 + 5
        return soft

    labels = LabelMap.of({0: "background"} | dict.fromkeys(range(1, 256), "head"))
    problem = only([s for s in suspect(changed(blobs(), [4], smoothed), labels) if s.mark == "smoothed"])
    assert problem.where == "masks/c4"
    assert "mask > 127" in problem.fix


def test_specks_are_counted() -> None:
    def speckled(mask: Array) -> Array:
        mask = mask.copy()
        mask[150, 150] = mask[155, 10:13] = 255
        return mask

    problem = only(suspect(changed(blobs(), [3, 7], speckled)))
    assert problem.what == "4 pieces of head have fewer than 10 pixels (and 1 more: c7)"
    assert problem.fix == "inspect them with  output=DIR"


def test_one_image_of_another_scale() -> None:
    cases = blobs()
    cases[6] = case("c6", cases[6].image.read() // 16, cases[6].masks[""].read())
    problem = only([s for s in suspect(cases) if s.mark == "odd intensity"])
    assert problem.where == "images/c6"
    assert "of the intensity is" in problem.what
    assert problem.fix == "data.exclude='[\"c6\"]'"


def test_odd_and_missing_spacings() -> None:
    cases = [replace(c, spacing_mm=(0.5, 0.5)) for c in blobs()]
    assert suspect(cases) == []
    cases[2] = replace(cases[2], spacing_mm=(5.0, 5.0))
    assert only(suspect(cases)).what == "its pixel size is 5 x 5 mm, in the data set mostly 0.5 x 0.5 mm"
    cases[2] = replace(cases[2], spacing_mm=())
    assert only(suspect(cases)).what == "no pixel size in mm, while 11 of 12 cases have one"


def test_unequal_classes_and_classes_that_always_come_together_are_notes() -> None:
    def three(mask: Array, i: int) -> Array:
        mask = np.where(mask > 0, 1, 0).astype(np.uint8)
        if i < 9:
            mask[140:144, 140:144], mask[140:144, 20:24] = 2, 3
        return mask

    cases = [case(c.id, c.image.read(), three(c.masks[""].read(), i)) for i, c in enumerate(blobs())]
    found = suspect(cases, LabelMap.of({0: "background", 1: "a", 2: "b", 3: "c"}))
    assert [s.problem.severity for s in found] == ["note", "note"]
    assert found[0].problem.what.startswith("unequal shares of the pixels: a ")
    assert found[1].problem.what == "b, c always occur together, in 9 of 12 masks"


def test_overlapping_planes_are_a_note() -> None:
    half = np.zeros((160, 160), np.uint8)
    half[:, :80] = 1
    quarter = half.copy()
    quarter[80:] = 0
    cases = [case(f"c{i}", blob(i)[0], {"a": half, "b": quarter, "left out": half}) for i in range(3)]
    found = suspect(cases, LabelMap.of({"a": "a", "b": "b", "left out": "background"}, True))
    assert [s.problem.what for s in found] == ["overlap: a and b (100.0% of the smaller)"]


def slices(empty: Sequence[int], positions: Sequence[int] = range(12)) -> list[Case]:
    picture, mask = blob(0)
    masks = [mask * 0 if z in empty else mask for z in positions]
    noisy = [np.roll(picture, z, 0) for z in positions]
    return [case(f"v_{z}", image, mask, volume="v", position=z, group="v") for z, image, mask in zip(positions, noisy, masks, strict=True)]


def of(mark: str, found: list[DataWarning]) -> list[DataWarning]:
    return [s for s in found if s.mark == mark]


def test_a_slice_that_was_forgotten_between_labelled_ones() -> None:
    problem = only(of("no mask", suspect(slices(empty=[0, 1, 5, 11]))))
    assert (problem.where, problem.severity) == ("masks/v_5", "warning")
    assert problem.what.startswith("slice v_5 is not labelled")
    assert problem.fix == "label them, or  data.exclude='[\"v_5\"]'"
    assert of("no mask", suspect(slices(empty=[5], positions=[3, 5, 7]))) == []


def test_missing_slices_are_a_note() -> None:
    assert of("", suspect(slices([], positions=range(0, 20, 2)))) == []
    problem = only(of("", suspect(slices([], positions=[0, 1, 2, 6, 7]))))
    assert (problem.severity, problem.what) == ("note", "slices are missing between others, at most 3 in a row")


def test_a_volume_is_measured_whole() -> None:
    volume = np.zeros((6, 40, 50, 1), np.float32)
    volume[2:4, 10:20, 10:30] = 3.0
    mask = np.zeros((6, 40, 50), np.int16)
    mask[2:4, 10:20, 10:30], mask[0, 0, 0] = 1, 1
    facts = statistics_of(case("v", volume, mask))
    structure = facts.masks[""].structures["1"]
    assert (facts.shape, facts.channels, facts.masks[""].shape, facts.errors) == ((6, 40, 50), 1, (6, 40, 50), ())
    assert facts.sum == pytest.approx([400])
    assert (facts.quantiles[0][0], facts.quantiles[0][-1], facts.foreground_quantiles[0][6]) == (0, 3, 3)
    assert (structure.components, structure.largest, structure.tiny, structure.at_border) == (2, 400, 1, True)
    flat = statistics_of(replace(case("v", volume, mask), dims=2))
    assert flat.errors[0][1] == "gives an array of shape (6, 40, 50, 1)"


def test_images_alike_in_two_groups_on_two_sides() -> None:
    cases = blobs()
    noisy = cases[0].image.read().astype(float) * 0.9 + np.random.default_rng(9).normal(0, 3, (160, 160, 1))
    cases[8] = case("c8", noisy.clip(0, 255).astype(np.uint8), cases[8].masks[""].read())
    data = Manifest("toy", Path("/none"), tuple(cases), LABELS)
    split = Split(tuple(f"c{i}" for i in range(6)), tuple(f"c{i}" for i in range(6, 12)))
    found = near_duplicates(data, split, scan(cases))
    assert [pair for s in found for pair in s.cases if pair in ("c0", "c8")] == ["c0", "c8"]
    assert found[0].problem.severity == "warning"
    assert "exclude" not in found[0].problem.fix  # they may be two patients
    assert [pair[:2] for pair in found[0].pairs] == [("c0", "c8")]
    assert found[0].pairs[0][2] > 0.98
    grouped = replace(data, cases=tuple(replace(c, group="all") for c in cases))
    assert near_duplicates(grouped, split, scan(cases)) == []


def test_near_duplicates_among_twenty_thousand_are_found() -> None:
    import base64

    random = np.random.default_rng(0)
    looks = random.integers(0, 256, (20_000, 32, 32), dtype=np.uint8)
    looks[15_000] = np.clip(looks[7] + 2.0, 0, 255)
    facts = {f"{i:05}": CaseStatistics(sha1=str(i), preview=base64.b64encode(look.tobytes()).decode()) for i, look in enumerate(looks)}
    empty = np.zeros((1, 1, 1), np.uint8)
    cases = tuple(case(id_, empty, None) for id_ in facts)
    ids = tuple(facts)
    found = near_duplicates(Manifest("many", Path("/none"), cases, LABELS), Split(ids[:10_000], ids[10_000:]), facts)
    assert [s.cases for s in found] == [("00007", "15000")]


@pytest.mark.slow
def test_real_fetal_heads_are_not_accused(real_hc18: Path) -> None:
    assert suspect(list(HC18(real_hc18).cases())) == []


@pytest.mark.parametrize(("root", "images", "masks"), [("em_membrane/train", "image", "label"), ("hippocampus", "imagesTr", "labelsTr")])
def test_real_masks_are_not_reported_as_misplaced(root: str, images: str, masks: str, real_data: Path) -> None:
    cases = list(Folder(real_data / root, images=images, masks=masks).cases())
    found = suspect(cases, LabelMap.of({0: "background", 1: "a", 2: "b", 255: "c"}))
    assert not {s.mark for s in found} & {"misplaced?", "outline only", "smoothed"}
