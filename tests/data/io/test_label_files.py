"""Names of mask values in files beside the masks."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from segkit.data.io.label_files import names_beside, names_in
from tests.conftest import Cli
from tests.data.conftest import write

SNAP = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "Left ventricle"
    2     0  255    0     0.35  1  0    "Myocardium"
"""


def test_a_label_description_of_itk_snap(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(SNAP)
    assert names_in(tmp_path / "labels.txt") == {1: "Left ventricle", 2: "Myocardium"}


def test_a_table_of_bids(tmp_path: Path) -> None:
    (tmp_path / "sub-01_dseg.tsv").write_text("index\tname\tabbreviation\n0\tBackground\tBG\n1\tGray Matter\tGM\n")
    assert names_in(tmp_path / "sub-01_dseg.tsv") == {1: "Gray Matter"}


def test_other_texts_name_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("1 image, 2 masks")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "x_dseg.tsv").write_bytes(b"\xff\xfe\x00")
    assert names_beside([tmp_path, tmp_path / "none"]) == {}


def test_the_line_to_type_has_the_names_and_works(segkit_in: Cli, tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"set/images/{name}.png", np.random.default_rng(ord(name)).integers(0, 255, (20, 30), dtype=np.uint8))
        write(tmp_path / f"set/masks/{name}.png", np.kron(np.array([[0, 1, 2]], np.uint8), np.ones((20, 10), np.uint8)))
    (tmp_path / "set/masks/labels.txt").write_text(SNAP)
    done = segkit_in("audit", "data=folder", "data.root=set")
    assert "the masks hold 0, 1, 2, which a label file names" in done.stdout
    line = "data.labels='{0: background, 1: Left ventricle, 2: Myocardium}'"
    assert f"add  {line}" in done.stdout
    done = segkit_in("audit", "data=folder", "data.root=set", *shlex.split(line))
    assert done.returncode == 0, done.stdout
    assert "Left ventricle: 33.3% of the pixels" in done.stdout
