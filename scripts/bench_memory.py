"""Peak memory of a training step by preset, as a Markdown table.

    python scripts/bench_memory.py [PRESET …]

Each number is from a process of its own: two steps (the first one makes the optimizer's state) on noise in the size of the preset's
batches, from forward pass to optimizer, with the defaults for this machine. On a GPU the most memory that torch has held; on a
processor the highest resident memory above that of before the steps, where weights are loaded and nothing is computed. Presets of
volumes come with and without `trainer.activation_checkpointing`. Loader workers, decoded images and validation are not in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from segkit.config.compose import compose
from segkit.config.groups import CONF
from segkit.data.audit.audit import prepare
from segkit.data.datamodule import intensity_statistics
from segkit.system.hardware import Hardware
from segkit.training.memory import Trials

PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
COMBINED = "pelvis_combination"
"""Combines two trained networks, and trains none."""


def resident_gb(name: str) -> float:
    """VmRSS, resident memory now, or VmHWM, its peak since it was reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


def peak_gb(trials: Trials, n: int) -> float:
    """Of two steps."""
    gc.collect()
    before = resident_gb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    for _ in range(2):
        trials.step(n)
        trials.optimizer.zero_grad()
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else resident_gb("VmHWM") - before


def measure(preset: str, checkpointing: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"experiment={preset}", f"output_dir={folder}", "data.phantom_n=12", "data.root=null"]
        cfg: Any = compose("train", [*keys, f"trainer.activation_checkpointing={str(checkpointing).lower()}"])
        hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
        hardware.prepare_process()
        prepared = prepare(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, cache_dir=Path(folder))
        trials = Trials(cfg, prepared, intensity_statistics(cfg, prepared), hardware)
        n = cfg.data.batch_size
        shape = " x ".join(map(str, (n, *trials.shape)))
        return {"batch": shape, "volumes": cfg.data.dims == 3, "hardware": str(hardware), "gb": peak_gb(trials, n)}


def measured(preset: str, checkpointing: bool = False) -> dict[str, Any]:
    """`measure` in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, preset, "--measure", *(["--checkpointing"] if checkpointing else [])], capture_output=True, text=True
    )
    if done.returncode:
        return {"batch": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1], "volumes": False, "gb": float("nan")}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", default=[preset for preset in PRESETS if preset != COMBINED])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.presets) - set(PRESETS):
        parser.error(f"no preset {', '.join(unknown)}; there are {', '.join(PRESETS)}")
    if options.measure:
        print(json.dumps(measure(options.presets[0], options.checkpointing)))
        return
    print("| preset | batch (images x channels x size) | peak memory of a step, GB | with activation checkpointing |")
    print("|---|---|---|---|")
    for preset in options.presets:
        plain = measured(preset)
        less = f"{measured(preset, checkpointing=True)['gb']:.2f}" if plain["volumes"] else ""
        print(f"| `{preset}` | {plain['batch']} | {plain['gb']:.2f} | {less} |", flush=True)


if __name__ == "__main__":
    main()
