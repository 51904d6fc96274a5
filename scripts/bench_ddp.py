"""Speed of two processes on a processor (DDP over gloo, a thread each) against one process with two threads.

    python scripts/bench_ddp.py [--pairs 3] [--images 128] [--epochs 4]

The same steps on the phantom: a batch of 8, or 4 in each of two processes. Pairs in turn, so that both see the same machine; reported are
images a second in the epochs between the first and the last (no start-up, no validation), as medians, and the ratio by pair.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH = 8
KEYS = ("data=phantom", "preprocess.size=[128,192]", "model.widths=[16,32,64,128]", "trainer=cpu", "trainer.compile=false", "name=bench")
WAYS = {
    "one": (f"data.batch_size={BATCH}", "trainer.threads=2"),
    "two": (f"data.batch_size={BATCH // 2}", "trainer.devices=2", "trainer.threads=1"),
}


def images_per_second(cwd: Path, run: str, images: int, epochs: int, keys: tuple[str, ...]) -> float:
    length = (f"data.phantom_n={images}", f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}")
    command = [sys.executable, "-m", "segkit", "train", *KEYS, *length, *keys, f"run={run}"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, env=environment)
    with (cwd / "outputs/bench" / run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    middle = rows[1:-1]
    return BATCH * (int(middle[-1]["step"]) - int(rows[0]["step"])) / sum(float(row["seconds"]) for row in middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    if asked.epochs < 3:
        parser.error("--epochs: at least 3, as the first and the last do not count")
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(asked.pairs):
            for way in sorted(WAYS, reverse=bool(i % 2)):
                rates[way].append(images_per_second(Path(folder), f"{way}{i}", asked.images, asked.epochs, WAYS[way]))
    one, two = (statistics.median(rates[way]) for way in ("one", "two"))
    ratios = [b / a for a, b in zip(rates["one"], rates["two"], strict=True)]
    print(
        f"ddp on a processor: one process with 2 threads {one:.1f} images/s, two with 1 thread each {two:.1f} images/s,"
        f" ratio {statistics.median(ratios):.2f} (of pairs {min(ratios):.2f} to {max(ratios):.2f}), n = {asked.pairs} pairs"
    )


if __name__ == "__main__":
    main()
