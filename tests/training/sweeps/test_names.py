"""Names that a sweep gives to folders, and names that people give to sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.config import messages
from segkit.config.schema import Sweep
from segkit.system.errors import SegkitError
from segkit.training.sweeps.names import find_sweep, short_keys, trial_name


def test_folders_are_named_by_what_is_tried() -> None:
    assert trial_name({"optimizer.lr": "0.0012345678", "model.widths": "[8,16]", "shift": "-1.0"}, 3) == "lr-0.0012346_widths-8-16_shift--1"
    assert trial_name({"data.seed": "1", "split.seed": "2"}, 3) == "data.seed-1_split.seed-2"
    long = trial_name({f"key{i}": "x" * 20 for i in range(9)}, 12)
    assert len(long) == 100
    assert long.endswith("_trial12")


def test_a_key_that_is_added_is_named_without_its_plus() -> None:
    assert trial_name({"+a": "1", "++model.b": "2"}, 0) == "a-1_b-2"
    assert short_keys(["+data.seed", "split.seed"]) == {"+data.seed": "data.seed", "split.seed": "split.seed"}


def test_a_name_of_any_letters_fits_a_file_system() -> None:
    name = trial_name({"data.root": "脳" * 300}, 12)
    assert name.startswith("root-脳")
    assert name.endswith("脳_trial12")
    assert len(name.encode()) <= 255


@pytest.mark.parametrize("name", ["lr_2.5-b", "脳", 3, None])
def test_a_sweep_may_be_called(name: object) -> None:
    sweep, problems = messages.fit(Sweep, {"name": name})
    assert not problems
    assert sweep
    assert sweep.name == (None if name is None else str(name))


@pytest.mark.parametrize("name", ["a/b", "a[1]", "a*", "'a'", "..", ".a", "-a", "", "a b"])
def test_a_sweep_may_not_be_called(name: str) -> None:
    (problem,) = messages.fit(Sweep, {"name": name})[1]
    assert problem.where == "name"
    assert "letters, digits" in problem.what


def test_an_experiment_of_one_sweep_names_it(tmp_path: Path) -> None:
    for name in ("heads/sweeps/rates", "other/sweeps/rates2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "sweep.json").write_text("{}")
    assert find_sweep("heads", tmp_path) == find_sweep("rates", tmp_path) == tmp_path / "heads" / "sweeps" / "rates"
    (tmp_path / "heads" / "sweeps" / "again").mkdir()
    (tmp_path / "heads" / "sweeps" / "again" / "sweep.json").write_text("{}")
    with pytest.raises(SegkitError, match="say which: heads/again, heads/rates"):
        find_sweep("heads", tmp_path)
