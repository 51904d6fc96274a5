"""The caches: what comes back is what was stored, and nothing that has changed."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segkit.cli.cache import command, size_of
from segkit.config import compose
from segkit.data.cache import MAX_FILES, ArrayCache, add_lines, compact_lines, keep_within, line_files, read_lines
from segkit.data.case import Case
from segkit.data.dataset import CaseDataset
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.labels import LabelMap
from segkit.data.transforms.augment import Augmentation
from segkit.data.transforms.patches import Patches
from tests.conftest import SMALL, Cli
from tests.data.transforms.test_geometry import Grid

LABELS = LabelMap.of({0: "background", 255: "head"})
GRID = Grid((40, 60), crop_foreground=0.05, scale="percentiles", normalize="volume")


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    random = np.random.default_rng(0)
    made = []
    for i in range(6):
        image, mask = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        cv2.imwrite(str(image), random.integers(0, 255, (50 + i, 70), np.uint8))
        cv2.imwrite(str(mask), (random.random((50 + i, 70)) > 0.9).astype(np.uint8) * 255)
        made.append(Case(str(i), ImageFile(image), MaskFile(mask), spacing_mm=(1.0, 1.0)))
    return made


def dataset(cases: list[Case], folder: Path | None, limit: int = 10**9, made_by: str = "") -> CaseDataset:
    cache = None if folder is None else ArrayCache(folder, limit, GRID, made_by)
    augmentation = Augmentation({"flip": {"_target_": "albumentations.HorizontalFlip", "p": 0.5}})
    return CaseDataset(cases, LABELS, GRID, augmentation, patches=Patches((16, 16), 0.5, {}), per_case=2, cache=cache)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_what_comes_from_the_cache_is_what_was_decoded(cases: list[Case], tmp_path: Path) -> None:
    fresh, first, second = dataset(cases, None), dataset(cases, tmp_path / "c"), dataset(cases, tmp_path / "c")
    for key in [(0, 0), (1, 3), (0, 11)]:
        expected = fresh[key]
        for found in (first[key], second[key]):
            assert torch.equal(found.image, expected.image)
            assert torch.equal(found.mask, expected.mask)
            assert found.steps == expected.steps
    assert len(entries(tmp_path / "c")) == 3


def test_a_cached_image_stays_on_disk_until_a_part_of_it_is_wanted(cases: list[Case], tmp_path: Path) -> None:
    dataset(cases, tmp_path / "c").decode(0)
    found = dataset(cases, tmp_path / "c").decode(0)
    assert isinstance(found.image, np.memmap)
    assert isinstance(found.mask, np.memmap)
    assert set(found.locations) == {"head"}


def test_a_changed_file_or_preprocessing_makes_a_new_entry(cases: list[Case], tmp_path: Path) -> None:
    before = dataset(cases, tmp_path / "c").decode(0)
    cv2.imwrite(str(cases[0].image.paths[0]), np.full((50, 70), 9, np.uint8) + np.eye(50, 70, dtype=np.uint8) * 200)
    after = dataset(cases, tmp_path / "c").decode(0)
    assert after.image.shape != before.image.shape or not np.array_equal(after.image, before.image)
    dataset(cases, tmp_path / "c", made_by="another size").decode(0)
    assert len(entries(tmp_path / "c")) == 3


def test_a_damaged_entry_is_rewritten(cases: list[Case], tmp_path: Path) -> None:
    expected = dataset(cases, tmp_path / "c").decode(0)
    (entry,) = entries(tmp_path / "c")
    whole = entry.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], b"{" * len(whole)):
        entry.write_bytes(damaged)
        found = dataset(cases, tmp_path / "c").decode(0)
        assert np.array_equal(found.image, expected.image)


def test_what_was_used_longest_ago_goes_first_when_the_limit_is_reached(cases: list[Case], tmp_path: Path) -> None:
    data = dataset(cases, tmp_path / "c")
    data.decode(0)
    one = size_of(entries(tmp_path / "c")[:1])
    data = dataset(cases, tmp_path / "c", limit=int(3.5 * one))
    for i in (1, 2, 0, 3, 4):  # 0 is used again, so 1 is the oldest
        data.decode(i)
    assert len(entries(tmp_path / "c")) <= 4
    names = {data.cache._name(cases[i]): i for i in range(6)} if data.cache else {}
    kept = {names[path.name] for path in entries(tmp_path / "c")}
    assert 1 not in kept
    assert 4 in kept


def test_leftovers_of_killed_writers_are_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    import os

    old, new = tmp_path / ".a.1.tmp", tmp_path / ".b.2.tmp"
    old.write_bytes(b"1")
    new.write_bytes(b"2")
    os.utime(old, (0, 0))
    keep_within(tmp_path, 10**9)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.slow
def test_a_training_from_the_disk_cache_gives_the_very_same_table(segkit_in: Cli, tmp_path: Path) -> None:
    tables = {}
    for run, keys in {
        "memory": (),
        "disk": ("data.cache_gb=0", "data.disk_cache_gb=1"),
        "again": ("data.cache_gb=0", "data.disk_cache_gb=1", "data.num_workers=2"),
    }.items():
        done = segkit_in("train", *SMALL, f"run={run}", *keys)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("streamed from disk" in done.stdout) == bool(keys)
        tables[run] = (tmp_path / "outputs" / "small" / run / "cases.csv").read_bytes()
    assert tables["memory"] == tables["disk"] == tables["again"]
    assert len(entries(tmp_path / "outputs" / ".cache" / "arrays")) == 16


def test_the_cache_command_counts_and_frees_its_folder_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / ".cache"
    for name in ("arrays/1", "arrays/2", "phantom-x"):
        (cache / name).mkdir(parents=True)
        (cache / name / "data").write_bytes(bytes(1000))
    (cache / "facts-x.json").write_text("{}")
    (tmp_path / "run").mkdir()
    cfg: Any = compose.compose("cache", [f"output_dir={tmp_path}"])
    assert command(cfg) == 0
    told = capsys.readouterr().out
    assert "clear=true" in told
    assert [line.split()[-3] for line in told.splitlines()[:3]] == ["2", "1", "1"]
    assert command(compose.compose("cache", [f"output_dir={tmp_path}", "clear=true"])) == 0  # type: ignore[arg-type]
    assert list(cache.iterdir()) == []
    assert (tmp_path / "run").is_dir()
    shutil.rmtree(cache)
    assert command(cfg) == 0  # also where there is none


def test_nothing_is_lost_where_many_write_and_one_merges(tmp_path: Path) -> None:
    def write(i: int) -> None:
        add_lines(tmp_path, {f"s{i}": {"n": i}})
        if i % 10 == 0:
            compact_lines(tmp_path, {f"s{i}" for i in range(100)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    everything = {f"s{i}" for i in range(100)}
    compact_lines(tmp_path, everything)
    assert dict(read_lines(tmp_path, everything)) == {f"s{i}": {"n": i} for i in range(100)}


def test_many_files_become_one_and_statistics_of_files_that_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    for i in range(MAX_FILES + 1):
        add_lines(tmp_path, {f"s{i}": i})
    compact_lines(tmp_path, {"s0", "s1", "s2", "s3", "s4"})
    assert len(line_files(tmp_path)) == 1
    assert dict(read_lines(tmp_path, {"s0", "s8"})) == {"s0": 0, "s8": 8}
    compact_lines(tmp_path, {"s0"})  # most are not wanted any more
    assert dict(read_lines(tmp_path, {"s0", "s8"})) == {"s0": 0}


def test_a_line_that_is_cut_off_is_as_good_as_none(tmp_path: Path) -> None:
    add_lines(tmp_path, {"a": {"n": 1}, "b": {"n": 2}})
    (path,) = line_files(tmp_path)
    path.write_text(path.read_text()[:-4])
    assert dict(read_lines(tmp_path, {"a", "b"})) == {"a": {"n": 1}}
    assert dict(read_lines(tmp_path / "none", {"a"})) == {}
