"""Large data sets are listed without being read, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource
from pathlib import Path
from segkit.config import compose
from segkit.data.labels import LabelMap
from segkit.data.manifest import find
from segkit.data.splits import make_split

cfg = compose.compose("audit", ["data=folder", "data.root=set", "data.source.group='^p(\\\\d+)_'"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find(cfg.data, 0, (), Path("cache"))
manifest = found.manifest(LabelMap.of({0: "background", 1: "a"}))
split = make_split(manifest, cfg.split)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(found.cases), len(found.problems), len(manifest.hash), len(split.train) + len(split.val), (after - before) // 1024)
"""


@pytest.mark.slow
def test_a_hundred_thousand_files_are_indexed_hashed_and_split_in_half_a_gigabyte(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for i in range(50_000):
            (tmp_path / "set" / folder / f"p{i // 20:05d}_{i:06d}.png").touch()
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    cases, problems, _, divided, megabytes = map(int, done.stdout.split())
    assert (cases, problems, divided) == (50_000, 0, 50_000)
    assert megabytes < 500
