"""The page and the contact sheet: complete, self-contained, and made for any data set that can be looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.cli.audit import command
from segkit.config import commands, schema
from segkit.data.audit import pairs
from segkit.data.audit.report import audit_page, chosen, histogram
from segkit.data.case import Case, Manifest
from segkit.data.io.images import ImageFile
from segkit.data.labels import LabelMap
from segkit.data.splits import Split
from segkit.system.errors import Problem

SUMMARY = {
    "data": "toy", "root": "/data/<toy>", "synthetic": False, "cases": 2, "labelled": 2, "groups": 2, "sizes": {"8 x 9": 2},
    "channels": [1], "dtypes": ["uint8"], "spacing_mm": None, "labels": LabelMap.of({0: "background", 1: "a<b"}).as_dict(), "split": None,
    "classes": {"a<b": {"pixel_share": 0.25, "mask_share": 1.0}}, "fingerprint": "0123456789abcdef0123",
}  # fmt: skip


class Page(HTMLParser):
    """Which addresses a page names, which tags stay open, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        assert tag != "script"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_tells_each_finding_with_the_line_to_type_and_needs_nothing_else() -> None:
    problems = [Problem("images/<1>.png", "truncated & torn", "data.exclude='[\"1\"]'"), Problem("classes", "unequal", "", "note")]
    page = Page(audit_page(SUMMARY, problems, {"rows": [8.0, 9.0]}, np.zeros((10, 10, 3), np.uint8)))
    assert page.open == []
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert len(page.addresses) == 1
    for text in ("images/<1>.png", "truncated & torn", "data.exclude='[\"1\"]'", "1 error", "0 warnings", "a<b", "25.00%", "/data/<toy>"):
        assert text in page.text


def test_a_page_without_pictures_or_numbers() -> None:
    page = Page(audit_page(SUMMARY, [], {"rows": [], "columns": [3.0, 3.0]}, None))
    assert page.addresses == []
    assert "Distributions" not in page.text


def test_images_that_look_alike_stand_side_by_side_and_every_pair_is_listed(tmp_path: Path) -> None:
    cases = []
    for name in ("a", "b", "<c>"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8))
        cases.append(Case(name, ImageFile(tmp_path / f"{name}.png")))
    (tmp_path / "b.png").unlink()
    manifest = Manifest("toy", tmp_path, tuple(cases), LabelMap.of({0: "background", 1: "head"}))
    found, split = (("a", "<c>", 0.999), ("a", "b", 0.985)), Split(("a",), ("b", "<c>"))
    page = Page(pairs.section(manifest, found, split))
    assert page.open == []
    assert len(page.addresses) == 3  # b cannot be read
    assert "different patients may look alike" in page.text
    assert [row["correlation"] for row in pairs.rows_of(found, split)] == [0.999, 0.985]
    assert pairs.rows_of(found, split)[0]["like_subset"] == "val"
    assert pairs.section(manifest, (), split) == ""


def test_a_histogram_counts_every_value() -> None:
    bars = histogram("rows", [1.0, 1.0, 5.0, 9.5]).split("<title>")[1:]
    assert sum(int(bar.split("<")[0]) for bar in bars) == 4


def cases(n: int) -> list[Case]:
    return [Case(str(i), ImageFile(Path(f"{i}.png"))) for i in range(n)]


def test_the_sheet_spreads_over_the_data_set_and_takes_each_suspicion_in_turn() -> None:
    assert [case.id for case in chosen(cases(5), {})] == ["0", "1", "2", "3", "4"]
    spread = [int(case.id) for case in chosen(cases(2400), {})]
    assert spread == list(range(0, 2400, 100))
    marks = {str(i): "specks" for i in range(100, 160)} | {"700": "misplaced?"}
    picked = [case.id for case in chosen(cases(1000), marks)]
    assert len(set(picked)) == 24
    assert "700" in picked
    assert sum(id_ in marks for id_ in picked[:12]) == 12


def audit(data: schema.Data, split: schema.Split, output: Path) -> int:
    return command(commands.Audit(output=str(output), seed=0, allow_targets=[], data=data, split=split))


def test_the_command_writes_all_three(
    pairs: Path, data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (pairs / "images" / "7.png").write_bytes(b"torn")
    cv2.imwrite(str(pairs / "masks" / "2.png"), np.zeros((17, 30), np.uint8))
    assert audit(data("folder", pairs), split("holdout"), tmp_path / "out") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.html", "audit.json", "contact_sheet.png"}
    sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.png"))
    assert sheet is not None
    assert min(sheet.shape[:2]) > 300
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["marks"] == {"2": "error", "7": "error"}
    page = Page((tmp_path / "out" / "audit.html").read_text())
    assert "images/7.png" in page.text
    assert "is 17 x 30 but its image is 20 x 30" in page.text


def test_volumes_are_shown_by_their_fullest_slice(
    data: Callable[..., schema.Data], split: Callable[..., schema.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(4):
        mask = np.zeros((5, 24, 32), np.uint8)
        mask[3, 4:20, 6:20] = 1
        for folder, array in (("images", random.normal(0, 1, mask.shape).astype(np.float32)), ("masks", mask)):
            path = tmp_path / "set" / folder / f"{i}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    assert audit(data("folder", tmp_path / "set", dims=3), split("holdout"), tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["sizes"] == {"5 x 24 x 32": 4}
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
