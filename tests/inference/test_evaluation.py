"""An evaluation predicts every case once, and keeps the worst and a few others to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from segkit.data.case import Case
from segkit.data.labels import LabelMap
from segkit.inference.evaluation import Evaluation, evaluate_cases, match_labels
from segkit.inference.examples import CELL, EXTRA, MISSED, N_OTHERS, N_WORST, read_examples, write_examples
from segkit.inference.mask_files import OVERLAP, Rules
from segkit.inference.predictor import InMemory, Prediction
from segkit.metrics import Statistic
from segkit.metrics.table import CaseTable, Row
from segkit.system.errors import SegkitError

HEAD = LabelMap.of({0: "background", 1: "head"})
SIZE = 40


class Shrinking:
    """Finds `found[id]` of the 40 pixels of each case, and counts how often it is asked."""

    config = Rules(OVERLAP, [])

    def __init__(self, found: list[int]) -> None:
        self.found, self.asked = found, 0

    def predict_all(self, images: Iterable[Case]) -> Iterator[Prediction]:
        for case in images:
            self.asked += 1
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[0, : self.found[int(case.id)]] = 1
            yield Prediction(mask, np.empty(0, np.float32), case.image.read())


def case(i: int) -> Case:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[0] = 1
    return Case(str(i), InMemory(np.full((SIZE, SIZE, 1), i, np.uint8)), InMemory(mask))


def shown(found: list[int]) -> tuple[list[int], list[int]]:
    """The worst, and the others that an evaluation shows, both in their order."""
    cases, predictor = [case(i) for i in range(len(found))], Shrinking(found)
    panels = evaluate_cases(predictor, cases, HEAD, {case.id: "val" for case in cases}).panels
    assert predictor.asked == len(cases)
    of = [[int(panel.image.max()) for panel in panels if bool(panel.mark) is is_worst] for is_worst in (True, False)]
    assert [int(panel.image.max()) for panel in panels] == [*of[0], *of[1]]
    return of[0], of[1]


def test_the_worst_are_shown_first_and_others_from_all_over_the_list() -> None:
    scores = np.random.default_rng(0).permutation(SIZE).tolist()
    worst, others = shown(scores)
    assert worst == [scores.index(score) for score in range(N_WORST)]
    assert len(others) == N_OTHERS
    assert len({i // 10 for i in others}) == 4
    assert [scores[i] for i in others] == sorted(scores[i] for i in others)


def test_of_few_cases_all_are_shown_and_a_third_is_marked_as_the_worst() -> None:
    assert shown([5, 30, 10, 20, 40, 15, 25]) == ([0, 2], [5, 3, 6, 1, 4])
    assert shown([5, 30]) == ([0], [1])


def test_none_is_the_worst_where_all_are_equal() -> None:
    assert shown([9, 9, 9, 9, 9, 9]) == ([], [0, 1, 2, 3, 4, 5])
    assert shown([9]) == ([], [0])


def test_data_that_lacks_some_classes_is_evaluated_by_the_classes_of_the_checkpoint_in_their_order() -> None:
    trained = LabelMap.of({"heart": "heart", "left": "left", "right": "right"}, overlap=True)
    lungs = LabelMap.of({"R": "right", "L": "left", "tube": "background"}, overlap=True)
    found = match_labels(lungs, trained)
    assert found.classes == trained.classes
    assert dict(found.values)["R"] == "right"
    exclusive = match_labels(LabelMap.of({0: "background", 7: "b"}), LabelMap.of({0: "background", 1: "a", 2: "b"}))
    assert exclusive.classes == ("a", "b")
    assert exclusive.encode(np.array([[0, 7]], np.uint8))[0].tolist() == [[0, 2]]
    with pytest.raises(SegkitError, match="the data has classes tumour, the checkpoint a"):
        match_labels(LabelMap.of({0: "background", 1: "tumour"}), LabelMap.of({0: "background", 1: "a"}))


def test_a_class_that_no_mask_shows_is_not_evaluated() -> None:
    rows = tuple(Row("1", "1", "other", name, n, 5, {"dice": value}) for name, n, value in [("a", 9, 0.8), ("b", 0, 0.0)])
    table = CaseTable(rows, (Statistic("dice", "dice"),))
    assert table.absent == ("b",)
    scored = Evaluation(table, table.summary(), ()).without(table.absent, 0)
    assert scored.summary.line("dice").mean == 0.8


def test_the_worst_and_the_best_are_kept_with_their_errors_and_none_is_both(tmp_path: Path) -> None:
    scores = [30, 5, 40, 10, 20, 35, 25, 15, 38, 12, 33, 8]
    cases = [case(i) for i in range(len(scores))]
    found = evaluate_cases(Shrinking(scores), cases, HEAD, {case.id: "val" for case in cases}).extremes
    assert [(one.kind, int(one.case)) for one in found] == [("worst", scores.index(n)) for n in (5, 8, 10, 12)] + [
        ("best", scores.index(n)) for n in (40, 38, 35, 33)
    ]
    errors = found[0].picture(HEAD.colors)[:, -CELL:].reshape(-1, 3)
    assert (errors == MISSED).all(1).mean() == pytest.approx(35 / SIZE**2, rel=0.1)
    assert not (errors == EXTRA).all(1).any()
    write_examples(tmp_path, found, HEAD)
    assert [(one.kind, one.case, one.path.is_file()) for one in read_examples(tmp_path)] == [(one.kind, one.case, True) for one in found]
    few = evaluate_cases(Shrinking([5, 30, 10]), cases[:3], HEAD, {case.id: "val" for case in cases}).extremes
    assert [(one.kind, one.case) for one in few] == [("worst", "0"), ("worst", "2"), ("best", "1")]
