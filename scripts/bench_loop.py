"""Where an epoch goes, and how long a training takes to start.

    python scripts/bench_loop.py [--presets fetal_head chest_organs quickstart] [--pairs 3] [-- data.root=FOLDER …]

Of each preset: the table of `trainer.profiler=epoch`, and the share of the time that is neither forward nor backward of the training,
with what of it is the network on validation cases.
It trains as many epochs as lie between two validations of the preset, so that one of them validates, one more to warm up and one to end
with; these two do not count. fetal_head and chest_organs train on the public samples in SEGKIT_DATA where that is set, else on phantoms;
what follows `--` are overrides for all presets. Then the start-up: `segkit train experiment=quickstart debug=fast` against a bare
`import torch, lightning, albumentations, segmentation_models_pytorch`, in turn, medians. Nothing is asserted. Quiet machine, please.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from segkit.config.compose import compose

DATA = Path(os.environ.get("SEGKIT_DATA", "/nowhere"))
SAMPLES = {
    "fetal_head": (f"data.root={DATA / 'hc18'}", "split=file", f"split.path={DATA / 'hc18_split_99_24.json'}"),
    "chest_organs": (f"data.root={DATA / 'chest_xray'}", "data.source.annotations=labelme"),
    "em_membrane_fast": (f"data.root={DATA / 'em_membrane'}",),
}
BARE = "import torch, lightning, albumentations, segmentation_models_pytorch"
NETWORK, VALIDATION = ("forward", "backward"), ("validation",)


def segkit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "segkit", *words, f"output_dir={folder}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done


def profile(preset: str, overrides: list[str], folder: Path) -> tuple[float, float]:
    """Print the table. Of the epochs between the first and the last, return the share that is neither forward nor backward, and that of
    the network on validation cases."""
    sample = SAMPLES.get(preset, ()) if DATA.is_dir() else ()
    keys = (f"experiment={preset}", *sample, *overrides)
    cfg: Any = compose("train", list(keys))
    epochs = 2 + cfg.trainer.check_val_every_n_epoch
    done = segkit(folder, "train", *keys, "trainer.profiler=epoch", f"trainer.max_epochs={epochs}", f"run={preset}", f"name={preset}")
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("profile "))
    last = next(i for i, line in enumerate(lines) if "neither forward nor backward" in line)
    print(preset, *lines[first : last + 1], sep="\n", flush=True)
    with (folder / preset / preset / "profile.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if 0 < int(row["epoch"]) < epochs - 1]
    whole = sum(float(row["seconds"]) for row in rows)
    training, validation = (sum(float(row["seconds"]) for row in rows if row["part"] in parts) / whole for parts in (NETWORK, VALIDATION))
    return 1 - training, validation


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def startup(pairs: int, folder: Path) -> None:
    ours = [sys.executable, "-m", "segkit", "train", "experiment=quickstart", "debug=fast", f"output_dir={folder}"]
    bare = [sys.executable, "-c", BARE]
    seconds(ours)  # draws the phantom
    seconds(bare)
    times = [(seconds(bare), seconds(ours)) for _ in range(pairs)]
    imports, training = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(ours / bare for bare, ours in times)
    print(f"start-up   bare imports {imports:.2f} s   quickstart debug=fast {training:.2f} s   ratio {ratio:.2f}   n = {pairs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=["fetal_head", "chest_organs", "quickstart"])
    parser.add_argument("--pairs", type=int, default=3, help="of start-ups; 0 = none")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shares = {preset: profile(preset, options.overrides, Path(folder)) for preset in options.presets}
        for preset, (share, validation) in shares.items():
            beside = f"{validation:.1%} the network on validation cases, {share - validation:.1%} all else"
            print(f"{preset:<18} neither forward nor backward: {share:.1%} of the training; {beside}")
        if options.pairs:
            startup(options.pairs, Path(folder))


if __name__ == "__main__":
    main()
