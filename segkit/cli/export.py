"""`segkit export`: write a checkpoint as a file for other programs."""

from __future__ import annotations

from pathlib import Path

from segkit.cli.checkpoints import check_output
from segkit.config.commands import Export as Keys
from segkit.inference.export import formats, samples
from segkit.inference.export.card import card_of
from segkit.inference.export.exporter import Export, Written, export
from segkit.inference.export.parity import PASSES
from segkit.inference.predictor import load
from segkit.models import checkpoint
from segkit.system.errors import SegkitError
from segkit.system.files import sha256_of
from segkit.system.progress import console
from segkit.system.shell import override


def command(cfg: Keys) -> int:
    folder, path = Path(cfg.output), checkpoint.find(cfg.ckpt)
    formats.check(cfg.format, cfg.precision)
    check_output(folder)
    if path.suffix in checkpoint.EXPORTED:
        raise SegkitError(f"{path} is an exported network already;   name the checkpoint that it was made of")
    predictor = load(path, "cpu", "32", allow=cfg.allow_targets)
    found = samples.find(predictor, cfg.data, cfg.allow_targets, cfg.input, folder, cfg.n)
    console.print(f"images     {len(found.images)} {found.what}", markup=False)
    task = Export(predictor, found, cfg.format, cfg.precision, folder, sha256_of(path), cfg.allow_targets)
    report(export(task), task)
    return 0


def report(done: Written, task: Export) -> None:
    """Print what was found, and what the file is for."""
    about = done.about
    shape = " x ".join(map(str, task.size))
    rates = ", ".join(f"{name} {rate:,.0f}" if rate >= 100 else f"{name} {rate:.3g}" for name, rate in done.speeds.items())
    size = "any" if about.size is None else f"{' x '.join(map(str, about.size))} alone: this network's graph depends on it"
    lines = [
        f"parity     {done.parity} (n = {done.parity.n})",
        *([f"loss       {loss(*done.dice)} (n = {len(task.samples.cases)} cases)"] if done.dice else []),
        f"size       {size}; batches of {'any size' if about.batch is None else about.batch}",
        f"images/s   {rates} (one image of {shape}, {task.predictor.hardware.threads} threads, median of {PASSES} passes or more)",
        f"written    {done.path}, {card_of(done.path).name}",
        f"  segkit predict {override('ckpt', str(done.path))} input=IMAGES output=MASKS",
    ]
    console.print("\n".join(lines), markup=False)


def loss(before: float, after: float) -> str:
    return f"Dice against the ground truth {before:.4f} in float32, {after:.4f} here: {after - before:+.4f}"
