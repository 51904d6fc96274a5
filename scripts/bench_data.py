"""How fast images are ready for the network: decoded, brought to its grid, augmented.

    python scripts/bench_data.py [--data hc18 --root FOLDER] [--size 256 256] [--augment medical] [--n 120] [--train]

Three ways, the same images and keys: from the files (they may be in the system's own cache), kept in memory, and from
the disk cache. Images a second in one process with one thread, which is what a loader worker does; so it is a rate per
core. With --train also the classic U-Net's training step on the same machine, and how many times over one core feeds it.
Medians of three rounds; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

ROUNDS = 3


def config(args: argparse.Namespace, folder: Path) -> Any:
    from segkit.config.compose import compose

    root = [f"data.root={args.root}"] if args.root else [f"data.phantom_n={args.n}"]
    size = f"preprocess.size=[{','.join(map(str, args.size))}]"
    return compose("train", [f"data={args.data}", *root, size, f"augment={args.augment}", f"output_dir={folder}", "data.disk_cache_gb=10"])


def rate(dataset: Any, n: int, epoch: int) -> float:
    """Images a second."""
    start = time.perf_counter()
    for i in range(n):
        dataset[(epoch, i % len(dataset))]
    return n / (time.perf_counter() - start)


def rates(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    from segkit.data.datamodule import array_cache
    from segkit.data.dataset import CaseDataset
    from segkit.data.transforms.augment import Augmentation
    from segkit.training import train as run

    cfg = config(args, folder)
    prepared = run.prepare_data(cfg, None)
    labels, cases = prepared.manifest.labels, prepared.manifest.cases[: args.n]
    cv2.setNumThreads(0)  # as in a loader worker

    def dataset(cache: bool) -> CaseDataset:
        augmentation = Augmentation(cfg.augment.transforms)
        return CaseDataset(cases, labels, cfg.preprocess, augmentation, cache=array_cache(cfg, labels, 65535) if cache else None)

    files, memory, disk = dataset(False), dataset(False), dataset(True)
    memory.keep_in_memory(2)
    n = len(cases)
    rate(disk, n, 0)  # fills the cache
    found: dict[str, list[float]] = {"files": [], "memory": [], "disk cache": []}
    for epoch in range(ROUNDS):  # in turn, so that a busy moment meets all
        for name, one in zip(found, (files, memory, disk), strict=True):
            found[name].append(rate(one, n, epoch))
    return found


def training_rate(size: list[int]) -> float:
    """Images a second of the classic U-Net's training step, batch 4, with segkit's own choices for this machine."""
    import torch

    from segkit.losses import DiceLoss, WeightedLoss
    from segkit.models.unet import UNet
    from segkit.system.hardware import Hardware

    hardware = Hardware.choose("auto", "auto", "auto")
    hardware.prepare_process()
    model = UNet(1, 1).to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = WeightedLoss({"dice": DiceLoss("binary")}, {}, "binary")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    image = torch.rand(4, 1, *size, device=hardware.device).contiguous(memory_format=torch.channels_last)
    mask = torch.randint(0, 2, (4, *size), dtype=torch.uint8, device=hardware.device)
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        with torch.autocast(hardware.device, dtype=hardware.autocast_dtype or torch.float32, enabled=hardware.autocast_dtype is not None):
            logits = model(image)
        loss(logits, mask)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        if hardware.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 4 / statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hc18")
    parser.add_argument("--root", default=None)
    parser.add_argument("--size", type=int, nargs=2, default=[256, 256])
    parser.add_argument("--augment", default="medical")
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rates(args, Path(folder))
    print(f"{args.data} {args.root or '(phantom)'}, {args.n} images at {args.size[0]} x {args.size[1]}, augment={args.augment}")
    for name, values in found.items():
        print(f"  {name:<12} {statistics.median(values):8.1f} images/s a core   ({min(values):.1f} to {max(values):.1f})")
    if args.train:
        step = training_rate(args.size)
        print(f"  classic U-Net's training step: {step:.2f} images/s, all cores")
        for name, values in found.items():
            print(f"  {name:<12} one core feeds it {statistics.median(values) / step:6.1f} times over")


if __name__ == "__main__":
    main()
