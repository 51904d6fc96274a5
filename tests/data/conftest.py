"""Small data sets on disk, and the config sections that name them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.config import schema

SOURCES = {"folder": "Folder", "csv": "Csv", "hc18": "HC18", "phantom": "Phantom"}


@pytest.fixture
def data() -> Callable[..., schema.Data]:
    """data("folder", root, source={"masks": "labels"}, labels=...)"""

    def make(name: str, root: Path | None, source: dict[str, Any] | None = None, **changes: Any) -> schema.Data:
        keys: dict[str, Any] = {
            "source": {"_target_": f"segkit.data.sources.{SOURCES[name]}", **(source or {})},
            "root": None if root is None else str(root),
            "labels": None,
            "overlap": None,
            "exclude": [],
            "dims": 2,
            "neighbours": [0],
            "phantom_n": 6,
            "shuffle": True,
            "batch_size": 2,
            "num_workers": 0,
            "cache_gb": "auto",
            "disk_cache_gb": 0.0,
        }
        return schema.Data(**{**keys, **changes})

    return make


@pytest.fixture
def split() -> Callable[..., schema.Split]:
    def make(kind: str = "auto", **changes: Any) -> schema.Split:
        keys = {
            "kind": kind,
            "val_fraction": 0.3,
            "test_fraction": 0.0,
            "n_folds": 3,
            "fold": 0,
            "path": None,
            "stratify": True,
            "grouped": True,
            "seed": 0,
        }
        return schema.Split(**{**keys, **changes})

    return make


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A good data set: images/1.png … images/12.png of random grey, masks of 0 and 255."""
    random = np.random.default_rng(0)
    for i in range(1, 13):
        write(tmp_path / "set" / "images" / f"{i}.png", random.integers(0, 256, (20, 30), dtype=np.uint8))
        write(tmp_path / "set" / "masks" / f"{i}.png", square((20, 30), i))
    return tmp_path / "set"


def square(shape: tuple[int, int], i: int, value: int = 255) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[2 : 4 + i, 3:9] = value
    return mask


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture(scope="session")
def real_hc18() -> Path:
    place = Path(os.environ.get("SEGKIT_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data")) / "hc18"
    if not (place / "training_set").is_dir():
        pytest.skip("no real HC18 sample here; SEGKIT_DATA names the folder that holds hc18/")
    return place
