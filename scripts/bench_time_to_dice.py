"""Seconds of training until the validation Dice is reached: a preset, and a plain loop with nnU-Net's settings on the same split.

    python scripts/bench_time_to_dice.py experiment=fetal_head data.root=HC18_FOLDER [OVERRIDES …] [--minutes 15] [--dice 0.9 0.95]

The preset is trained by `segkit train`; its seconds are those of metrics.csv: training and validation. The baseline is a loop of its
own, with what nnU-Net publishes for two dimensions (Isensee et al., Nature Methods 2021): a U-Net of widths 32, 64, … up to 512 down to
at least 4 pixels, instance norm, leaky ReLU, strided convolutions, deep supervision (1, 1/2, 1/4, … of the loss), Dice + cross-entropy,
SGD with Nesterov momentum 0.99, rate 0.01 falling as (1 - step / 250,000) ** 0.9, gradients clipped at 12, float32 on a processor and
fp16 on a GPU. Images, split, batch size and augmentation are the preset's, so that both learn from the same; the baseline's seconds are
those of its training steps, loading included and validation left out. Both Dice are the mean over the validation cases on the original
grid, without test-time augmentation. With `--baseline-size` the baseline sees images of another size, such as nnU-Net's own plan.
Where nnunetv2 is installed, `--nnunet` names the log of one of its trainings, and its pseudo Dice joins the table.

The last line has the rate of a bf16 matrix product, by which machines can be compared. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step_timing import product_rate
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

from segkit.config.compose import compose
from segkit.data.datamodule import SegmentationData
from segkit.data.dataset import Batch
from segkit.data.labels import IGNORE
from segkit.inference.postprocess import decide, restore
from segkit.models import UNet
from segkit.training.module import SegmentationModule

Curve = list[tuple[float, float]]
"""Seconds of training, and the validation Dice then."""

PUBLISHED_STEPS = 250_000
EPS = 1e-5


def of_preset(overrides: list[str], folder: Path) -> Curve:
    """The curve of a training through the command line."""
    run = folder / "preset"
    subprocess.run([sys.executable, "-m", "segkit", "train", *overrides, f"hydra.run.dir={run}"], check=True)
    seconds, curve = 0.0, []
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            seconds += float(row["seconds"])
            if row.get("val/dice"):
                curve.append((seconds, float(row["val/dice"])))
    return curve


def nnunet_like(size: tuple[int, ...], channels: int, outputs: int) -> UNet:
    """nnU-Net's plain network for images of `size`."""
    depth = 1
    while min(size) // 2**depth >= 4 and depth < 7:
        depth += 1
    widths = [min(32 * 2**level, 512) for level in range(depth)]
    keywords = {"norm": "instance", "activation": "leaky_relu", "down": "conv", "deep_supervision": depth - 2}
    return UNet(channels, outputs, widths=widths, **keywords)  # type: ignore[arg-type]


def loss_of(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy less batch Dice of the foreground, as nnU-Net has it. `logits` (B, C, H, W), `mask` (B, H, W)."""
    valid = mask != IGNORE
    target = mask.where(valid, 0).long()
    truth = one_hot(target, logits.shape[1]).movedim(-1, 1) * valid[:, None]
    probs = logits.float().softmax(1) * valid[:, None]
    both, total = (probs * truth).sum((0, 2, 3))[1:], (probs + truth).sum((0, 2, 3))[1:]
    ce = cross_entropy(logits.float(), target.masked_fill(~valid, -100), ignore_index=-100)
    return ce - ((2 * both + EPS) / (total + EPS)).mean()


def deep_loss(outputs: list[Tensor], mask: Tensor) -> Tensor:
    weights = torch.tensor([0.5**level for level in range(len(outputs))])
    masks = [interpolate(mask[:, None].float(), out.shape[2:], mode="nearest")[:, 0].to(torch.uint8) for out in outputs]
    losses = torch.stack([loss_of(out, small) for out, small in zip(outputs, masks, strict=True)])
    return (losses * (weights / weights.sum()).to(losses.device)).sum()


class Baseline:
    """The plain loop.

    Args:
        overrides: of the preset, whose images, split, batch size and augmentation are used.
        size: of the images; None: the preset's.
    """

    def __init__(self, overrides: list[str], size: list[int] | None) -> None:
        changed = ["sampling.progressive_resizing=null", *([f"preprocess.size={size}"] if size else [])]
        cfg: Any = compose("train", [*overrides, *changed])
        self.data = SegmentationData.from_config(cfg)
        self.labels = self.data.prepared.manifest.labels
        if self.labels.overlap or cfg.data.dims != 2 or cfg.sampling.patch or not cfg.preprocess.size:
            raise SystemExit("the baseline trains on whole images of one size whose classes exclude each other")
        self.data.setup("fit")
        torch.manual_seed(cfg.seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.scale = SegmentationModule.from_config(cfg, self.data).model.normalizer.to(self.device)
        channels = len(self.data.val[0].image)
        self.network = nnunet_like(cfg.preprocess.size, channels, 1 + len(self.labels.classes)).to(self.device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: (1 - step / PUBLISHED_STEPS) ** 0.9)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.device == "cuda")

    def curve(self, minutes: float, validations: int) -> Iterator[tuple[float, float]]:
        """Seconds and Dice, about `validations` of them, until the training has taken `minutes`."""
        loader, seconds, due = self.data.train_dataloader(), 0.0, 0.0
        for epoch in count():
            loader.position.set_epoch(epoch)
            start = time.perf_counter()
            for batch in loader:
                self.step(batch)
            seconds += time.perf_counter() - start
            if seconds >= due:
                due += 60 * minutes / validations
                yield seconds, self.dice()
            if seconds >= 60 * minutes:
                return

    def step(self, batch: Batch) -> None:
        self.network.train()
        with torch.autocast(self.device, torch.float16, enabled=self.device == "cuda"):
            outputs = self.network(self.scale(batch.image.to(self.device)))
        loss = deep_loss(outputs if isinstance(outputs, list) else [outputs], batch.mask.to(self.device))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.rate.step()

    @torch.no_grad()
    def dice(self) -> float:
        """Mean over classes and validation cases, on the original grid; 1 where both masks are empty."""
        self.network.eval()
        found = []
        for i in range(len(self.data.val)):
            sample, truth = self.data.val[i], self.data.val.reference(i)
            probs = self.network(self.scale(sample.image[None].to(self.device))).float().softmax(1)[0].cpu().numpy()
            shown = probs if self.labels.mode == "multiclass" else probs[1:]
            mask = decide(restore(shown, sample.steps, self.labels), self.labels, 0.5)
            for k in range(1, 1 + len(self.labels.classes)):
                both, total = np.sum((mask == k) & (truth == k)), np.sum((mask == k) & (truth != IGNORE)) + np.sum(truth == k)
                found.append(2 * both / total if total else 1.0)
        return float(np.mean(found))


def of_nnunet(log: Path) -> Curve:
    """From `training_log_*.txt` of an nnU-Net training: seconds since its first line, and the mean pseudo Dice of each epoch."""
    curve, start = [], None
    for line in log.read_text(encoding="utf-8").splitlines():
        if not (found := re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+): +(.*)", line)):
            continue
        now = datetime.fromisoformat(found[1])
        start = start or now
        if scores := re.match(r"Pseudo dice \[(.*)\]", found[2]):
            values = [float(number) for number in re.findall(r"(?<![\w.])\d*\.\d+", scores[1])]
            curve.append(((now - start).total_seconds(), statistics.fmean(values)))
    return curve


def reached(curve: Curve, dice: float) -> str:
    return next((f"{seconds:.0f} s" for seconds, score in curve if score >= dice), "not reached")


def table(curves: dict[str, Curve], goals: list[float]) -> Iterator[str]:
    yield f"| Dice | {' | '.join(curves)} |"
    yield f"|---|{'---|' * len(curves)}"
    for goal in goals:
        yield f"| {goal:g} | {' | '.join(reached(curve, goal) for curve in curves.values())} |"
    yield f"| best | {' | '.join('{1:.3f} at {0:.0f} s'.format(*max(curve, key=lambda p: p[1])) for curve in curves.values())} |"
    yield f"| last | {' | '.join('{1:.3f} at {0:.0f} s'.format(*curve[-1]) for curve in curves.values())} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="of segkit train")
    parser.add_argument("--minutes", type=float, default=15, help="of the baseline's training; 0 leaves it out")
    parser.add_argument("--validations", type=int, default=30, help="of the baseline in that time")
    parser.add_argument("--baseline-size", type=int, nargs=2, metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--nnunet", type=Path, metavar="LOG", help="training_log_*.txt of nnU-Net")
    parser.add_argument("--dice", type=float, nargs="+", default=[0.9, 0.95, 0.965])
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = {"segkit": of_preset(options.overrides, Path(folder))}
    if options.minutes:
        curves["nnU-Net's settings"] = []
        for point in Baseline(options.overrides, options.baseline_size).curve(options.minutes, options.validations):
            curves["nnU-Net's settings"].append(point)
            print("baseline  {:.0f} s  Dice {:.4f}".format(*point), flush=True)
    if options.nnunet:
        curves["nnU-Net, pseudo Dice"] = of_nnunet(options.nnunet)
    print("\n".join(table(curves, options.dice)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"bf16 product of 2048 x 2048: {1000 * product_rate(device, torch.bfloat16, 2048):.0f} GFLOP/s")


if __name__ == "__main__":
    main()
