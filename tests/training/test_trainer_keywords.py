"""Every keyword of `lightning.Trainer` is a key of `trainer`, under its own name and with its own values."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from segkit.config.schema import Trainer
from segkit.training.trainer import OWN_KEYS
from tests.conftest import SMALL, run_segkit

KEYWORDS = [name for name in inspect.signature(L.Trainer.__init__).parameters if name != "self"]
# Keyword -> value as typed, and what the Trainer gets where that is not the value itself (... = an object of segkit's or Lightning's)
TABLE: dict[str, tuple[str, Any]] = {
    "accelerator": ("cpu", "cpu"),
    "strategy": ("single_device", "single_device"),
    "devices": ("-1", 1),
    "num_nodes": ("1", 1),
    "precision": ("64-true", "64-true"),
    "logger": ("{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: .}", ...),
    "callbacks": ("[{_target_: lightning.pytorch.callbacks.TQDMProgressBar}]", ...),
    "fast_dev_run": ("2", 2),
    "max_epochs": ("1", 1),
    "min_epochs": ("1", 1),
    "max_steps": ("3", 3),
    "min_steps": ("1", 1),
    "max_time": ("'00:00:10:00'", None),  # a callback of ours, whose time a resume renews
    "limit_train_batches": ("0.5", 0.5),
    "limit_val_batches": ("1", 1),
    "limit_test_batches": ("0.5", 0.5),
    "limit_predict_batches": ("1", 1),
    "overfit_batches": ("1", 1),
    "val_check_interval": ("0.5", 0.5),
    "check_val_every_n_epoch": ("2", 2),
    "num_sanity_val_steps": ("1", 1),
    "log_every_n_steps": ("1", 1),
    "enable_checkpointing": ("false", False),
    "enable_progress_bar": ("true", True),
    "enable_model_summary": ("true", True),
    "accumulate_grad_batches": ("2", 2),
    "gradient_clip_val": ("0.1", 0.1),
    "gradient_clip_algorithm": ("value", "value"),
    "deterministic": ("warn", "warn"),
    "benchmark": ("true", True),
    "inference_mode": ("false", False),
    "use_distributed_sampler": ("true", True),
    "profiler": ("simple", "simple"),
    "detect_anomaly": ("true", True),
    "barebones": ("true", True),
    "plugins": ("{_target_: lightning.pytorch.plugins.MixedPrecision, precision: bf16-mixed, device: cpu}", ...),
    "sync_batchnorm": ("false", False),
    "reload_dataloaders_every_n_epochs": ("1", 1),
    "default_root_dir": ("elsewhere", "elsewhere"),
    "enable_autolog_hparams": ("false", False),
    "model_registry": ("mine", "mine"),
}
SLOW = pytest.mark.slow
QUICK = ("max_steps", "fast_dev_run")


def test_the_keys_are_those_of_the_installed_lightning() -> None:
    assert sorted(KEYWORDS) == sorted(set(Trainer.model_fields) - set(OWN_KEYS)) == sorted(TABLE)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in TABLE])
def test_a_keyword_reaches_lightning(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Any]] = []
    original = L.Trainer.__init__

    def recording(self: L.Trainer, **keywords: Any) -> None:
        taken.append(keywords)
        original(self, **keywords)

    monkeypatch.setattr(L.Trainer, "__init__", recording)
    typed, expected = TABLE[name]
    result = run_segkit(tmp_path, "train", *SMALL, "run=r", f"++trainer.{name}={typed}")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    got = taken[-1].get(name)
    assert expected is ... or got == expected, got
    if expected is ...:
        assert TABLE[name][0].split("_target_: ")[1].split(",")[0].rstrip("}]").rpartition(".")[2] in str(got)
    evaluated = (tmp_path / "outputs/small/r/cases.csv").exists()
    assert evaluated == (name not in ("fast_dev_run", "barebones", "enable_checkpointing"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("trainer.strategy=dpp", "did you mean ddp"),
        pytest.param("trainer.devices=[0,1]", "trainer.devices=1", marks=pytest.mark.slow),
        ("trainer.max_epochs=-1", "trainer.max_steps=N"),
        ("trainer.barebones=true trainer.detect_anomaly=true", "Lightning refuses it"),
        ("trainer.max_time={hours: 1} trainer.max_minutes=1", "leave one out"),
    ],
)
def test_a_wrong_value_is_one_line_before_anything_is_written(typed: str, said: str, tmp_path: Path) -> None:
    words = [f"trainer.{word}" for word in typed.replace("trainer.", "\0").split("\0") if word]
    result = run_segkit(tmp_path, "train", *SMALL, *(word.strip() for word in words))
    assert result.returncode == 2
    assert said in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("outputs/small/*"))
