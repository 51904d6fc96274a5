"""One fault planted in an otherwise good data set: it is found, named, and nothing else is said to be an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from segkit.cli.audit import command
from segkit.config import commands, schema
from segkit.data import statistics as statistics_module
from segkit.data.audit.audit import Prepared, inspect, prepare
from segkit.data.case import Case
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.labels import LabelMap
from segkit.data.statistics import CaseStatistics, data_fingerprint, scan
from segkit.system.errors import Problem, ProblemsFound

Maker = Callable[..., schema.Data]
Splitter = Callable[..., schema.Split]


@dataclass
class Bench:
    """The good data set of `pairs`, and what is said about it after a change."""

    root: Path
    data: Maker
    split: Splitter
    cache: Path

    def problems(
        self, source: dict[str, str] | None = None, kind: str = "holdout", name: str = "folder", **changes: object
    ) -> list[Problem]:
        return list(inspect(self.data(name, self.root, source, **changes), self.split(kind), 0, (), self.cache).problems)

    def errors(self, **changes: object) -> list[Problem]:
        return [problem for problem in self.problems(**changes) if problem.severity == "error"]  # type: ignore[arg-type]

    def prepare(self, kind: str = "holdout", **changes: object) -> Prepared:
        return prepare(self.data("folder", self.root, **changes), self.split(kind), 0, cache_dir=self.cache)

    def mask(self, name: str) -> Path:
        return self.root / "masks" / name

    def image(self, name: str) -> Path:
        return self.root / "images" / name

    def rewrite_masks(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        for path in self.mask("").iterdir():
            write(path, change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.fixture
def bench(pairs: Path, data: Maker, split: Splitter, tmp_path: Path) -> Bench:
    return Bench(pairs, data, split, tmp_path / "cache")


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_data_set_is_clean_and_in_natural_order(bench: Bench) -> None:
    assert bench.problems() == []
    prepared = bench.prepare()
    assert [case.id for case in prepared.manifest] == [str(i) for i in range(1, 13)]
    assert (len(prepared.split.train), len(prepared.split.val)) == (8, 4)
    assert prepared.manifest.labels == LabelMap.of({0: "background", 255: "foreground"})


def test_an_empty_folder(bench: Bench) -> None:
    shutil.rmtree(bench.root)
    bench.root.mkdir()
    assert {p.where for p in bench.errors()} == {str(bench.root / "images"), str(bench.root / "masks")}
    for folder in ("images", "masks"):
        (bench.root / folder).mkdir()
    assert all("holds no" in p.what for p in bench.errors())


def test_one_unreadable_image_among_many(bench: Bench) -> None:
    bench.image("7.png").write_text("not a picture")
    problem = only(bench.errors())
    assert (problem.where, "not an image" in problem.what) == ("images/7.png", True)
    assert "data.exclude='[\"7\"]'" in problem.fix
    assert len(bench.prepare(exclude=["7"]).manifest) == 11


@pytest.mark.parametrize("side", ["images", "masks"])
def test_a_truncated_file(side: str, bench: Bench) -> None:
    path = bench.root / side / "3.png"
    path.write_bytes(path.read_bytes()[:-20])
    problem = only(bench.errors())
    assert (problem.where, problem.what) == (f"{side}/3.png", "truncated")


def test_a_file_without_a_byte(bench: Bench) -> None:
    bench.mask("3.png").write_bytes(b"")
    assert only(bench.errors()).what == "zero bytes"


def test_a_mask_of_another_size(bench: Bench) -> None:
    write(bench.mask("2.png"), np.zeros((10, 12), np.uint8))
    problem = only(bench.errors())
    assert (problem.where, problem.what) == ("masks/2.png", "is 10 x 12 but its image is 20 x 30")


def test_a_turned_mask(bench: Bench) -> None:
    write(bench.mask("2.png"), cv2.imread(str(bench.mask("2.png")), -1).T.copy())
    assert "turned by 90 degrees?" in only(bench.errors()).what


def test_a_value_without_a_name(bench: Bench) -> None:
    mask = cv2.imread(str(bench.mask("5.png")), -1)
    mask[0, 0] = 7
    write(bench.mask("5.png"), mask)
    problem = only(bench.errors(labels={"0": "background", "255": "head"}))
    assert (problem.where, problem.what) == ("masks/5.png", "values 0, 7, 255 but labels name 0, 255")
    assert problem.fix == "add  data.labels='{0: background, 255: head, 7: NAME}'"
    assert bench.errors(labels={"0": "background", "255": "head", "7": "spot"}) == []


def test_labels_that_name_other_numbers_are_fixed_with_the_same_names(bench: Bench) -> None:
    problem = only([p for p in bench.errors(labels={"0": "background", "1": "head"}) if p.where.startswith("masks")])
    assert problem.what == "values 0, 255 but labels name 0, 1 (in 12 masks)"
    assert problem.fix == "add  data.labels='{0: background, 255: head}'"


def test_a_thousand_masks_with_the_same_fault_are_one_thing_to_fix(bench: Bench) -> None:
    bench.rewrite_masks(lambda mask: np.where(mask > 0, 3, 0).astype(np.uint8))
    problem = only(bench.errors())
    assert problem.what == "the masks hold 0, 3, which have no names"
    assert problem.fix == "add  data.labels='{0: background, 3: NAME}'"


@pytest.mark.parametrize(("value", "key"), [(1, "1"), (255, "255")])
def test_zero_and_one_or_255_need_no_labels(value: int, key: str, bench: Bench) -> None:
    bench.rewrite_masks(lambda mask: np.where(mask > 0, value, 0).astype(np.uint8))
    assert dict(bench.prepare().manifest.labels.values) == {"0": "background", key: "foreground"}


def test_colours_are_proposed_as_colours(bench: Bench) -> None:
    bench.rewrite_masks(lambda mask: np.dstack([mask * 0, mask, mask * 0]))
    assert only(bench.errors()).fix == "add  data.labels='{0x000000: background, 0x00ff00: NAME}'"
    for labels in ({"#000000": "background", "#00FF00": "leaf"}, {"0x000000": "background", "0x00ff00": "leaf"}):
        assert bench.errors(labels=labels) == []
        assert bench.prepare(labels=labels).manifest.labels == LabelMap.of({"#000000": "background", "#00ff00": "leaf"})


def test_smoothed_masks_are_reported_as_such_once(bench: Bench) -> None:
    random = np.random.default_rng(0)
    bench.rewrite_masks(lambda mask: random.integers(0, 255, mask.shape).astype(np.uint8))
    assert "gray levels" in only(bench.errors()).what
    problem = only([p for p in bench.errors(labels={"0": "background", "255": "head"}) if p.where.startswith("masks")])
    assert "gray levels" in problem.what
    assert "(in 12 masks)" in problem.what


@pytest.mark.parametrize("labels", [{"0": "background"}, {"1": "head"}, {"zero": "background", "one": "head"}])
def test_labels_that_make_no_sense_do_not_hide_other_faults(labels: dict[str, str], bench: Bench) -> None:
    bench.image("7.png").write_bytes(b"")
    assert [p.where for p in bench.errors(labels=labels)] == ["data.labels", "images/7.png"]


def test_a_class_that_is_empty_everywhere(bench: Bench) -> None:
    problem = only(bench.errors(labels={"0": "background", "255": "head", "9": "neck"}))
    assert (problem.where, problem.what) == ("class neck", "not one pixel of it in 12 masks")
    bench.rewrite_masks(lambda mask: mask * 0)
    assert only(bench.errors()).where == "class foreground"


def test_a_class_that_is_empty_somewhere_is_a_note(bench: Bench) -> None:
    write(bench.mask("1.png"), np.zeros((20, 30), np.uint8))
    assert [(p.severity, p.what) for p in bench.problems()] == [("note", "empty in 1 of 12 masks")]


def test_a_class_that_is_empty_nearly_everywhere_is_a_warning_with_a_way_on(bench: Bench) -> None:
    for i in range(2, 13):
        write(bench.mask(f"{i}.png"), np.zeros((20, 30), np.uint8))
    told = [p for p in bench.problems() if p.where == "class foreground"]
    assert ("warning", "empty in 11 of 12 masks") in [(p.severity, p.what) for p in told]
    assert any("sampling.weights=foreground" in p.fix for p in told)


def test_empty_images_are_reported_together_and_are_no_twins(bench: Bench) -> None:
    for i in (4, 8):
        write(bench.image(f"{i}.png"), np.zeros((20, 30), np.uint8))
    problem = only(bench.problems())
    assert (problem.severity, problem.what) == ("warning", "every pixel has the same value (and 1 more: 8)")
    assert problem.fix == 'data.exclude=\'["4","8"]\''


def test_images_with_other_channels(bench: Bench) -> None:
    write(bench.image("4.png"), np.random.default_rng(9).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    problem = only(bench.errors())
    assert (problem.where, problem.what) == ("images/4.png", "3 channels, but 11 of 12 images have 1")


def test_mixed_bit_depths_are_a_warning(bench: Bench) -> None:
    write(bench.image("4.png"), np.random.default_rng(9).integers(0, 65535, (20, 30), dtype=np.uint16))
    assert [(p.severity, p.what) for p in bench.problems()] == [("warning", "bit depths are mixed (11 uint8, 1 uint16)")]


def test_a_blank_image_is_a_warning(bench: Bench) -> None:
    write(bench.image("4.png"), np.full((20, 30), 3, np.uint8))
    assert [(p.severity, p.where) for p in bench.problems()] == [("warning", "images/4.png")]


def test_an_orphan_and_an_ambiguous_pair(bench: Bench) -> None:
    bench.mask("6.png").unlink()
    shutil.copy(bench.image("9.png"), bench.image("9.tif"))
    assert {(p.where, p.what.split(":")[0]) for p in bench.errors()} == {
        ("images/6.png", "has no mask masks/6.*"),
        ("images/9.png", "ambiguous"),
    }


def test_a_byte_identical_image_on_both_sides(bench: Bench) -> None:
    split = bench.prepare().split
    shutil.copy(bench.image(f"{split.train[0]}.png"), bench.image(f"{split.val[0]}.png"))
    problem = only(bench.errors())
    assert problem.what == f"the same pixels are in train ({split.train[0]}) and validation ({split.val[0]})"
    assert problem.fix == f"data.exclude='[\"{split.val[0]}\"]'"


def test_a_twin_within_one_side_is_a_warning(bench: Bench) -> None:
    train = bench.prepare().split.train
    shutil.copy(bench.image(f"{train[0]}.png"), bench.image(f"{train[1]}.png"))
    assert [p.severity for p in bench.problems()] == ["warning"]


def table(bench: Bench, header: str, row: Callable[[int], str]) -> None:
    rows = [f"{i},images/{i}.png,{row(i)}" for i in range(1, 13)]
    (bench.root / "cases.csv").write_text("\n".join([f"id,image,{header}", *rows]))


def test_a_group_on_both_sides_of_a_given_split(bench: Bench) -> None:
    table(bench, "mask,group,split", lambda i: f"masks/{i}.png,p{i // 2},{'train' if i < 9 else 'val'}")
    problem = only(bench.errors(name="csv", kind="auto"))
    assert (problem.where, problem.what) == ("group p4", "in train (8) and validation (9)")
    assert problem.fix == "use  split=holdout  (it keeps groups whole)"
    assert bench.errors(name="csv", kind="holdout") == []


def test_planes_want_overlap_and_single_masks_do_not(bench: Bench) -> None:
    table(bench, "mask_head,mask_neck", lambda i: f"masks/{i}.png,{'' if i == 1 else f'masks/{i}.png'}")
    assert only(bench.errors(name="csv", overlap=False)).fix == "data.overlap=true"
    prepared = prepare(bench.data("csv", bench.root), bench.split("holdout"), 0, cache_dir=bench.cache)
    assert (prepared.manifest.labels.classes, prepared.manifest.labels.mode) == (("head", "neck"), "multilabel")
    assert prepared.statistics["1"].class_pixels(prepared.manifest.labels) == {"head": 18, "neck": 0}
    problem = only(bench.errors(name="csv", overlap=True, labels={"head": "head"}))
    assert problem.fix.startswith("add  data.labels='{head: head, neck: neck}'")
    for labels in (None, {"head": "head"}):
        assert only(bench.errors(overlap=True, labels=labels)).fix == "data.overlap=false"


def test_images_without_a_mask_are_left_out_and_reported(bench: Bench) -> None:
    table(bench, "mask", lambda i: "" if i > 10 else f"masks/{i}.png")
    prepared = prepare(bench.data("csv", bench.root), bench.split("holdout"), 0, cache_dir=bench.cache)
    assert len(prepared.manifest) == len(prepared.split.train + prepared.split.val) == 10
    assert [note.what for note in prepared.notes] == ["2 of 12 images have none and are left out"]
    assert "nothing to learn from" in only(bench.errors(source={"masks": None})).what


def test_an_excluded_case_must_exist(bench: Bench) -> None:
    problem = only(bench.errors(exclude=["21"]))
    assert (problem.where, problem.what) == ("data.exclude", "'21' is not a case")


def test_everything_is_reported_at_once(bench: Bench) -> None:
    bench.image("7.png").write_bytes(b"")
    write(bench.mask("2.png"), np.zeros((10, 12), np.uint8))
    bench.mask("6.png").unlink()
    write(bench.mask("5.png"), np.full((20, 30), 7, np.uint8))
    with pytest.raises(ProblemsFound) as caught:
        bench.prepare(labels={"0": "background", "255": "head"}, exclude=["99"])
    assert str(caught.value).startswith("5 problems to fix before training starts")
    assert {p.where for p in caught.value.problems} == {"images/7.png", "masks/2.png", "images/6.png", "masks/5.png", "data.exclude"}


def test_a_split_that_cannot_be_made_is_reported_with_the_rest(bench: Bench) -> None:
    bench.image("7.png").write_bytes(b"")
    with pytest.raises(ProblemsFound) as caught:
        prepare(bench.data("folder", bench.root), bench.split("file", path="/nowhere.json"), 0, cache_dir=bench.cache)
    assert {p.where for p in caught.value.problems} == {"images/7.png", "split.path"}


def test_a_stale_split_is_refused(bench: Bench) -> None:
    bench.prepare().split.to_json(bench.root / "split.json")
    changes = {"kind": "file", "path": str(bench.root / "split.json")}
    kept = prepare(bench.data("folder", bench.root), bench.split(**changes), 0, cache_dir=bench.cache)
    assert kept.split.val == bench.prepare().split.val
    for folder in ("images", "masks"):
        shutil.copy(bench.root / folder / "1.png", bench.root / folder / "13.png")
    with pytest.raises(ProblemsFound, match="another state of the data"):
        prepare(bench.data("folder", bench.root), bench.split(**changes), 0, cache_dir=bench.cache)


# facts


def test_facts_are_what_is_in_the_files(bench: Bench) -> None:
    prepared = bench.prepare()
    case = prepared.manifest.by_id["3"]
    facts, image = prepared.statistics["3"], case.image.read() / 255
    assert (facts.shape, facts.channels, facts.dtype) == ((20, 30), 1, "uint8")
    assert facts.sum == pytest.approx([image.sum()])
    assert facts.sum_of_squares == pytest.approx([(image**2).sum()])
    assert (facts.minimum, facts.maximum) == ((image.min(),), (image.max(),))
    assert facts.class_pixels(prepared.manifest.labels) == {"foreground": int((case.masks[""].read() > 0).sum())}


def test_facts_are_read_once_and_again_where_a_file_changed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.prepare()
    read: list[str] = []
    original = statistics_module.statistics_of
    monkeypatch.setattr(statistics_module, "statistics_of", lambda case: (read.append(case.id), original(case))[1])
    again = bench.prepare()
    assert read == []
    assert again.statistics == first.statistics
    assert data_fingerprint(again.statistics) == data_fingerprint(first.statistics)
    image = cv2.imread(str(bench.image("4.png")), -1)
    image[0, 0] ^= 255
    write(bench.image("4.png"), image)
    changed = bench.prepare()
    assert read == ["4"]
    assert data_fingerprint(changed.statistics) != data_fingerprint(first.statistics)


def test_a_broken_cache_is_read_again(bench: Bench) -> None:
    first = bench.prepare()
    for path in bench.cache.glob("facts-*/*.jsonl"):
        path.write_text(path.read_text()[:100])
    assert bench.prepare().statistics == first.statistics


def test_the_fingerprint_does_not_depend_on_the_place_or_the_compression(bench: Bench, tmp_path: Path) -> None:
    before = data_fingerprint(bench.prepare().statistics)
    moved = tmp_path / "elsewhere"
    shutil.copytree(bench.root, moved)
    for path in (moved / "images").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), -1), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    after = prepare(bench.data("folder", moved), bench.split("holdout"), 0, cache_dir=tmp_path / "c2")
    assert data_fingerprint(after.statistics) == before


def test_a_scan_survives_any_reader(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Odd:
        paths: ClassVar[tuple[Path, ...]] = (Path("odd.bin"),)

        def read(self) -> np.ndarray:
            raise RuntimeError("strange hardware")

    facts = scan([Case("a", Odd(), MaskFile(tmp_path / "gone.png")), Case("b", ImageFile(tmp_path / "gone.png"))])
    assert facts["a"].errors[0] == ("odd.bin", "cannot be read (RuntimeError: strange hardware)")
    assert facts["b"].errors == ((str(tmp_path / "gone.png"), "is missing"),)
    assert isinstance(facts["a"], CaseStatistics)


# the command


def run(bench: Bench, output: Path | None) -> int:
    config = commands.Audit(
        output=None if output is None else str(output), seed=0, allow_targets=[], data=bench.data("folder", bench.root), split=bench.split()
    )
    return command(config)


def test_the_command_prints_a_summary_and_writes_json(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(bench, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "12, of these 12 labelled, in 12 groups" in said
    assert "20 x 30 (12)" in said
    assert "0 errors, 0 warnings, 0 notes" in said
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (written["cases"], written["problems"], written["split"]) == (12, [], {"train": 8, "val": 4, "test": 0})


def test_without_output_nothing_is_written_and_the_reader_learns_how(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(bench, None) == 0
    assert "output=DIR" in capsys.readouterr().out
    assert not list(tmp_path.rglob("audit.*"))


def test_the_command_fails_on_errors_and_says_what_to_type(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bench.mask("6.png").unlink()
    write(bench.mask("2.png"), np.zeros((10, 12), np.uint8))
    assert run(bench, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "is 10 x 12 but its image is 20 x 30" in said
    assert "-> fix the mask, or  data.exclude='[\"2\"]'" in said
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {p["where"] for p in written["problems"] if p["severity"] == "error"} == {"images/6.png", "masks/2.png"}
