"""How fast a training step is: segkit against a plain float32 loop, and against the processor's own bf16 rate.

    python scripts/bench_train.py [--networks classic instance plain volume …] [--pairs 3] [--steps 6]

Both sides train the same network on the same phantom, loading and augmentation included, each in a process of its own, in
turn: four 256 x 256 images a batch, or one patch of 96 x 96 x 96. The plain loop is what one writes first: float32, default
memory order, torch's AdamW, images decoded as they come. segkit's side is `segkit train` with its defaults, timed from batch
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

IMAGES = ("data.batch_size=4", "preprocess.size=[256,256]", "data.phantom_n=32")
VOLUMES = (
    *("data=decathlon", "data.dims=3", "data.batch_size=1", "data.phantom_n=12"),
    *("preprocess=volume", "sampling=volume_patches", "sampling.patch=[96,96,96]"),
)
NETWORKS = {
    "classic": (*IMAGES, "model=unet"),
    "light": (*IMAGES, "model=unet_light"),
    "instance": (*IMAGES, "model=unet", "model.norm=instance"),
    "group": (*IMAGES, "model=unet", "model.norm=group"),
    "residual": (*IMAGES, "model=unet_residual"),
    "attention": (*IMAGES, "model=unet_attention"),
    "plain": (*IMAGES, "model=unet_plain"),
    "smp": (*IMAGES, "model=smp"),
    "volume": (*VOLUMES, "model=unet_3d"),
    "volume_batch_norm": (*VOLUMES, "model=unet_3d", "model.norm=batch", "model.activation=relu"),
}


def config(folder: Path, steps: int, network: str) -> Any:
    from segkit.config.compose import compose

    rest = ["name=bench", f"output_dir={folder}", "trainer.max_epochs=100", "logger=none", f"trainer.limit_train_batches={steps}"]
    return compose("train", [*NETWORKS[network], *rest])


def seconds_of_segkit(folder: Path, steps: int, network: str) -> list[float]:
    """Between the ends of consecutive training batches, through the whole framework."""
    import lightning as L

    from segkit.data.datamodule import SegmentationData
    from segkit.system.hardware import Hardware
    from segkit.training import trainer
    from segkit.training.module import SegmentationModule
    from segkit.training.run_folder import RunFolder

    class Clock(L.Callback):
        def __init__(self) -> None:
            self.ticks: list[float] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            self.ticks.append(time.perf_counter())
            if len(self.ticks) > steps + 1:
                trainer.should_stop = True

    cfg = config(folder, steps + 3, network)
    hardware = Hardware.choose("cpu", cfg.trainer.precision, cfg.trainer.threads)
    hardware.prepare_process()
    data = SegmentationData.from_config(cfg)
    task = SegmentationModule.from_config(cfg, data, hardware.precision)
    trainer.prepare_network(task.model, cfg, hardware, len(data.train), task.metadata)
    lightning = trainer.build_trainer(cfg, RunFolder(folder), hardware, 0, len(data.train))
    clock = Clock()
    lightning.callbacks = [clock]
    lightning.limit_val_batches = 0
    lightning.fit(task, data)
    return [b - a for a, b in pairwise(clock.ticks[1:])]


def seconds_of_plain(folder: Path, steps: int, network: str) -> list[float]:
    import torch
    from torch.utils.data import DataLoader

    from segkit.data.datamodule import SegmentationData, patches_of
    from segkit.data.dataset import CaseDataset, collate
    from segkit.data.transforms.augment import Augmentation
    from segkit.training.module import SegmentationModule

    cfg = config(folder, steps, network)
    data = SegmentationData.from_config(cfg)
    manifest = data.prepared.manifest
    task = SegmentationModule.from_config(cfg, data)
    patches, per_case = patches_of(cfg)
    augmentation = Augmentation(cfg.augment.transforms)
    dataset = CaseDataset(manifest.cases, manifest.labels, cfg.preprocess, augmentation, patches=patches, per_case=per_case)
    loader: Any = DataLoader(dataset, batch_size=cfg.data.batch_size, shuffle=True, collate_fn=collate, drop_last=True)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    ticks: list[float] = []
    while len(ticks) < steps + 2:
        for batch in loader:
            optimizer.zero_grad()
            task.loss(*task.model.supervised(batch.image, batch.mask))["loss"].backward()
            optimizer.step()
            ticks.append(time.perf_counter())
            if len(ticks) == steps + 2:
                break
    return [b - a for a, b in pairwise(ticks[1:])]


def gflops_of_bf16_product(folder: Path, steps: int, network: str) -> list[float]:
    import torch

    n = 2048
    a = torch.rand(n, n, dtype=torch.bfloat16)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        rates.append(2 * n**3 / (time.perf_counter() - start) / 1e9)
    return rates[3:]


def gflop_of_a_batch(folder: Path, steps: int, network: str) -> list[float]:
    """Operations of the forward pass, and twice that for the backward."""
    from segkit.data.datamodule import SegmentationData
    from segkit.models.probe import flop_per_image
    from segkit.training.module import SegmentationModule

    cfg = config(folder, steps, network)
    module = SegmentationModule.from_config(cfg, SegmentationData.from_config(cfg))
    size = cfg.sampling.patch or cfg.preprocess.size or ()
    return [3 * cfg.data.batch_size * flop_per_image(module.model, module.metadata.channels, size) / 1e9]


SIDES = {f.__name__: f for f in (seconds_of_segkit, seconds_of_plain, gflops_of_bf16_product, gflop_of_a_batch)}


def measure(side: str, steps: int, network: str) -> float:
    """Median of one side, in a fresh process."""
    command = [sys.executable, __file__, "--side", side, "--steps", str(steps), "--networks", network]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return statistics.median(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(network: str, pairs: int, steps: int) -> None:
    work = measure("gflop_of_a_batch", steps, network)
    batch = 1 if VOLUMES[0] in NETWORKS[network] else 4
    ratios, shares, rates = [], [], []
    for _ in range(pairs):
        peak, plain, ours = (measure(side, steps, network) for side in ("gflops_of_bf16_product", "seconds_of_plain", "seconds_of_segkit"))
        ratios.append(plain / ours)
        shares.append(work / ours / peak)
        rates.append((batch / plain, batch / ours, work / plain, work / ours, peak))
    plain_rate, our_rate, plain_gflops, our_gflops, peak = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"{network:<18} plain float32 {plain_rate:6.2f} images/s ({plain_gflops:4.0f} GFLOP/s)   segkit {our_rate:6.2f} images/s "
        f"({our_gflops:4.0f} GFLOP/s)   ratio {statistics.median(ratios):.2f}   "
        f"{statistics.median(shares):4.0%} of the bf16 product ({peak:.0f} GFLOP/s)   n = {pairs}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["classic"])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(SIDES[options.side](Path(folder), options.steps, options.networks[0])))
        return
    for network in options.networks:
        compare(network, options.pairs, options.steps)


if __name__ == "__main__":
    main()
