"""The experiment trains, and its checkpoint predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import segkit

CONF = Path(__file__).parents[1] / "conf"


def test_the_experiment_trains_and_predicts(tmp_path: Path) -> None:
    overrides = ("experiment=example", "trainer.max_epochs=1", "data.phantom_n=8", f"output_dir={tmp_path}")
    result = segkit.train(*overrides, config_dirs=[CONF])
    assert (result.folder / "cases.csv").is_file()
    predictor = segkit.load(result.folder, allow=["project_name"])
    mask = predictor.predict(np.zeros((50, 70), np.uint8)).mask
    assert mask.shape == (50, 70)
