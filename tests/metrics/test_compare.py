from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from segkit.metrics import Statistic
from segkit.metrics.compare import Comparison, Difference, Unlike, compare, signed_rank_p
from segkit.metrics.table import CaseTable, Row
from segkit.system.errors import SegkitError

NAN = float("nan")
DICE = Statistic("dice", "dice")


def row(case: str, dice: float, class_name: str = "head", group: str = "", subset: str = "val", n: int = 10) -> Row:
    return Row(case, group or case, subset, class_name, n, 10, {"dice": dice})


def table(*rows: Row, statistics: tuple[Statistic, ...] = (DICE,)) -> CaseTable:
    return CaseTable(rows, statistics)


def line(comparison: Comparison, class_name: str = "head", statistic: str = "dice", subset: str = "val") -> Difference:
    (found,) = [d for d in comparison.lines if (d.class_name, d.statistic, d.subset) == (class_name, statistic, subset)]
    return found


def test_difference_by_hand() -> None:
    a = table(row("1", 0.5), row("2", 0.7), row("3", 0.9), row("only a", 0.1))
    b = table(row("3", 0.8), row("2", 0.9), row("1", 0.8), row("only b", 1.0))
    comparison = compare(a, b)
    found = line(comparison)
    assert (found.mean_a, found.mean_b) == (pytest.approx(0.7), pytest.approx(2.5 / 3))
    assert found.difference == pytest.approx((0.3 + 0.2 - 0.1) / 3)
    assert (found.low, found.high) == (pytest.approx(-0.1), pytest.approx(0.3))  # one case thrice happens in 1 of 27 draws
    assert (found.n, found.missing, found.n_groups) == (3, 0, 3)
    assert (comparison.only_a, comparison.only_b) == (("only a",), ("only b",))


def test_a_case_without_a_value_on_one_side_counts_on_neither() -> None:
    found = line(compare(table(row("1", 0.5), row("2", NAN), row("3", 0.0)), table(row("1", 0.6), row("2", 1.0), row("3", NAN))))
    assert (found.n, found.missing) == (1, 2)
    assert found.difference == pytest.approx(0.1)
    assert math.isnan(found.low)


def test_overall_averages_only_classes_known_on_both_sides() -> None:
    a = table(row("1", 0.8, "x"), row("1", 0.2, "y"), row("2", 0.5, "x"))
    b = table(row("1", 0.9, "x"), row("1", NAN, "y"), row("2", 0.7, "x"))
    assert line(compare(a, b), "overall").difference == pytest.approx((0.1 + 0.2) / 2)
    assert line(compare(a, b), "y").n == 0
    assert math.isnan(line(compare(a, b), "y").p)


def test_means_over_the_cases_that_hold_the_structure_are_compared_as_the_summaries_have_them() -> None:
    shown = Statistic("dice", "dice", scores_empty=True)
    a = table(row("1", 0.5), row("2", 1.0, n=0), row("3", 0.6), row("3", 0.4, "x"), statistics=(shown,))
    b = table(row("1", 0.7), row("2", 0.0, n=0), row("3", 0.9), row("3", 0.6, "x"), statistics=(shown,))
    comparison = compare(a, b)
    for class_name in ("head", "overall"):
        found = line(comparison, class_name, "dice_present")
        of_a, of_b = (one.summary().line("dice_present", class_name) for one in (a, b))
        assert (found.mean_a, found.mean_b) == (pytest.approx(of_a.mean), pytest.approx(of_b.mean))
        assert (found.n, found.missing) == (of_a.n, of_a.missing) == (2, 1)
    assert [one.statistic for one in comparison.lines if one.class_name == "x"] == ["dice"]


def test_absolute_errors_are_compared_as_such() -> None:
    """From -4 mm to +1 mm is 3 mm better."""
    error = Statistic("mae_mm", "dice", absolute=True)
    a, b = (table(row("1", value), statistics=(error,)) for value in (-4.0, 1.0))
    assert line(compare(a, b), statistic="mae_mm").difference == -3


def exact_p(differences: np.ndarray) -> float:
    """All signs of the ranks are equally likely where nothing differs (no ties here)."""
    ranks = scipy.stats.rankdata(np.abs(differences))
    seen = abs(np.sum(ranks * np.sign(differences)))
    sums = [abs(np.dot(ranks, signs)) for signs in itertools.product((-1, 1), repeat=len(ranks))]
    return float(np.mean(np.array(sums) >= seen - 1e-9))


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_share_of_signs_at_least_as_extreme(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.02, 0.03, 9)
    a = table(*(row(f"{i}", 0.5) for i in range(9)))
    b = table(*(row(f"{i}", 0.5 + float(v)) for i, v in enumerate(values)))
    assert line(compare(a, b)).p == pytest.approx(exact_p(values))
    assert line(compare(b, a)).p == pytest.approx(exact_p(values))


def test_no_difference_is_no_evidence() -> None:
    assert signed_rank_p(np.zeros(7)) == 1
    same = table(*(row(f"{i}", 0.1 * i) for i in range(5)))
    found = line(compare(same, same))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_rounding_errors_are_no_difference() -> None:
    assert 0.1 + 0.2 - 0.3 != 0
    assert signed_rank_p(np.array([0.1 + 0.2 - 0.3] * 7)) == 1


def test_ten_images_of_a_patient_are_no_ten_patients() -> None:
    gains = np.random.default_rng(1).normal(0.05, 0.04, 6)

    def tables(copies: int) -> tuple[CaseTable, CaseTable]:
        keys = [(f"{p}_{i}", str(p), float(gain)) for p, gain in enumerate(gains) for i in range(copies)]
        return table(*(row(c, 0.5, group=g) for c, g, _ in keys)), table(*(row(c, 0.5 + gain, group=g) for c, g, gain in keys))

    once, copied = (line(compare(*tables(n))) for n in (1, 10))
    assert (copied.n, copied.n_groups) == (60, 6)
    assert copied.p == pytest.approx(once.p)
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_subsets_are_never_mixed() -> None:
    comparison = compare(table(row("1", 0.5), row("2", 0.5, subset="test")), table(row("1", 0.6), row("2", 0.9, subset="test")))
    assert line(comparison).difference == pytest.approx(0.1)
    assert line(comparison, subset="test").difference == pytest.approx(0.4)


def test_a_case_that_changed_its_subset_is_reported_on_both_sides() -> None:
    comparison = compare(table(row("1", 0.5), row("2", 0.5)), table(row("1", 0.6), row("2", 0.9, subset="test")))
    assert (comparison.only_a, comparison.only_b) == (("2",), ("2",))


def test_only_statistics_of_both_are_compared() -> None:
    other = Statistic("iou", "iou")
    comparison = compare(table(row("1", 0.5), statistics=(DICE, other)), table(row("1", 0.6)))
    assert {d.statistic for d in comparison.lines} == {"dice"}


def test_numbers_of_different_rules_are_not_compared() -> None:
    """1 for an empty mask against 0 for it is no better network."""
    perfect, nothing = (Statistic("dice", "dice", f"both empty = {score}") for score in (1, 0))
    iou = Statistic("iou", "dice")
    a, b = table(row("1", 0.0), statistics=(nothing, iou)), table(row("1", 1.0), statistics=(perfect, iou))
    comparison = compare(a, b)
    assert {d.statistic for d in comparison.lines} == {"iou"}
    assert comparison.unlike == (Unlike("dice", "both empty = 0", "both empty = 1"),)
    with pytest.raises(SegkitError, match=r"dice is made by different rules \(both empty = 0; both empty = 1\)"):
        compare(table(row("1", 0.0), statistics=(nothing,)), table(row("1", 1.0), statistics=(perfect,)))


def test_the_rule_stands_beside_every_difference() -> None:
    known = Statistic("dice", "dice", "both empty = 1")
    a, alone = table(row("1", 0.5), statistics=(known,)), table(row("1", 0.6))
    assert compare(a, a).rules() == {"both empty = 1": ["dice"]}
    assert compare(a, alone).rules() == {"both empty = 1 (B: not known)": ["dice"]}
    assert compare(alone, a).rules() == {"both empty = 1 (A: not known)": ["dice"]}


def test_tables_that_cannot_be_compared() -> None:
    with pytest.raises(SegkitError, match="share no case"):
        compare(table(row("1", 0.5)), table(row("2", 0.5)))
    with pytest.raises(SegkitError, match="1: the true head has 10 pixels in one table and 40"):
        compare(table(row("1", 0.5)), table(row("1", 0.5, n=40)))
