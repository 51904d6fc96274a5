"""The page of a run: its numbers are those of the tables, it needs nothing else, and it is made of whatever there is."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from segkit.metrics.compare import compare
from segkit.metrics.summary import unit
from segkit.metrics.table import read_table
from segkit.training.report.report import leaving_report
from segkit.training.report.run_page import commands
from segkit.training.report.runs import Run
from segkit.training.run_folder import RunFolder
from tests.conftest import PLAIN, Cli, run_segkit


class Page(HTMLParser):
    """The cells of each row of its tables, the addresses that it loads, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data.strip("\n")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The run folder of a finished training, to change at will."""
    return Path(shutil.copytree(trained, tmp_path / "outputs/small/copy"))


def test_the_page_that_a_training_leaves_holds_the_numbers_of_its_tables_and_needs_nothing_else(trained: Path) -> None:
    page = Page(trained / "report.html")
    assert all(load.startswith(("data:image/jpeg;base64,", "#")) for load in page.loads)
    assert not re.search(r"url\((?!#)|@import", (trained / "report.html").read_text())
    assert page.tags.count("svg") >= 7
    for statistic, line in json.loads((trained / "summary.json").read_text())["results"]["val"]["head"].items():
        text = unit(statistic)
        numbers = [text(line["mean"]), f"[{text(line['low'])}, {text(line['high'])}]", text(line["median"]), text(line["sd"])]
        assert ["val", "head", statistic, *numbers, str(line["n"]), str(line["missing"])] in page.rows
        assert f"{statistic}" in page.text
        assert line["rule"] in page.text
    with (trained / "cases.csv").open() as file:
        for row in csv.DictReader(file):
            assert [row["case"], "head", f"{float(row['dice']):.4f}", row["n_truth_px"], row["n_pred_px"]] in page.rows
    assert ["model.widths", "64, 128, 256, 512, 1024", "8, 16"] in page.rows
    provenance = json.loads((trained / "provenance.json").read_text())
    assert ["Data fingerprint", provenance["data"]["fingerprint"]] in page.rows
    assert ["Hardware", provenance["sessions"][0]["hardware"]] in page.rows
    for text in ("synthetic images", "worst: ", "best: ", "Expected calibration error", "GB of memory", "segkit train data=phantom"):
        assert text in page.text
    assert (trained / "report.html").stat().st_size < 1_500_000


def test_a_run_that_goes_on_or_was_stopped_says_so_and_draws_what_is_there(copy: Path) -> None:
    for name in ("summary.json", "cases.csv", "calibration.csv", "report.html"):
        (copy / name).unlink()
    shutil.rmtree(copy / "examples")
    for state, said in (("running", "still going"), ("interrupted", "was stopped"), ("failed", "failed")):
        RunFolder(copy).write_status(state, **({"traceback": "ValueError: <as planned>"} if state == "failed" else {}))
        assert run_segkit(copy.parent, "report", "copy").returncode == 0
        page = Page(copy / "report.html")
        assert said in page.text
        assert "2 of 2 epochs have ended" in page.text
        assert "Learning curves" in page.text
        assert page.tags.count("img") == 1, "samples.png, as there are no examples"
        assert ("ValueError: <as planned>" in page.text) == (state == "failed")
        assert ("resume=" in page.text) == (state != "running")
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps({**status, "state": "running", "process": "another boot 1"}))
    run_segkit(copy.parent, "report", "copy")
    assert "was killed" in Page(copy / "report.html").text


def test_the_commands_have_what_they_need_and_only_those_that_work(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.best.parent.mkdir(parents=True)
    run.best.touch()
    (run.path / "config.yaml").write_text("allow_targets: [mine]")
    run.write_failure("ValueError")
    consent = "allow_targets='[mine]'"
    resume = f"segkit train resume={run.path} {consent}"
    ckpt = f"ckpt={run.path}"
    evaluate = [f"segkit evaluate {ckpt} {consent}", f"segkit predict {ckpt} input=IMAGES output=MASKS {consent}"]
    for data, wanted in (({"cases": 3}, [resume, *evaluate]), ({"own_module": True}, [resume]), ({"datamodule": "mine.Data"}, [resume])):
        (run.path / "provenance.json").write_text(json.dumps({"data": data}))
        assert commands(Run(run.path)) == wanted


def test_a_run_that_has_not_finished_an_epoch_has_a_page(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in ("config.yaml", "status.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run_segkit(copy.parent, "report", "copy", "pdf=true").returncode == 0
    assert "Learning curves" not in Page(copy / "report.html").text


def test_several_runs_are_compared_case_by_case(trained: Path, copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "optimizer": {**config["optimizer"], "lr": 0.5}}))
    (copy / "summary.json").unlink()  # the table no longer fits it
    with (copy / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (copy / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "dice": float(row["dice"]) / 2} for row in rows)
    done = run_segkit(copy.parent, "report", str(trained), "copy", "output=both.html", "pdf=true")
    assert done.returncode == 0, done.stderr
    page = Page(copy.parent / "both.html")
    line = compare(read_table(trained), read_table(copy)).lines[0]
    assert line.cells()[3:] in [row[3:] for row in page.rows]
    assert ["optimizer.lr", "0.001", "0.5"] in page.rows
    for row in rows:
        assert [row["case"], f"{-float(row['dice']) / 2:+.4f}"] in page.rows
    assert (copy.parent / "both.pdf").read_bytes().startswith(b"%PDF")


def test_the_pdf_has_the_pages_of_the_run(copy: Path) -> None:
    assert run_segkit(copy.parent, "report", "copy", "pdf=true").returncode == 0
    pdf = (copy / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 6


def test_what_is_no_run_is_refused_in_one_line(segkit_in: Cli, tmp_path: Path) -> None:
    for words, said in (
        ((str(tmp_path),), "is no run folder (it has no config.yaml);   segkit report outputs/EXPERIMENT/RUN"),
        (("nothing",), "nothing does not exist;   segkit report outputs/EXPERIMENT/RUN"),
        ((), "whose report?   segkit report outputs/EXPERIMENT/RUN"),
        (("nothing", "output=a.pdf"), "output=a.pdf is the file of the page;   output=a.html"),
    ):
        done = segkit_in("report", *words)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_page_that_cannot_be_written_is_one_line_and_no_failure(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "split.json").write_text("{")
    with leaving_report(copy):
        pass
    said = capsys.readouterr().out
    assert "report.html could not be written" in said
    assert "split.json is damaged" in said.replace("\n", "")


def test_a_training_that_fails_leaves_a_page(segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("train", *PLAIN, "optimizer.lr=1e30", "run=bad")
    assert done.returncode == 1
    page = Page(tmp_path / "outputs/small/bad/report.html")
    assert "This run failed" in page.text
