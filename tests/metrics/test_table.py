from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from segkit.data.case import Case
from segkit.data.labels import LabelMap
from segkit.metrics.overlap import Overlap
from segkit.metrics.summary import Summary
from segkit.metrics.table import CaseTable, Row, evaluate_case, read_table
from segkit.system.errors import SegkitError

METRICS = {"overlap": Overlap(both_empty=None)}
NAN = float("nan")


def row(case: str, dice: float, class_name: str = "head", group: str = "", subset: str = "val") -> Row:
    return Row(case, group or case, subset, class_name, 10, 10, {"dice": dice, "iou": dice / (2 - dice)})


def table(*rows: Row) -> CaseTable:
    return CaseTable.of(rows, METRICS)


def random_table(n: int, seed: int = 0) -> CaseTable:
    dice = np.random.default_rng(seed).beta(20, 3, n)
    return table(*(row(f"{i:03d}", float(value)) for i, value in enumerate(dice)))


def test_case_with_exclusive_classes_and_ignored_pixels() -> None:
    labels = LabelMap.of({0: "background", 1: "a", 2: "b"})
    truth = np.array([[1, 1, 2, 0], [0, 0, 255, 255]], np.uint8)
    pred = np.array([[1, 0, 2, 2], [0, 0, 1, 2]], np.uint8)
    a, b = evaluate_case(pred, truth, labels, Case("x", None, group="p1"), METRICS, "val")  # type: ignore[arg-type]
    assert (a.class_name, a.n_truth_px, a.n_pred_px, a.values["dice"]) == ("a", 2, 1, pytest.approx(2 / 3))
    assert (b.class_name, b.n_truth_px, b.n_pred_px, b.values["dice"]) == ("b", 1, 2, pytest.approx(2 / 3))
    assert (a.case, a.group, a.subset) == ("x", "p1", "val")


def test_case_with_overlapping_classes() -> None:
    labels = LabelMap.of({"lung": "lung", "heart": "heart"}, overlap=True)
    truth = np.array([[[1, 1, 0, 255]], [[0, 1, 1, 0]]], np.uint8)
    pred = np.array([[[1, 1, 0, 1]], [[0, 0, 0, 0]]], np.uint8)
    lung, heart = evaluate_case(pred, truth, labels, Case("x", None), METRICS)  # type: ignore[arg-type]
    assert (lung.values["dice"], lung.n_pred_px) == (1.0, 2)
    assert (heart.values["dice"], heart.n_truth_px) == (0.0, 2)
    assert lung.group == "x"


def test_masks_on_different_grids_are_refused() -> None:
    labels = LabelMap.of({0: "background", 1: "a"})
    with pytest.raises(SegkitError, match="x: prediction"):
        evaluate_case(np.zeros((2, 2)), np.zeros((2, 3)), labels, Case("x", None), METRICS)  # type: ignore[arg-type]


def test_csv_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    awkward = [0.1 + 0.2, 1 / 3, 1e-300, NAN, math.nextafter(1, 0), 123456789.123456789]
    written = table(*(row(f'kid, "{i}"', value, "left clavicle") for i, value in enumerate(awkward)))
    written.to_csv(path)
    read = CaseTable.from_csv(path, METRICS)
    for before, after in zip(written.rows, read.rows, strict=True):
        np.testing.assert_array_equal(list(after.values.values()), list(before.values.values()))
        assert (after.case, after.group, after.class_name) == (before.case, before.group, before.class_name)
    read.to_csv(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    assert read.summary().as_dict() == written.summary().as_dict()


def test_row_order_does_not_depend_on_the_order_of_evaluation(tmp_path: Path) -> None:
    rows = [row(case, 0.5, name, subset=s) for s in ("test", "val") for case in ("10", "9", "1") for name in ("b", "a")]
    table(*rows).to_csv(tmp_path / "a.csv")
    table(*rows[6:], *rows[:6]).to_csv(tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert [r.case for r in table(*rows).rows[::2]] == ["1", "9", "10", "1", "9", "10"]
    assert [r.subset for r in table(*rows).rows[::6]] == ["val", "test"]


def test_csv_that_is_no_case_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("epoch,loss\n1,2\n")
    (tmp_path / "b.csv").write_text("case,group,subset,class,n_truth_px,n_pred_px,dice\nx,x,val,head,1,1,high\n")
    with pytest.raises(SegkitError, match="not a case table"):
        CaseTable.from_csv(tmp_path / "a.csv")
    with pytest.raises(SegkitError, match=r"b\.csv, line 2.*high"):
        CaseTable.from_csv(tmp_path / "b.csv")
    with pytest.raises(SegkitError, match="no such case table"):
        CaseTable.from_csv(tmp_path / "c.csv")


def test_summary_by_hand_counts_what_is_missing() -> None:
    line = table(row("a", 0.5), row("b", 0.9), row("c", 1.0), row("d", NAN)).summary().line("dice", "head")
    assert (line.n, line.missing) == (3, 1)
    assert (line.mean, line.median) == (pytest.approx(0.8), 0.9)
    assert line.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.04) / 2))
    assert line.low < 0.8 < line.high
    assert line.rule == "both empty left out, only truth empty = 0"


def test_overall_is_the_mean_over_cases_of_the_mean_over_classes() -> None:
    rows = [row("a", 1.0, "x"), row("a", 0.0, "y"), row("b", 0.9, "x"), row("b", NAN, "y"), row("c", NAN, "x")]
    line = table(*rows, row("c", NAN, "y")).summary().line("dice")
    assert (line.mean, line.n, line.missing) == (pytest.approx((0.5 + 0.9) / 2), 2, 1)


def test_subsets_are_never_mixed() -> None:
    summary = table(row("a", 0.2, subset="train"), row("b", 0.8)).summary()
    assert summary.line("dice", subset="val").mean == 0.8
    assert summary.line("dice", subset="train").mean == 0.2


def test_interval_agrees_with_scipy() -> None:
    cases = random_table(40)
    line = cases.summary().line("dice")
    values = np.array([r.values["dice"] for r in cases.rows])
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert line.low == pytest.approx(expected.low, abs=0.06 * width)
    assert line.high == pytest.approx(expected.high, abs=0.06 * width)


def test_interval_draws_groups_not_images() -> None:
    """Ten copies of each of eight patients say no more than one image of each."""
    values = np.random.default_rng(3).beta(5, 2, 8)
    once = table(*(row(f"{p}", float(v)) for p, v in enumerate(values))).summary().line("dice")
    copies = [row(f"{p}_{i}", float(v), group=str(p)) for p, v in enumerate(values) for i in range(10)]
    grouped = table(*copies).summary().line("dice")
    assert (grouped.n, grouped.n_groups) == (80, 8)
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))


def test_interval_is_seeded_and_undefined_for_one_group() -> None:
    assert random_table(20).summary(seed=0) == random_table(20).summary(seed=0)
    assert random_table(20).summary(seed=1) != random_table(20).summary(seed=0)
    one = table(row("a", 0.5, group="p"), row("b", 0.7, group="p")).summary().line("dice")
    assert math.isnan(one.low)
    assert one.mean == pytest.approx(0.6)


def test_summary_survives_json() -> None:
    summary = table(row("a", 0.5), row("b", NAN, "lung")).summary()
    text = json.dumps(summary.as_dict(), allow_nan=False)
    assert Summary.from_dict(json.loads(text)).as_dict() == summary.as_dict()
    assert json.loads(text)["val"]["head"]["dice"]["low"] is None


@pytest.mark.parametrize("width", [40, 72, 90, 200])
def test_printed_table_is_whole_at_every_width(width: int) -> None:
    file = io.StringIO()
    cases = [row(f"{i}", 0.9, name) for i in range(4) for name in ("left clavicle", "[heart]")]
    table(*cases, row("x", NAN)).summary().print(Console(file=file, width=width, force_terminal=True, color_system=None))
    text = file.getvalue()
    assert "…" not in text
    for word in ("left clavicle", "[heart]", "[0.9000, 0.9000]", "missing", "both empty left out, only truth empty = 0"):
        assert word in text
    if width >= 72:
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_plain_text_shows_everything() -> None:
    file = io.StringIO()
    table(row("a", 0.25), row("b", 0.75), row("c", NAN)).summary().print(Console(file=file))
    line = next(line for line in file.getvalue().splitlines() if "dice" in line)
    assert line.split()[:3] == ["head", "dice", "0.5000"]
    assert "2         1   both empty left out, only truth empty = 0" in line
    assert "\x1b" not in file.getvalue()


def of_class(case: str, dice: float, class_name: str, n_truth: int) -> Row:
    return Row(case, case, "val", class_name, n_truth, 10, {"dice": dice, "iou": dice})


def test_the_mean_over_cases_that_hold_the_structure_stands_beside_the_mean_over_all() -> None:
    """Case a holds both, b only x, c nothing: what is rightly absent scores 1."""
    rows = [of_class("a", 0.2, "x", 10), of_class("a", 0.4, "y", 10), of_class("b", 0.6, "x", 10), of_class("b", 1, "y", 0)]
    rows += [of_class("c", 1, "x", 0), of_class("c", 0, "y", 0)]
    summary = CaseTable.of(rows, {"overlap": Overlap()}).summary()
    names = [(line.class_name, line.statistic) for line in summary.lines if line.class_name != "y"]
    assert names == [(name, s) for name in ("overall", "x") for s in ("dice", "dice_present", "iou", "iou_present")]
    assert summary.line("dice").mean == pytest.approx((0.3 + 0.8 + 0.5) / 3)
    overall, x, y = (summary.line("dice_present", name) for name in ("overall", "x", "y"))
    assert (overall.mean, overall.n, overall.missing) == (pytest.approx((0.3 + 0.6) / 2), 2, 1)
    assert (x.mean, x.n, x.missing) == (pytest.approx(0.4), 2, 1)
    assert (y.mean, y.n, y.missing) == (pytest.approx(0.4), 1, 2)
    assert x.rule == "cases that hold the structure"


def test_where_every_case_holds_every_structure_both_means_are_one() -> None:
    summary = CaseTable.of([of_class("a", 0.2, "x", 10), of_class("b", 0.6, "x", 9)], {"overlap": Overlap()}).summary()
    assert {line.statistic for line in summary.lines} == {"dice", "iou"}
    assert summary.line("dice_present") == summary.line("dice")
    empty = [of_class("a", 0.2, "x", 10), of_class("b", NAN, "x", 0)]
    left_out = CaseTable.of(empty, {"overlap": Overlap(both_empty=None, truth_empty=None)}).summary()
    assert {line.statistic for line in left_out.lines} == {"dice", "iou"}, "the rule leaves such cases out already"


def test_a_structure_that_no_case_holds_has_no_such_mean() -> None:
    summary = CaseTable.of([of_class("a", 1, "x", 0)], {"overlap": Overlap()}).summary()
    line = summary.line("dice_present", "x")
    assert math.isnan(line.mean)
    assert (line.n, line.missing) == (0, 1)
    assert summary.line("dice_present") == summary.line("dice"), "what is monitored always has a value"


def test_a_number_that_was_changed_is_noticed(tmp_path: Path) -> None:
    """The means in summary.json are those of the table as it was."""
    before, after = table(row("a", 0.9), row("b", 0.8)), table(row("a", 0.9), row("b", 0.7))
    cases = {"overlap": {"_target_": "segkit.metrics.Overlap", "both_empty": None}}
    (tmp_path / "summary.json").write_text(json.dumps({"metric": {"cases": cases}, "results": before.summary().as_dict()}))
    before.to_csv(tmp_path / "cases.csv")
    assert read_table(tmp_path).rows == before.rows
    after.to_csv(tmp_path / "cases.csv")
    with pytest.raises(SegkitError, match=r"changed since summary\.json was written: its mean dice of head is 0\.8, and was 0\.85"):
        read_table(tmp_path)
