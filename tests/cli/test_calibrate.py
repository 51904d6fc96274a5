"""Thresholds and steps are found where they help, and nothing is kept where they do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from segkit.cli.calibrate import CachedPrediction, Calibration, ClassScorer, Improvement, choose, fitting, store
from segkit.data.case import Case
from segkit.data.io.images import ImageFile
from segkit.data.labels import LabelMap
from segkit.inference.postprocess import Decision, FillHoles, FitEllipse, MinimumSize, threshold_of
from segkit.metrics.overlap import Overlap
from segkit.models import checkpoint
from tests.conftest import SMALL, Cli

HEAD = LabelMap.of({0: "background", 1: "head"})


def cached(i: int, level: float, specks: int) -> CachedPrediction:
    """A disc of probability `level`, and `specks` sure pixels that are wrong."""
    rows, columns = np.mgrid[:64, :64]
    target = ((rows - 32 - i) ** 2 + (columns - 30) ** 2 < 15**2).astype(np.uint8)
    probs = np.where(target > 0, level, 0.05 + 0.001 * i)
    for k in range(specks):
        probs[2, 3 * k + 1] = 0.95
    return CachedPrediction(Case(str(i), ImageFile(Path("x"))), probs[None].astype(np.float16), target, (1.0, 1.0))


def scorer(level: float, specks: int) -> ClassScorer:
    metric = Overlap()
    return ClassScorer(
        [cached(i, level + 0.002 * i, specks + i % 3 if specks else 0) for i in range(8)],
        HEAD,
        {"overlap": metric},
        metric.statistics[0],
        1.0,
    )


def test_a_threshold_that_is_too_high_is_lowered_and_specks_are_removed() -> None:
    chosen = choose(scorer(0.4, 4), Decision(HEAD, 0.5))
    assert threshold_of("head", chosen.decision.threshold) < 0.4
    assert any("threshold" in text for text in chosen.kept)
    steps = [node["_target_"].rpartition(".")[2] for node in chosen.nodes.values()]
    assert {"LargestComponents", "MinimumSize", "Smooth"} & set(steps)


def test_nothing_is_kept_where_nothing_helps() -> None:
    chosen = choose(scorer(0.9, 0), Decision(HEAD, 0.5))
    assert [text for text in chosen.kept if "ellipse" not in text] == []
    assert set(chosen.nodes) <= {"calibrated_ellipse_head"}


def test_the_checkpoints_own_decision_is_where_it_starts() -> None:
    """Its threshold of 0.3 is as good as any, and a step of its own takes the specks away: there is nothing to gain."""
    own = Decision(HEAD, 0.3, (MinimumSize(px=9), FitEllipse()))
    chosen = choose(scorer(0.4, 4), own)
    assert chosen.kept == ()
    assert chosen.decision.threshold == {"head": 0.3}
    assert chosen.decision.steps == own.steps


def test_own_steps_stay_in_place_before_those_that_are_found() -> None:
    own = FillHoles()
    chosen = choose(scorer(0.9, 4), Decision(HEAD, 0.5, (own,)))
    assert chosen.kept
    assert chosen.decision.steps[0] is own
    assert "calibrated_fill_holes_head" not in chosen.nodes


def test_a_lucky_case_decides_nothing() -> None:
    before, alone = np.full(10, 0.9), [str(i) for i in range(10)]
    after = before.copy()
    after[0] += 0.1
    assert Improvement.of(before, after, alone).mean > 0
    assert not Improvement.of(before, after, alone).is_significant(1)
    steady = before + 0.01 + 0.001 * np.arange(10)
    assert Improvement.of(before, steady, alone).is_significant(18)
    missing = before + 0.05
    missing[3] = np.nan  # a head that is lost is no gain
    assert not Improvement.of(before, missing, alone).is_significant(1)


def test_many_slices_of_a_patient_are_no_many_patients() -> None:
    gains = np.random.default_rng(0).normal(0.02, 0.02, 4)
    once = Improvement.of(np.zeros(4), gains, list("abcd"))
    copied = Improvement.of(np.zeros(40), np.repeat(gains, 10), [patient for patient in "abcd" for _ in range(10)])
    assert (copied.mean, copied.error, copied.n_groups) == (pytest.approx(once.mean), pytest.approx(once.error), 4)
    assert not Improvement.of(np.zeros(40), np.repeat(0.02, 40), ["a"] * 40).is_significant(1)


@pytest.mark.parametrize(("n_groups", "per_group"), [(40, 1), (4, 10)])
def test_where_nothing_helps_luck_keeps_something_once_in_twenty(n_groups: int, per_group: int) -> None:
    """Scores drawn anew at each trial, alike within a patient."""

    @dataclass(frozen=True)
    class Lucky(ClassScorer):
        rng: np.random.Generator = field(default_factory=np.random.default_rng)

        def scores(self, decision: Decision, class_name: str) -> np.ndarray:
            of_group, of_case = self.rng.normal(0.8, 0.02, n_groups), self.rng.normal(0, 0.02, n_groups * per_group)
            return np.asarray(np.repeat(of_group, per_group) + of_case)

    one = cached(0, 0.9, 0)
    cases = [replace(one, case=replace(one.case, group=str(i // per_group))) for i in range(n_groups * per_group)]
    lucky = Lucky(cases, HEAD, {}, Overlap().statistics[0], 1.0, np.random.default_rng(0))
    kept = [bool(choose(lucky, Decision(HEAD, 0.5)).kept) for _ in range(300)]
    assert np.mean(kept) <= 0.08


def test_where_memory_is_short_all_folds_are_evaluated() -> None:
    """40 cases of 4 folds, one after the other; one in ten is large."""
    cases = [replace(cached(0, 0.9, 0).case, id=str(i), group=f"fold {i // 10}") for i in range(40)]
    pixels = [50 if i % 10 == 7 else 5 for i in range(40)]
    chosen = fitting(cases, pixels, 200)
    assert chosen == fitting(cases, pixels, 200)
    assert sum(pixels[int(case.id)] for case in chosen) <= 200
    assert min(Counter(case.group for case in chosen).values()) >= len(chosen) // 4 > 0
    assert len(fitting(cases, [5] * 40, 200)) == 40
    assert [case.id for case in fitting(cases, [5] * 40, 50)] == [str(i) for i in range(0, 40, 4)]
    assert fitting(cases, [5] * 40, 4) == []


def test_what_is_found_is_stored_beside_what_was_there(tmp_path: Path) -> None:
    ellipse, fill = ({"_target_": f"segkit.inference.{step}"} for step in ("FitEllipse", "FillHoles"))
    config = {"inference": {"threshold": 0.5, "tta": "horizontal", "postprocess": {"ellipse": ellipse}}}
    checkpoint.save({checkpoint.METADATA_KEY: {"config": config, "calibration": {"n": 6, "kept": ["earlier"]}}}, tmp_path / "best.ckpt")
    store(tmp_path / "best.ckpt", Calibration(Decision(HEAD, {"head": 0.35}), {"calibrated_fill_holes_head": fill}, ("found",)), 7)
    metadata = checkpoint.read(tmp_path / "best.ckpt")[checkpoint.METADATA_KEY]
    inference = metadata["config"]["inference"]
    assert (inference["threshold"], inference["tta"]) == (0.35, "horizontal")
    assert list(inference["postprocess"].items()) == [("ellipse", ellipse), ("calibrated_fill_holes_head", fill)]
    assert metadata["calibration"] == {"n": 7, "kept": ["earlier", "found"]}


def test_what_was_chosen_is_kept_in_the_checkpoint_and_used(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *SMALL, "split.val_fraction=0.4", "run=r", "data.phantom_n=20", "optimizer.lr=3e-3")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs/small/r"
    first = (run / "cases.csv").read_bytes()
    done = segkit_in("calibrate", f"ckpt={run}")
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = checkpoint.load_model(run)[1]
    if "stays as it is" in done.stdout:
        assert metadata.calibration == {}
        return
    assert metadata.calibration["n"] == 8
    assert metadata.calibration["kept"]
    assert segkit_in("evaluate", f"ckpt={run}").returncode == 0
    assert (run / "evaluation/val/cases.csv").read_bytes() != first


def test_too_few_cases_are_refused(trained: Path, segkit_in: Cli) -> None:
    done = segkit_in("calibrate", f"ckpt={trained}")
    assert done.returncode == 2
    assert "3 validation cases are too few" in done.stderr
