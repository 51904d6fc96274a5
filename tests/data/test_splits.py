"""Splits: groups whole, sizes right, the same everywhere, and nothing stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from segkit.config import schema
from segkit.data.audit.checks import check_split
from segkit.data.case import Case, Manifest
from segkit.data.io.images import ImageFile, MaskFile
from segkit.data.labels import LabelMap
from segkit.data.splits import Split, make_split
from segkit.data.statistics import CaseStatistics, MaskStatistics
from segkit.system.errors import ProblemsFound

LABELS = LabelMap.of({0: "background", 1: "bone"})


def manifest(sizes: list[int], **extra: Mapping[str, object]) -> Manifest:
    """Groups g0, g1, … of the given sizes; ids g0-0, g0-1, …"""
    names = [(f"g{g}", f"g{g}-{k}") for g, size in enumerate(sizes) for k in range(size)]
    cases = [
        Case(id_, ImageFile(Path(f"/none/{id_}.png")), MaskFile(Path(f"/none/{id_}m.png")), group=g, **extra.get(id_, {}))  # type: ignore[arg-type]
        for g, id_ in names
    ]
    return Manifest("toy", Path("/none"), tuple(cases), LABELS)


def config(kind: str = "holdout", **changes: object) -> schema.Split:
    keys = {
        "kind": kind,
        "val_fraction": 0.2,
        "test_fraction": 0.0,
        "n_folds": 5,
        "fold": 0,
        "path": None,
        "stratify": True,
        "grouped": True,
        "seed": 0,
    }
    return schema.Split(**{**keys, **changes})  # type: ignore[arg-type]


def groups_of(ids: tuple[str, ...]) -> set[str]:
    return {id_.split("-")[0] for id_ in ids}


def said(caught: pytest.ExceptionInfo[ProblemsFound]) -> str:
    return str(caught.value)


def nearest_reachable(sizes: list[int], target: float) -> float:
    sums = {sum(chosen) for k in range(1, len(sizes)) for chosen in combinations(sizes, k)}
    return min(abs(s - target) for s in sums)


def test_holdout_keeps_groups_whole_and_comes_as_near_as_they_allow() -> None:
    random = np.random.default_rng(0)
    for seed in range(60):
        sizes = [int(s) for s in random.integers(1, 9, random.integers(2, 9))]
        fraction = float(random.uniform(0.05, 0.6))
        data = manifest(sizes)
        split = make_split(data, config(val_fraction=fraction, seed=seed))
        assert sorted(split.train + split.val) == sorted(case.id for case in data)
        assert split.train
        assert split.val
        assert not groups_of(split.train) & groups_of(split.val)
        target = max(1, round(fraction * len(data)))
        assert abs(len(split.val) - target) == nearest_reachable(sizes, target)


def test_holdout_with_a_test_side() -> None:
    for seed in range(30):
        split = make_split(manifest([1, 2, 3, 1, 2, 3, 1, 2, 3, 2]), config(test_fraction=0.3, seed=seed))
        assert (len(split.train), len(split.val), len(split.test)) == (10, 4, 6)
        assert not groups_of(split.train) & groups_of(split.val + split.test)
        assert not groups_of(split.val) & groups_of(split.test)


def test_every_side_gets_a_case_even_from_few_groups() -> None:
    for seed in range(20):
        split = make_split(manifest([97, 1, 1, 1]), config(test_fraction=0.2, val_fraction=0.3, seed=seed))
        assert split.train
        assert split.val
        assert split.test


def test_a_seed_is_a_split_for_ever() -> None:
    """Written down: the raw stream of PCG64 is the same on every platform and in every version of numpy."""
    split = make_split(manifest([1] * 10), config(seed=0, val_fraction=0.3))
    assert split.val == ("g1-0", "g2-0", "g3-0")
    assert make_split(manifest([1] * 10), config(seed=0, val_fraction=0.3)) == split
    assert make_split(manifest([1] * 10), config(seed=1, val_fraction=0.3)).val != split.val


def test_the_order_in_which_cases_were_found_does_not_matter() -> None:
    data = manifest([1, 2, 3, 2, 1, 4])
    turned = Manifest(data.name, data.root, data.cases[::-1], data.labels)
    a, b = make_split(data, config()), make_split(turned, config())
    assert (a.train, a.val) == (b.train, b.val)


def test_over_all_folds_every_case_validates_once() -> None:
    random = np.random.default_rng(1)
    for seed in range(20):
        data = manifest([int(s) for s in random.integers(1, 5, 23)])
        folds = [make_split(data, config("kfold", fold=k, seed=seed)) for k in range(5)]
        assert sorted(id_ for split in folds for id_ in split.val) == sorted(case.id for case in data)
        for split in folds:
            assert not groups_of(split.train) & groups_of(split.val)
            assert len(split.train) + len(split.val) == len(data)
        sizes = [len(split.val) for split in folds]
        assert max(sizes) - min(sizes) <= 4


def test_too_few_groups_are_reported() -> None:
    with pytest.raises(ProblemsFound) as caught:
        make_split(manifest([12]), config())
    assert "2 groups, there is 1 group (12 images)" in said(caught)
    with pytest.raises(ProblemsFound) as caught:
        make_split(manifest([3, 3, 3]), config("kfold"))
    assert "there are 3 groups;   split.n_folds=3" in said(caught)
    with pytest.raises(ProblemsFound) as caught:
        make_split(manifest([1] * 9), config("kfold", fold=5))
    assert "split.fold=4" in said(caught)
    with pytest.raises(ProblemsFound, match="val_fraction"):
        make_split(manifest([1] * 9), config(val_fraction=0.0))
    with pytest.raises(ProblemsFound, match="nothing is left to train on"):
        make_split(manifest([1] * 9), config(val_fraction=0.6, test_fraction=0.6))


def given(sides: dict[str, str]) -> dict[str, dict[str, object]]:
    return {id_: {"split": side} for id_, side in sides.items()}


def test_auto_takes_the_data_sets_own_split_where_it_has_one() -> None:
    data = manifest([1, 1, 1], **given({"g0-0": "train", "g1-0": "val", "g2-0": "test"}))
    split = make_split(data, config("auto"))
    assert (split.kind, split.train, split.val, split.test) == ("given", ("g0-0",), ("g1-0",), ("g2-0",))
    assert make_split(manifest([1] * 5), config("auto")).kind == "holdout"


def test_auto_takes_the_data_sets_own_folds() -> None:
    folds = {f"g{i}-0": {"facts": {"fold": str(i // 2)}} for i in range(6)}
    data = manifest([1] * 6, **folds)
    split = make_split(data, config("auto", fold=1))
    assert (split.kind, split.val) == ("kfold", ("g2-0", "g3-0"))


def test_a_given_split_must_be_complete() -> None:
    with pytest.raises(ProblemsFound, match=r"1 of 3 cases have no split of their own, e\.g\. g2-0"):
        make_split(manifest([1, 1, 1], **given({"g0-0": "train", "g1-0": "val"})), config("given"))
    with pytest.raises(ProblemsFound, match="names no validation case"):
        make_split(manifest([1, 1], **given({"g0-0": "train", "g1-0": "test"})), config("given"))


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    data = manifest([1] * 10)
    split = make_split(data, config())
    split.to_json(tmp_path / "split.json")
    assert Split.from_json(tmp_path / "split.json") == split
    assert Split.from_dict(split.as_dict()) == split
    again = make_split(data, config("file", path=str(tmp_path / "split.json")))
    assert (again.train, again.val, again.manifest_hash) == (split.train, split.val, data.hash)


def test_a_split_written_by_hand_needs_only_the_ids(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"train": ["g10-0", "g2-0"], "val": ["g1-0"]}')
    data = manifest([0, 1, 1] + [0] * 7 + [1])
    assert make_split(data, config("file", path=str(tmp_path / "s.json"))).val == ("g1-0",)


def test_all_that_is_wrong_with_a_split_file_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    sides = {"train": ["g0-0", "g0-1", "g0-1"], "val": ["g0-0", "g1-9"], "manifest_hash": "0123456789abcdef"}
    path.write_text(json.dumps(sides))
    with pytest.raises(ProblemsFound) as caught:
        make_split(manifest([2, 1, 1]), config("file", path=str(path)))
    text = said(caught)
    assert "another state of the data" in text
    assert "split=holdout" in text
    assert "'g1-9' in val is not a case;   did you mean g1-0?" in text
    assert "'g0-1' is twice in train" in text
    assert "'g0-0' is in train and in val" in text
    assert "2 of 4 cases are in no subset" in text


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"train": ["a"]}', '{"train": [1], "val": [2]}', '{"train": "a", "val": "b"}'])
def test_a_file_that_is_no_split(content: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(ProblemsFound):
        make_split(manifest([1, 1]), config("file", path=str(tmp_path / "s.json")))


def test_a_split_file_that_is_not_there() -> None:
    with pytest.raises(ProblemsFound, match="is missing"):
        make_split(manifest([1, 1]), config("file", path="/nowhere/s.json"))
    with pytest.raises(ProblemsFound, match="not set"):
        make_split(manifest([1, 1]), config("file"))


def test_leaks_between_the_sides_are_found() -> None:
    data = manifest([2, 1, 1])
    split = Split(("g0-0", "g1-0"), ("g0-1", "g2-0"))
    facts = {case.id: CaseStatistics(sha1=case.id) for case in data}
    facts["g2-0"] = CaseStatistics(sha1="g1-0")
    errors = [p for p in check_split(data, split, facts) if p.severity == "error"]
    assert [(p.where, p.what, p.fix) for p in errors] == [
        ("group g0", "in train (g0-0) and validation (g0-1)", "use  split=holdout  (it keeps groups whole)"),
        ("image g1-0", "the same pixels are in train (g1-0) and validation (g2-0)", "data.exclude='[\"g2-0\"]'"),
    ]


def test_an_empty_side_is_an_error_and_a_class_that_one_side_lacks_a_warning() -> None:
    data = manifest([1, 1])
    facts = {case.id: CaseStatistics(sha1=case.id) for case in data}
    assert [(p.severity, p.where) for p in check_split(data, Split(("g0-0", "g1-0"), ()), facts)] == [("error", "split")]
    facts["g0-0"] = CaseStatistics(sha1="a", masks={"": MaskStatistics((2, 2), {"0": 1, "1": 3}, 2, "")})
    said = [(p.severity, p.where, p.what) for p in check_split(data, Split(("g0-0",), ("g1-0",)), facts)]
    assert said == [("warning", "class bone", "no validation case has it")]


def masked(data: Manifest, area: dict[str, int], label: str = "1") -> dict[str, CaseStatistics]:
    """Facts of masks of 100 pixels, of which `area` are bone."""
    masks = {id_: {"": MaskStatistics((10, 10), {"0": 100 - n, **({label: n} if n else {})}, 2, id_)} for id_, n in area.items()}
    return {case.id: CaseStatistics(shape=(10, 10), sha1=case.id, masks=masks[case.id]) for case in data}


def test_a_stratified_holdout_gives_each_side_its_share_of_a_class_and_of_sizes() -> None:
    data = manifest([1] * 100)
    area = {case.id: 0 if i % 4 else 1 + i // 2 for i, case in enumerate(data)}
    facts = masked(data, area)
    shares, sizes = [], []
    for seed in range(20):
        split = make_split(data, config(seed=seed), facts)
        assert (len(split.train), len(split.val)) == (80, 20)
        shares.append(sum(area[id_] > 0 for id_ in split.val))
        sizes.append(sum(area[id_] > 25 for id_ in split.val))
    assert min(shares) >= 4
    assert max(shares) <= 6
    assert min(sizes) >= 1
    assert max(sizes) <= 4
    assert len({make_split(data, config(seed=seed), facts).val for seed in range(20)}) == 20
    plain = [sum(area[id_] > 0 for id_ in make_split(data, config(seed=seed)).val) for seed in range(20)]
    assert max(plain) - min(plain) > max(shares) - min(shares)


def test_stratified_folds_share_a_rare_class_and_keep_groups_whole() -> None:
    random = np.random.default_rng(3)
    for seed in range(10):
        data = manifest([int(n) for n in random.integers(1, 4, 30)])
        facts = masked(data, {case.id: 20 if int(case.group[1:]) % 6 == 0 else 0 for case in data})
        folds = [make_split(data, config("kfold", fold=k, seed=seed), facts) for k in range(5)]
        assert sorted(id_ for split in folds for id_ in split.val) == sorted(case.id for case in data)
        for split in folds:
            assert not groups_of(split.train) & groups_of(split.val)
            assert sum(int(group[1:]) % 6 == 0 for group in groups_of(split.val)) == 1
        assert max(len(split.val) for split in folds) - min(len(split.val) for split in folds) <= 3


def test_without_stratify_facts_change_nothing() -> None:
    data = manifest([1] * 30)
    facts = masked(data, {case.id: 3 * i for i, case in enumerate(data)})
    assert make_split(data, config(stratify=False), facts) == make_split(data, config())
    assert make_split(data, config(), facts).val != make_split(data, config()).val


def test_a_stratified_seed_is_a_split_for_ever() -> None:
    data = manifest([1] * 10)
    facts = masked(data, {case.id: 10 * i for i, case in enumerate(data)})
    assert make_split(data, config(val_fraction=0.3), facts).val == ("g2-0", "g5-0", "g7-0")


def test_leave_one_out_validates_each_group_once() -> None:
    data = manifest([2, 1, 3])
    splits = [make_split(data, config("leave_one_out", fold=k)) for k in range(3)]
    assert [split.val for split in splits] == [("g0-0", "g0-1"), ("g1-0",), ("g2-0", "g2-1", "g2-2")]
    assert all(len(split.train) + len(split.val) == 6 for split in splits)
    with pytest.raises(ProblemsFound, match=r"there are 3 folds, counted from 0;   split\.fold=2"):
        make_split(data, config("leave_one_out", fold=3))
    with pytest.raises(ProblemsFound, match="needs 2 groups"):
        make_split(manifest([4]), config("leave_one_out"))


@pytest.mark.parametrize("kind", ["auto", "holdout", "kfold", "leave_one_out"])
def test_a_given_test_set_stays_apart_and_the_rest_is_divided(kind: str) -> None:
    data = manifest([1] * 12, **given({"g0-0": "test", "g7-0": "test"}))
    split = make_split(data, config(kind, test_fraction=0.3))
    assert split.test == ("g0-0", "g7-0")
    assert len(split.train) + len(split.val) == 10
    assert split.kind == ("holdout" if kind == "auto" else kind)


def test_excluded_cases_are_on_no_side_and_come_back_from_the_file(tmp_path: Path) -> None:
    said: dict[str, dict[str, object]] = {"g3-0": {"facts": {"excluded": "bad annotation"}}, "g4-0": {"facts": {"excluded": 0}}}
    data = manifest([1] * 8, **said)
    for kind in ("holdout", "kfold", "leave_one_out"):
        split = make_split(data, config(kind))
        assert split.excluded == ("g3-0",)
        assert len(split.train) + len(split.val) == 7
    split.to_json(tmp_path / "s.json")
    again = make_split(data, config("file", path=str(tmp_path / "s.json")))
    assert (again.excluded, again.train) == (split.excluded, split.train)
    (tmp_path / "t.json").write_text(json.dumps({"train": ["g3-0"], "val": [f"g{i}-0" for i in range(8) if i != 3]}))
    with pytest.raises(ProblemsFound, match="'g3-0' in train is one that the data set excludes"):
        make_split(data, config("file", path=str(tmp_path / "t.json")))


def test_empty_slices_on_both_sides_are_no_leak() -> None:
    data = manifest([1, 1])
    facts = {case.id: CaseStatistics(sha1="black", minimum=(0.0,), maximum=(0.0,)) for case in data}
    assert check_split(data, Split(("g0-0",), ("g1-0",)), facts) == []


def test_one_patient_can_only_be_divided_where_someone_asks_for_it_and_that_is_reported() -> None:
    cases = tuple(Case(str(i), image, group="only") for i, image in enumerate([ImageFile(Path(f"{i}.png")) for i in range(10)]))
    manifest = Manifest("one", Path(), cases, LABELS)
    with pytest.raises(ProblemsFound, match=r"there is 1 group .* split\.grouped=false"):
        make_split(manifest, config())
    split = make_split(manifest, config(grouped=False))
    assert len(split.train) + len(split.val) == 10
    (problem,) = [p for p in check_split(manifest, split, {}) if p.where == "split.grouped"]
    assert problem.severity == "warning"
    assert "scores will be too good" in problem.what
    assert not Split.from_dict(split.as_dict()).grouped
