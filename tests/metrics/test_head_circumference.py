from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.special import ellipe

from segkit.data.case import Case
from segkit.metrics import Array
from segkit.metrics.head_circumference import Ellipse, HeadCircumference, border_points, fit_ellipse, head_circumference_mm

HC18 = Path(os.environ.get("SEGKIT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "hc18"


def drawn(a: float, b: float, angle: float = 0.4, shape: tuple[int, int] = (400, 500), spacing: tuple[float, float] = (1, 1)) -> Array:
    """Pixels whose centre lies in an ellipse in the middle of the image; a, b in the unit of `spacing` (row, column)."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = (y - shape[0] / 2 + 0.3) * spacing[0], (x - shape[1] / 2 - 0.2) * spacing[1]
    u, v = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def case(spacing_mm: tuple[float, ...] = (0.1, 0.1), **facts: float) -> Case:
    return Case("a", image=None, spacing_mm=spacing_mm, facts=facts)  # type: ignore[arg-type]


def test_circumference_of_the_reference() -> None:
    assert head_circumference_mm((60, 45)) == pytest.approx(331.55, abs=0.005)
    assert head_circumference_mm((600, 450), pixel_mm=0.1) == pytest.approx(331.55, abs=0.005)


@pytest.mark.parametrize("b", [100, 80, 60, 40])
def test_circumference_against_the_elliptic_integral(b: float) -> None:
    exact = 4 * 100 * ellipe(1 - (b / 100) ** 2)
    assert head_circumference_mm((100, b)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(20, 15), (60, 45), (180, 120), (50, 50)])
def test_a_drawn_ellipse_is_found_again(a: float, b: float) -> None:
    ellipse = fit_ellipse(drawn(a, b))
    assert ellipse is not None
    assert head_circumference_mm(ellipse.semi_axes) == pytest.approx(head_circumference_mm((a, b)), rel=0.005)
    assert ellipse.center == pytest.approx((250.2, 199.7), abs=0.1)
    if a > b:
        assert ellipse.angle_rad == pytest.approx(0.4, abs=0.02)


def test_pixels_that_are_not_square() -> None:
    spacing = (0.25, 0.1)
    mask = drawn(15, 11, angle=0.9, spacing=spacing, shape=(200, 400))
    measured = HeadCircumference()(mask, mask, case(spacing))["hc_pred_mm"]
    assert measured == pytest.approx(head_circumference_mm((15, 11)), rel=0.005)


def test_specks_and_holes_do_not_matter() -> None:
    mask = drawn(60, 45)
    mask[10:14, 10:30] = True
    mask[190:205, 240:260] = False
    ellipse = fit_ellipse(mask)
    assert ellipse is not None
    assert head_circumference_mm(ellipse.semi_axes) == pytest.approx(331.55, rel=0.005)


def test_a_head_that_leaves_the_image_is_completed() -> None:
    ellipse = fit_ellipse(drawn(180, 120, angle=0)[:, 130:])
    assert ellipse is not None
    assert ellipse.semi_axes == pytest.approx((180, 120), rel=0.01)


def test_error_is_signed_and_the_measured_reference_is_used() -> None:
    values = HeadCircumference()(drawn(60, 45), drawn(60, 45), case(hc_mm=40.0))
    assert values["hc_ref_mm"] == 40.0
    assert values["hc_error_mm"] == values["hc_pred_mm"] - 40.0
    assert values["hc_error_mm"] == pytest.approx(33.155 - 40, abs=0.1)


def test_without_a_measured_reference_the_true_mask_is_measured() -> None:
    values = HeadCircumference()(drawn(60, 45), drawn(80, 60), case())
    assert values["hc_ref_mm"] == pytest.approx(33.155 * 4 / 3, rel=0.005)


def specks(like: Array) -> list[Array]:
    """Nothing, and a single pixel."""
    dot = np.zeros_like(like)
    dot[5, 5] = True
    return [np.zeros_like(like), dot]


@pytest.mark.parametrize("i", [0, 1])
def test_a_missed_head_costs_its_whole_circumference(i: int) -> None:
    head = drawn(60, 45)
    values = HeadCircumference()(specks(head)[i], head, case(hc_mm=33.0))
    assert math.isnan(values["hc_pred_mm"])
    assert (values["hc_error_mm"], values["missed_head"]) == (-33.0, 1)
    assert values["hd_ellipse_mm"] == pytest.approx(math.hypot(40, 50))  # the diagonal of the image
    assert HeadCircumference()(head, head, case(hc_mm=33.0))["missed_head"] == 0


def test_missing_a_head_never_improves_the_mean() -> None:
    """One head that was found 3 mm too small, and one that was missed instead of being found 12 mm too small."""
    head, smaller = drawn(60, 45), drawn(40, 30)
    found, small, missed = (HeadCircumference()(pred, head, case()) for pred in (drawn(55, 41), smaller, specks(head)[0]))
    mae, bias, *_ = HeadCircumference().statistics
    assert mae.of_rows([found, missed]).mean() > mae.of_rows([found, small]).mean()
    assert bias.of_rows([found, missed]).mean() < bias.of_rows([found, small]).mean()


def test_without_a_pixel_size_or_a_reference_everything_is_missing() -> None:
    head = drawn(60, 45)
    assert all(math.isnan(value) for value in HeadCircumference()(head, head, case(spacing_mm=())).values())
    values = HeadCircumference()(head, specks(head)[0], case())
    assert math.isnan(values["hc_error_mm"])
    assert math.isnan(values["missed_head"])


@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.25, 0.1)])
def test_hausdorff_distance_of_the_ellipses(spacing: tuple[float, float]) -> None:
    """Axes 12 x 9 and 14 x 10 mm: 2 mm apart at the ends of the longer one. Bites and specks do not matter."""
    truth, pred = (drawn(a, b, angle=0.9, spacing=spacing, shape=(200, 400)) for a, b in ((12, 9), (14, 10)))
    pred[:6, :6] = True
    pred[98:102, 195:205] = False
    assert HeadCircumference()(pred, truth, case(spacing))["hd_ellipse_mm"] == pytest.approx(2, abs=max(spacing))
    assert HeadCircumference()(truth, truth, case(spacing))["hd_ellipse_mm"] == 0


def test_a_filled_ellipse_is_the_one_that_was_drawn() -> None:
    mask = drawn(60, 45)
    ellipse = fit_ellipse(mask)
    assert ellipse is not None
    assert 2 * (ellipse.filled(mask.shape) & mask).sum() / (ellipse.filled(mask.shape).sum() + mask.sum()) > 0.995
    assert ellipse.shrunk(50) is None


@pytest.mark.parametrize("center", [(200.3, 150.7), (3.0, 297.0), (-90.0, 150.0)], ids=["inside", "in a corner", "outside"])
def test_a_filled_ellipse_is_that_of_the_whole_grid(center: tuple[float, float]) -> None:
    """Only the box around it is computed, with the same numbers to the last bit."""
    ellipse, shape, spacing = Ellipse(center, (60.2, 41.9), 0.7), (300, 400), (1.1, 0.9)
    y, x = (np.arange(n).reshape(way) * mm for n, way, mm in zip(shape, ((-1, 1), (1, -1)), spacing, strict=True))
    (x0, y0), cos, sin = center, math.cos(0.7), math.sin(0.7)
    along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
    assert np.array_equal(ellipse.filled(shape, spacing), (along / 60.2) ** 2 + (across / 41.9) ** 2 <= 1)


@pytest.mark.parametrize("box", [(slice(30, 50), slice(40, 90)), (slice(0, 50), slice(40, 100)), (slice(0, 0), slice(0, 0))])
def test_border_points_are_those_of_the_whole_grid(box: tuple[slice, slice]) -> None:
    mask = np.zeros((60, 100), bool)
    mask[box] = True
    sides, ends = np.argwhere(mask[:, 1:] != mask[:, :-1]), np.argwhere(mask[1:] != mask[:-1])
    assert np.array_equal(border_points(mask), np.concatenate([sides[:, ::-1] + (0.5, 0), ends[:, ::-1] + (0, 0.5)]))


def test_bias_and_absolute_error_are_two_statistics_of_one_column() -> None:
    rows = [{"hc_error_mm": -2.0}, {"hc_error_mm": 1.0}]
    means = {s.name: s.of_rows(rows).mean() for s in HeadCircumference().statistics if s.column == "hc_error_mm"}
    assert means == {"hc_mae_mm": 1.5, "hc_bias_mm": -0.5}


def test_filled_outlines_of_hc18_measure_what_the_sonographer_did() -> None:
    """Once the half line that filling adds is taken off, the annotation itself is right to a tenth of a millimetre."""
    if not HC18.is_dir():
        pytest.skip("HC18 is not there; set SEGKIT_DATA")
    with (HC18 / "training_set_pixel_size_and_HC.csv").open() as file:
        rows = list(csv.reader(file))[1:9]
    for name, pixel_mm, hc_mm in rows:
        line = cv2.imread(str(HC18 / "training_set" / name.replace(".png", "_Annotation.png")), cv2.IMREAD_GRAYSCALE)
        assert line is not None
        contours, _ = cv2.findContours(line, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        mask = cv2.drawContours(np.zeros_like(line), contours, -1, 1, cv2.FILLED) > 0
        of = case((float(pixel_mm),) * 2, hc_mm=float(hc_mm))
        assert abs(HeadCircumference(outline_px=1.29)(mask, mask, of)["hc_error_mm"]) < 0.1
        assert HeadCircumference()(mask, mask, of)["hc_error_mm"] == pytest.approx(8.1 * float(pixel_mm), rel=0.05)
