"""How fast a training step is: segkit against a plain float32 loop, and against the processor's own bf16 rate.

    python scripts/bench_train.py [--pairs 3] [--steps 6]

Both sides train the classic 64-base U-Net on batches of four 256 x 256 images, loading and augmentation included, each in
a process of its own, in turn, on the same phantom. The plain loop is what one writes first: float32, default memory
order, torch's AdamW, images decoded as they come. segkit's side is `segkit train` with its defaults, timed from batch
end to batch end. The matrix product is 2048 x 2048 x 2048 in bf16. Medians; nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

BATCH, SIZE = 4, 256


def config(folder: Path, steps: int) -> Any:
    from segkit.config.door import compose

    keys = [f"data.batch_size={BATCH}", f"preprocess.size=[{SIZE},{SIZE}]", f"data.phantom_n={4 * BATCH * 2}", "name=bench"]
    return compose(
        "train", [*keys, f"output_dir={folder}", "trainer.max_epochs=100", "logger=none", f"trainer.limit_train_batches={steps}"]
    )


def seconds_of_segkit(folder: Path, steps: int) -> list[float]:
    """Between the ends of consecutive training batches, through the whole framework."""
    import lightning as L

    from segkit import run, trainer
    from segkit.data.datamodule import SegmentationData
    from segkit.hardware import Hardware
    from segkit.rundir import RunFolder

    class Clock(L.Callback):
        def __init__(self) -> None:
            self.ticks: list[float] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            self.ticks.append(time.perf_counter())
            if len(self.ticks) > steps + 1:
                trainer.should_stop = True

    cfg = config(folder, steps + 3)
    hardware = Hardware.choose("cpu", cfg.trainer.precision, cfg.trainer.threads)
    hardware.prepare_process()
    prepared = run.prepare_data(cfg, None)
    task = run.build_task(cfg, run.make_card(cfg, prepared, hardware))
    data = SegmentationData(prepared, cfg, hardware.device, task.card.top)
    trainer.prepare_network(task.model, cfg, hardware, 1, len(data.train))
    lightning = trainer.build_trainer(cfg, RunFolder(folder), hardware, 0, len(data.train))
    clock = Clock()
    lightning.callbacks = [clock]
    lightning.limit_val_batches = 0
    lightning.fit(task, data)
    return [b - a for a, b in pairwise(clock.ticks[1:])]


def seconds_of_plain(folder: Path, steps: int) -> list[float]:
    import torch
    from torch.utils.data import DataLoader

    from segkit import run
    from segkit.data.augment import Augmentation
    from segkit.data.dataset import CaseDataset, collate
    from segkit.losses import WeightedLoss
    from segkit.losses.cross_entropy import cross_entropy_loss
    from segkit.losses.dice import dice_loss
    from segkit.models.unet import UNet

    cfg = config(folder, steps)
    prepared = run.prepare_data(cfg, None)
    manifest = prepared.manifest
    dataset = CaseDataset(manifest.cases, manifest.labels, cfg.preprocess, Augmentation(cfg.augment.transforms))
    loader: Any = DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=collate, drop_last=True)
    network = UNet(1, 1)
    loss = WeightedLoss({"dice": dice_loss("binary"), "ce": cross_entropy_loss("binary")}, {}, "binary")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ticks: list[float] = []
    while len(ticks) < steps + 2:
        for batch in loader:
            optimizer.zero_grad()
            loss(network(batch.image.float() / 255), batch.mask)["loss"].backward()
            optimizer.step()
            ticks.append(time.perf_counter())
    return [b - a for a, b in pairwise(ticks[1:])]


def gflops_of_bf16_product(folder: Path, steps: int) -> list[float]:
    import torch

    n = 2048
    a = torch.rand(n, n, dtype=torch.bfloat16)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        rates.append(2 * n**3 / (time.perf_counter() - start) / 1e9)
    return rates[3:]


def gflop_per_image(folder: Path, steps: int) -> list[float]:
    from segkit.models.unet import UNet
    from segkit.models.wrapper import Normalizer, SegmentationModel
    from segkit.trainer import flop_per_image

    return [flop_per_image(SegmentationModel(UNet(1, 1), Normalizer("unit"), "binary"), 1, (SIZE, SIZE)) / 1e9]


SIDES = {f.__name__: f for f in (seconds_of_segkit, seconds_of_plain, gflops_of_bf16_product, gflop_per_image)}


def measure(side: str, steps: int) -> float:
    """Median of one side, in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--side", side, "--steps", str(steps)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return statistics.median(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(SIDES[options.side](Path(folder), options.steps)))
        return
    work = 3 * BATCH * measure("gflop_per_image", 0)  # forward, and twice that backward
    pairs = []
    for i in range(options.pairs):
        peak, plain, ours = (
            measure(f"{name}", options.steps) for name in ("gflops_of_bf16_product", "seconds_of_plain", "seconds_of_segkit")
        )
        pairs.append((plain / ours, work / ours / peak))
        print(
            f"pair {i + 1}: plain float32 {BATCH / plain:.2f} images/s ({work / plain:.0f} GFLOP/s), segkit {BATCH / ours:.2f} images/s "
            f"({work / ours:.0f} GFLOP/s), ratio {plain / ours:.2f}; bf16 product {peak:.0f} GFLOP/s, share {work / ours / peak:.0%}",
            flush=True,
        )
    ratio, share = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"median of {len(pairs)}: {ratio:.2f} times the plain loop, {share:.0%} of the bf16 matrix product")


if __name__ == "__main__":
    main()
