from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.special import ellipe

from segkit.data.manifest import Case
from segkit.metrics import Array
from segkit.metrics.ellipse import HeadCircumference, fit_ellipse, head_circumference_mm

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
    assert ellipse.centre == pytest.approx((250.2, 199.7), abs=0.1)
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


def test_missing_where_there_is_no_head_or_no_pixel_size() -> None:
    metric, head = HeadCircumference(), drawn(60, 45)
    dot = np.zeros_like(head)
    dot[5, 5] = True
    for pred, of in ((np.zeros_like(head), case()), (dot, case()), (head, case(spacing_mm=()))):
        values = metric(pred, head, of)
        assert math.isnan(values["hc_pred_mm"])
        assert math.isnan(values["hc_error_mm"])


def test_bias_and_absolute_error_are_two_statistics_of_one_column() -> None:
    errors = np.array([-2.0, 1.0])
    means = {s.name: s.of(errors).mean() for s in HeadCircumference().statistics}
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
