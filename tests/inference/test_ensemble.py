"""Ensembles and combinations of toy members whose probabilities are known, and of real ones through the command line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segkit
from segkit.data.labels import LabelMap
from segkit.inference.ensemble import Combination, Ensemble, Member
from segkit.inference.postprocess import Decision
from segkit.inference.predictor import CheckpointPredictor, Prediction
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware
from tests.conftest import SMALL, Cli

RIVALS = {0: "background", 1: "left", 2: "right"}


class Toy(CheckpointPredictor):
    """Says what it is told."""

    def __init__(self, metadata: Any, config: Any, values: dict[int, str], probs: np.ndarray, overlap: bool = False) -> None:
        self.labels = LabelMap.of(values, overlap)
        self.metadata = replace(metadata, labels=self.labels.as_dict())
        self.config, self.hardware = config, Hardware.choose("cpu", "32", "auto")
        self.decide = Decision(self.labels, 0.5)
        self.probs = np.asarray(probs, np.float32)

    def streams(self, n: int) -> int:
        return 1

    def predict_all(self, images: Iterable[Any]) -> Iterator[Prediction]:
        for _ in images:
            yield Prediction(self.decide(self.probs), self.probs, np.zeros((*self.probs.shape[1:], 1)))


@pytest.fixture(scope="module")
def base(trained: Path) -> Any:
    return segkit.load(trained)


def toy(base: Any, values: dict[int, str], *pixels: tuple[float, ...], overlap: bool = False) -> Toy:
    """`pixels`: the probabilities of each pixel of a row."""
    return Toy(base.metadata, base.config, values, np.array(pixels).T[:, None], overlap)


def pair(base: Any) -> list[Member]:
    a = toy(base, RIVALS, (0.1, 0.9, 0.0), (0.1, 0.9, 0.0), (0.9, 0.1, 0.0), (0.9, 0.1, 0.0))
    b = toy(base, RIVALS, (0.9, 0.0, 0.1), (0.3, 0.0, 0.7), (0.2, 0.0, 0.8), (0.9, 0.0, 0.1))
    return [Member("a", a, ("left",)), Member("b", b, ("right",))]


def test_a_planted_collision_goes_to_the_likelier_or_to_the_first(base: Any) -> None:
    by_probability = Combination(pair(base), "max_prob").predict("image")
    assert by_probability.mask.tolist() == [[1, 1, 2, 0]]
    assert by_probability.collisions == 1
    assert np.allclose(by_probability.probs.sum(axis=0), 1)
    turned = Combination(pair(base)[::-1], "priority").predict("image")
    assert turned.mask.tolist() == [[1, 2, 2, 0]]
    both = Combination(pair(base), "multilabel").predict("image")
    assert both.mask.tolist() == [[[1, 1, 0, 0]], [[0, 1, 1, 0]]]


def deciding(toy: Toy, threshold: float | dict[str, float]) -> Toy:
    toy.decide = Decision(toy.labels, threshold)
    return toy


def binary_pair(base: Any, threshold: float) -> list[Member]:
    """One claims pixels 0 and 1 at a threshold of 0.3, the other pixels 1 and 2; nobody at 0.5."""
    a = toy(base, {0: "background", 1: "left"}, (0.4,), (0.4,), (0.05,), (0.05,))
    b = toy(base, {0: "background", 2: "right"}, (0.05,), (0.45,), (0.4,), (0.05,))
    return [Member("a", deciding(a, threshold), ("left",)), Member("b", deciding(b, threshold), ("right",))]


def test_members_keep_their_thresholds(base: Any) -> None:
    for merge, mask in {"max_prob": [[1, 2, 2, 0]], "priority": [[1, 1, 2, 0]], "multilabel": [[[1, 1, 0, 0]], [[0, 1, 1, 0]]]}.items():
        found = Combination(binary_pair(base, 0.3), merge).predict("image")  # type: ignore[arg-type]
        assert found.mask.tolist() == mask, merge
        assert found.collisions == 1, merge
    nothing = Combination(binary_pair(base, 0.5), "priority").predict("image")
    assert (nothing.mask.any(), nothing.collisions) == (False, 0)


def test_a_high_threshold_lets_nothing_through(base: Any) -> None:
    sure = {0: "background", 1: "left"}, {0: "background", 2: "right"}
    a, b = (deciding(toy(base, values, (0.7,)), 0.8) for values in sure)
    for merge in ("priority", "multilabel"):
        found = Combination([Member("a", a, ("left",)), Member("b", b, ("right",))], merge).predict("image")  # type: ignore[arg-type]
        assert (found.mask.any(), found.collisions) == (False, 0)
    alone = toy(base, sure[1], (0.0,))
    assert not Combination([Member("a", a, ("left",)), Member("b", alone, ("right",))], "max_prob").predict("image").mask.any()


def test_without_thresholds_the_background_is_the_product_of_the_members_backgrounds(base: Any) -> None:
    a = toy(base, {0: "background", 1: "left"}, (0.45,), (0.3,), (0.6,))
    b = toy(base, {0: "background", 2: "right"}, (0.45,), (0.2,), (0.0,))
    found = Combination([Member("a", a, ("left",)), Member("b", b, ("right",))], "max_prob").predict("image")
    scores = np.array([[0.55 * 0.55, 0.7 * 0.8, 0.4], [0.45, 0.3, 0.6], [0.45, 0.2, 0.0]])
    assert found.mask.tolist() == [scores.argmax(axis=0).tolist()]
    assert np.allclose(found.probs[:, 0], scores / scores.sum(axis=0))


def test_overlapping_classes_are_assigned_each_by_its_own_threshold(base: Any) -> None:
    """Two classes at 0.45 are two that are not there, and not one that is."""
    overlapping = toy(base, {"x": "x", "y": "y"}, (0.45, 0.45), (0.45, 0.6), overlap=True)
    other = toy(base, {0: "background", 1: "z"}, (0.9,), (0.9,))
    members = [Member("a", overlapping, ("x", "y")), Member("b", other, ("z",))]
    found = Combination(members, "multilabel").predict("image")
    assert found.mask[:, 0].tolist() == [[0, 0], [0, 1], [1, 1]]
    assert found.collisions == 1
    deciding(overlapping, {"x": 0.4})
    found = Combination(members, "multilabel").predict("image")
    assert found.mask[:, 0].tolist() == [[1, 1], [0, 1], [1, 1]]
    assert found.collisions == 2


def test_only_owned_classes_count(base: Any) -> None:
    _, b = pair(base)
    knows_both = toy(base, RIVALS, (0.1, 0.4, 0.5), (0.1, 0.9, 0.0), (0.1, 0.0, 0.9), (0.9, 0.1, 0.0))
    found = Combination([Member("a", knows_both, ("left",)), b], "max_prob").predict("image")
    assert found.mask.tolist() == [[0, 1, 2, 0]]  # of the first pixel half is right, which is not its to say


def test_who_owns_what_must_be_clear(base: Any) -> None:
    a, b = pair(base)
    with pytest.raises(SegkitError, match=r"members a and b both own left;   assign it with  members\.NAME\.labels"):
        Combination([a, replace(b, owned=("left", "right"))], "max_prob")
    with pytest.raises(SegkitError, match=r"members\.a\.labels: its checkpoint has no class lefd; did you mean left"):
        Combination([replace(a, owned=("lefd",)), b], "max_prob")
    with pytest.raises(SegkitError, match=r"no member owns right, which a was trained on;   .*members\.a\.labels=\[…,right\]"):
        Combination([a], "max_prob")
    other = toy(base, {0: "background", 1: "up", 2: "right"}, (1.0, 0.0, 0.0))
    with pytest.raises(SegkitError, match="value 1 is left to one member and up to c"):
        Combination([a, Member("c", other, ("up", "right"))], "max_prob")


def test_cases_that_any_member_was_trained_on_are_not_validation(base: Any) -> None:
    a, b = pair(base)
    splits: list[dict[str, Any]] = [{"train": ["1"], "val": ["2", "3"], "test": []}, {"train": ["2"], "val": ["1", "3"], "test": []}]
    changed = [replace(member.predictor.metadata, split=split) for member, split in zip((a, b), splits, strict=True)]
    a.predictor.metadata, b.predictor.metadata = changed
    assert Combination([a, b], "max_prob").metadata.split["val"] == ["3"]


def test_an_ensemble_is_the_mean_of_probabilities(base: Any) -> None:
    one, two = toy(base, {0: "background", 1: "x"}, (0.9,), (0.2,)), toy(base, {0: "background", 1: "x"}, (0.3,), (0.6,))
    found = Ensemble([one, two]).predict("image")
    assert found.probs[0, 0].tolist() == pytest.approx([0.6, 0.4])
    assert found.mask.tolist() == [[1, 0]]
    with pytest.raises(SegkitError, match="an ensemble needs the same classes"):
        Ensemble([one, pair(base)[0].predictor])


@pytest.mark.slow
def test_ensembles_and_test_time_augmentation_from_the_command_line(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "run=second", "seed=0", "optimizer.lr=0.002", "preprocess.size=[64,80]")
    assert done.returncode == 0, done.stderr
    second = tmp_path / "outputs/small/second"
    done = segkit_in("evaluate", f"ckpt=[{trained},{second}]", "inference.tta=flips", "data=phantom", "data.phantom_n=6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "outputs/together/first+second/evaluation").glob("*/cases.csv"))
    keys = "inference.postprocess={largest: {_target_: segkit.inference.LargestComponents}}"
    made = segkit_in("phantom", "data=phantom", "output=images", "n=2")
    assert made.returncode == 0
    done = segkit_in("predict", f"ckpt=[{trained},{second}]", "input=images/images", "output=masks", keys)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2


def test_a_command_without_checkpoint_says_so(segkit_in: Cli) -> None:
    done = segkit_in("evaluate")
    assert done.returncode == 2
    assert "add  ckpt=FILE" in done.stderr


@pytest.mark.slow
def test_two_networks_of_the_pelvis_make_one_map_of_six_bones(segkit_in: Cli, tmp_path: Path) -> None:
    small = (
        "model.widths=[8,16,24]",
        "preprocess.size=[96,96]",
        "sampling.patch=[64,64]",
        "data.phantom_n=12",
        "debug=fast",
        "trainer.compile=false",
    )
    for preset in ("pelvis_134", "pelvis_256"):
        done = segkit_in("train", f"experiment={preset}", "run=r", *small)
        assert done.returncode == 0, done.stdout + done.stderr
    members = ("members.a.ckpt=outputs/pelvis_134/r", "members.b.ckpt=outputs/pelvis_256/r")
    done = segkit_in("evaluate", "experiment=pelvis_combination", *members)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "claimed by several members" in done.stdout
    (table,) = (tmp_path / "outputs/together").rglob("cases.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["class"] for row in rows}) == 6
    judged = {row["case"] for row in rows}
    with (tmp_path / "outputs/pelvis_134/r/cases.csv").open() as file:
        assert judged == {row["case"] for row in csv.DictReader(file)}
    done = segkit_in("evaluate", "experiment=pelvis_combination", *members, "members.b.labels=[femur]")
    assert done.returncode == 2
    assert "its checkpoint has no class femur" in done.stderr
