from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from segkit.cli.compare import show
from segkit.cli.main import main
from segkit.metrics.compare import Comparison, compare
from segkit.metrics.table import CaseTable, Row, read_table
from tests.conftest import Cli

METRICS = {
    "overlap": {"_target_": "segkit.metrics.Overlap"},
    "hc": {"_target_": "segkit.metrics.HeadCircumference"},
}


def run_folder(folder: Path, gain: float = 0.0, error: float = 2.0, classes: tuple[str, ...] = ("head",)) -> Path:
    folder.mkdir(parents=True)
    rows = tuple(
        Row(f"{i}", f"{i}", "val", name, 10, 10, {"dice": 0.5 + gain + 0.01 * gain * i, "iou": 0.4, "hc_error_mm": error})
        for i in range(8)
        for name in classes
    )
    CaseTable(rows, ()).to_csv(folder / "cases.csv")
    (folder / "config.yaml").write_text(yaml.safe_dump({"metric": {"cases": METRICS}}))
    return folder


def compare_runs(a: Path, b: Path) -> Comparison:
    return compare(read_table(a), read_table(b))


def printed(a: Path, b: Path) -> str:
    file = io.StringIO()
    show(compare_runs(a, b), Console(file=file))
    return file.getvalue()


def test_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", 0.1)
    assert main(["compare", str(a), str(b)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if " dice " in line).split()
    assert line[:6] == ["val", "head", "dice", "0.5000", "0.6035", "+0.1035"]
    assert line[-4:] == ["0.00781", "8", "8", "0"]  # 2 / 2^8: all eight gained


def test_errors_of_a_run_are_compared_as_its_metric_says(tmp_path: Path) -> None:
    """Off by -5 mm before, by +1 mm now: 4 mm less, not 6 mm more."""
    text = printed(run_folder(tmp_path / "a", error=-5.0), run_folder(tmp_path / "b", error=1.0))
    mae, bias = (next(line for line in text.splitlines() if name in line).split() for name in ("hc_mae_mm", "hc_bias_mm"))
    assert mae[3:6] == ["5.00", "1.00", "-4.00"]
    assert bias[3:6] == ["-5.00", "1.00", "+6.00"]


def test_an_evaluation_knows_the_run_it_belongs_to(tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a")
    test = run_folder(a / "evaluation" / "test", error=-1.0)
    (test / "config.yaml").unlink()
    assert {line.statistic for line in compare_runs(a, test).lines} >= {"dice", "iou", "hc_mae_mm", "hc_bias_mm"}


def test_an_evaluation_by_another_metric_says_by_which(tmp_path: Path) -> None:
    a = run_folder(tmp_path / "a")
    test = run_folder(a / "evaluation" / "test", error=-1.0)
    (test / "config.yaml").unlink()
    strict = {"overlap": {"_target_": "segkit.metrics.Overlap", "both_empty": 0.0}}
    (test / "summary.json").write_text(json.dumps({"metric": {"cases": strict}, "results": {}}))
    assert {line.statistic for line in compare_runs(test, test).lines} == {"dice", "iou"}
    assert "dice, iou: both empty = 0, only truth empty = 0" in printed(test, test)
    (test / "summary.json").write_text(json.dumps({"results": {}}))  # of a segkit that did not say
    assert {line.statistic for line in compare_runs(a, test).lines} >= {"dice", "iou", "hc_mae_mm", "hc_bias_mm"}


def test_different_rules_are_reported_and_the_rules_stand_below_the_table(tmp_path: Path) -> None:
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    assert "dice, iou: both empty = 1, only truth empty = 0" in printed(a, b)
    strict = {**METRICS, "overlap": {**METRICS["overlap"], "both_empty": 0.0}}
    (b / "config.yaml").write_text(yaml.safe_dump({"metric": {"cases": strict}}))
    text = printed(a, b)
    assert "NOT COMPARED: dice, which has different rules" in text
    assert not [line for line in text.splitlines() if line.split()[2:3] == ["dice"]]
    assert "hc_mae_mm" in text


def test_segkit_evaluate_leaves_the_metric_beside_its_table(trained: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("evaluate", f"ckpt={trained}", "metric=surface", "metric.cases.overlap.both_empty=0", "output=judged")
    assert done.returncode == 0, done.stdout + done.stderr
    statistics = {statistic.name: statistic.rule for statistic in read_table(tmp_path / "judged").statistics}
    assert "hd95_mm" in statistics
    assert statistics["dice"] == "both empty = 0, only truth empty = 0"


def test_a_table_alone_will_do(tmp_path: Path) -> None:
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", 0.1)
    for folder in (a, b):
        (folder / "config.yaml").unlink()
    assert {line.statistic for line in compare_runs(a / "cases.csv", b).lines} == {"dice", "iou", "hc_error_mm"}


def test_overall_is_shown_for_several_classes_and_missing_cases_are_reported(tmp_path: Path) -> None:
    a, b = (run_folder(tmp_path / name, classes=("left", "right")) for name in "ab")
    lines = (b / "cases.csv").read_text().splitlines()
    (b / "cases.csv").write_text("\n".join(lines[:-2]) + "\n")
    text = printed(a, b)
    assert "overall" in text
    assert "in A alone, not compared: 1 (7)" in text
    assert "overall" not in printed(*(run_folder(tmp_path / name) for name in "cd"))


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run_folder(tmp_path / "a")
    broken = run_folder(tmp_path / "broken")
    (broken / "config.yaml").write_text("just text")
    wanted = {
        (str(a),): "two runs are needed, and 1 given",
        (str(a), str(tmp_path / "nowhere")): "no such case table",
        (str(a), str(broken)): "config.yaml is damaged: it holds a str, not keys and values",
    }
    for arguments, message in wanted.items():
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_config_cannot_name_what_is_not_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run_folder(tmp_path / "a")
    (a / "config.yaml").write_text(yaml.safe_dump({"metric": {"cases": {"x": {"_target_": "os.system", "command": "true"}}}}))
    assert main(["compare", str(a), str(a)]) == 2
    assert "outside the allowed packages" in capsys.readouterr().err
