"""What segkit does on a GPU, measured by one command: a table, and the same as JSON. Never run on one so far.

    python scripts/gpu_check.py [--data HC18_FOLDER] [--output gpu_check.json] [--only step resume …] [--minutes 8] [--tiny]

Each check is a process of its own with a time limit: one that fails, hangs or runs out of memory costs no other. After `--minutes`
no time is left for those that remain. The exit code is 1 where one failed. `--tiny` runs every check on the processor, at sizes that end
in seconds: it proves this script, and measures nothing.

A machine that has torch and lightning needs these wheels besides, and what they depend on: hydra-core omegaconf albumentations
opencv-python-headless torchmetrics tensorboard scipy pydantic pillow tifffile imagecodecs nibabel matplotlib rich lazy-loader psutil
packaging safetensors. Put the checkout itself on PYTHONPATH, by its absolute path.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from step_timing import product_rate, synchronize, timed_steps

import segkit
from segkit.config.compose import compose
from segkit.data.datamodule import SegmentationData
from segkit.inference.predictor import memory_order
from segkit.inference.sliding_window import sliding
from segkit.models.probe import flop_per_image
from segkit.system.hardware import Hardware
from segkit.training.module import SegmentationModule

LIMIT_S = 180
"""Of one check; `dice` trains, and has more."""
TRAINING_LIMIT_S = 300
Row = tuple[str, float | str, str]
"""What was measured, its value, its unit."""


@dataclass(frozen=True)
class Machine:
    """Where and how large the checks are."""

    tiny: bool
    data: str | None
    folder: Path

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def keys(self) -> tuple[str, ...]:
        """Of every config: device, and a network that is tiny as well."""
        small = ("model.widths=[4,8]",) if self.tiny else ()
        return ("name=check", f"output_dir={self.folder}/outputs", f"trainer={'cpu' if self.tiny else 'gpu'}", *small)

    @property
    def images(self) -> tuple[str, ...]:
        batch, size = (2, 32) if self.tiny else (16, 256)
        return ("data=phantom", "data.phantom_n=8", "model=unet", f"data.batch_size={batch}", f"preprocess.size=[{size},{size}]")

    @property
    def volumes(self) -> tuple[str, ...]:
        side, batch = (16, 1) if self.tiny else (128, 2)
        patch = ("preprocess=volume", "sampling=volume_patches", f"sampling.patch=[{side},{side},{side}]")
        return ("data=decathlon", "data.dims=3", "data.phantom_n=4", "model=unet_3d", f"data.batch_size={batch}", *patch)

    def product_rate(self, dtype: torch.dtype) -> float:
        return product_rate(self.device, dtype, 256 if self.tiny else 8192)

    def timed_steps(self, keys: tuple[str, ...], strategy: Any = None) -> tuple[Any, Any, float]:
        return timed_steps(keys, self.folder / "steps", *((1, 2) if self.tiny else (10, 30)), strategy)


def product(machine: Machine) -> Iterator[Row]:
    """Rates of matrix products: the limits that everything else is compared with."""
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.items():
        yield f"product, {name}", machine.product_rate(dtype), "TFLOP/s"
    torch.backends.cuda.matmul.allow_tf32 = True
    yield "product, TF32", machine.product_rate(torch.float32), "TFLOP/s"


STEPS: dict[str, tuple[str, ...]] = {
    "bf16": (),
    "bf16, channels first": ("trainer.channels_last=false",),
    "bf16, not deterministic": ("trainer.deterministic=false",),
    "bilinear up-sampling": ("model.up=resize",),
    "bilinear up-sampling, not deterministic": ("model.up=resize", "trainer.deterministic=false"),
    "fp32, convolutions in TF32": ("trainer.precision=32",),
    "fp16, gradients clipped": ("trainer.precision=16", "trainer.gradient_clip_val=1"),
    "instance norm": ("model.norm=instance",),
    "instance norm, channels first": ("model.norm=instance", "trainer.channels_last=false"),
    "bf16, compiled": ("trainer.compile=true",),  # last: it takes minutes, and more can fail
}


def step(machine: Machine) -> Iterator[Row]:
    """The classic U-Net's training step in Lightning, without loading."""
    for name, keys in STEPS.items():
        if not (machine.tiny and {"trainer.precision=16", "trainer.compile=true"} & set(keys)):  # no fp16 there; compiles for a minute
            yield from rates(machine, f"step, {name}", (*machine.images, *machine.keys, *keys))


def volume(machine: Machine) -> Iterator[Row]:
    """The same of a volume network on patches of 128 x 128 x 128."""
    yield from rates(machine, "3-D step", (*machine.volumes, *machine.keys))
    yield from rates(machine, "3-D step, channels first", (*machine.volumes, *machine.keys, "trainer.channels_last=false"))
    yield from rates(machine, "3-D step, not deterministic", (*machine.volumes, *machine.keys, "trainer.deterministic=false"))
    yield from rates(machine, "3-D step, checkpointing", (*machine.volumes, *machine.keys, "trainer.activation_checkpointing=true"))


def ddp(machine: Machine) -> Iterator[Row]:
    """A step of one process with gradients averaged by NCCL (gloo on a processor), beside the same without."""
    keys = (*machine.images, *machine.keys)
    yield "step, one process", 1000 * machine.timed_steps(keys)[2], "ms"
    strategy = DDPStrategy(process_group_backend="gloo" if machine.tiny else "nccl")
    yield "step, DDP of one process", 1000 * machine.timed_steps(keys, strategy)[2], "ms"


def fsdp(machine: Machine) -> Iterator[Row]:
    """A step of one process whose weights are sharded."""
    if machine.tiny:
        yield "step, FSDP of one process", "needs a GPU", ""
        return
    keys = (*machine.images, *machine.keys, "trainer.strategy=fsdp")
    yield "step, FSDP of one process", 1000 * machine.timed_steps(keys)[2], "ms"


def rates(machine: Machine, name: str, keys: tuple[str, ...]) -> Iterator[Row]:
    """Images a second, the share of the bf16 product, and memory."""
    limit = machine.product_rate(torch.bfloat16)
    cfg, module, seconds = machine.timed_steps(keys)
    flop = 3 * cfg.data.batch_size * flop_per_image(module.model, module.metadata.channels, cfg.sampling.patch or cfg.preprocess.size)
    yield name, cfg.data.batch_size / seconds, "images/s"
    yield f"{name}: of the bf16 product", 100 * flop / seconds / 1e12 / limit, "%"
    if torch.cuda.is_available():
        yield f"{name}: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB"
        torch.cuda.reset_peak_memory_stats()


def loader(machine: Machine) -> Iterator[Row]:
    """Images a second of the training loader alone, streamed from disk and augmented, to compare with the step's."""
    n = 8 if machine.tiny else 256
    for workers in (0, 1) if machine.tiny else (0, 4, 8, 16):
        keys = (*machine.images, "augment=medical", "data.cache_gb=0", f"data.num_workers={workers}", f"data.phantom_n={n}")
        cfg: Any = compose("train", [*keys, *machine.keys])
        batches = SegmentationData.from_config(cfg).train_dataloader()
        list(batches)  # starts the workers
        start = time.perf_counter()
        n_seen = sum(len(batch.indices) for _ in range(2) for batch in batches)
        yield f"loader, {workers} workers", n_seen / (time.perf_counter() - start), "images/s"


def command(machine: Machine, *args: str) -> subprocess.CompletedProcess[str]:
    """`segkit ...` in the folder of the check."""
    return subprocess.run([sys.executable, "-m", "segkit", *args], cwd=machine.folder, capture_output=True, text=True)


def must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args[2:])}: {done.stderr.strip().splitlines()[-1:]}")


def dice(machine: Machine) -> Iterator[Row]:
    """Seconds of training until `fetal_head` reaches a Dice; on its phantom without --data, which says nothing about patients."""
    data = [f"data.root={Path(machine.data).absolute()}"] if machine.data else []
    short = ["debug=fast"] if machine.tiny else []
    must(command(machine, "train", "experiment=fetal_head", *short, *data, *machine.keys, "run=dice"))
    with (machine.folder / "outputs/check/dice/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/dice"]]
    seconds = 0.0
    reached: dict[float, float] = {}
    for row in rows:
        seconds += float(row["seconds"])
        for goal in (0.9, 0.95, 0.965):
            if float(row["val/dice"]) >= goal:
                reached.setdefault(goal, seconds)
    where = "HC18" if data else "phantom"
    for goal in (0.9, 0.95, 0.965):
        yield f"fetal_head on {where} to Dice {goal}", reached.get(goal, "not reached"), "s" if goal in reached else ""
    yield f"fetal_head on {where}, last Dice", float(rows[-1]["val/dice"]), f"after {seconds:.0f} s"


def resume(machine: Machine) -> Iterator[Row]:
    """A training that is killed and resumed against one that is not: largest difference of weights, with and without `deterministic`."""
    for deterministic in ("true",) if machine.tiny else ("true", "false"):
        keys = (*machine.images, "data.phantom_n=16", *machine.keys, f"trainer.deterministic={deterministic}", "logger.tensorboard=false")
        name = f"resume_{deterministic}"
        keys = (*keys, f"name={name}", "trainer.max_epochs=4", "callbacks.checkpoint.every_minutes=0.001")
        must(command(machine, "train", *keys, "run=whole"))
        kill_after_checkpoint(machine, name, *keys, "run=killed")
        must(command(machine, "train", *keys, "run=killed", "resume=auto"))
        runs = machine.folder / "outputs" / name
        yield f"killed and resumed, deterministic={deterministic}: largest difference of weights", difference(runs), ""


def kill_after_checkpoint(machine: Machine, name: str, *keys: str) -> None:
    """kill -9 as soon as the run `killed` has a last.ckpt."""
    process = subprocess.Popen([sys.executable, "-m", "segkit", "train", *keys], cwd=machine.folder, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(machine.folder.glob(f"outputs/{name}/killed/checkpoints/last.ckpt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def difference(runs: Path) -> float:
    one, other = (
        torch.load(runs / run / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")["state_dict"] for run in ("whole", "killed")
    )
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def predict(machine: Machine) -> Iterator[Row]:
    """Masks of a processor and of the GPU, of the same checkpoint."""
    keys = (*machine.images, "data.phantom_n=16", *machine.keys, "trainer.max_epochs=6", "name=predict", "run=r")
    must(command(machine, "train", *keys))
    must(command(machine, "phantom", "output=heads", "n=8"))
    cpu, gpu = (segkit.load(machine.folder / "outputs/predict/r", accelerator=name) for name in ("cpu", "cpu" if machine.tiny else "gpu"))
    common = total = 0
    for path in sorted((machine.folder / "heads/images").iterdir()):
        one, other = cpu.predict(path).mask > 0, gpu.predict(path).mask > 0
        common, total = common + int((one & other).sum()), total + int(one.sum() + other.sum())
    yield "Dice between masks of processor and GPU", 2 * common / max(1, total), ""


def memory(machine: Machine) -> Iterator[Row]:
    """What is printed where a batch does not fit."""
    if machine.tiny:
        yield "out of memory", "needs a GPU", ""
        return
    large = (
        "data=phantom",
        "data.phantom_n=600",
        "model=unet",
        "data.batch_size=512",
        "preprocess.size=[768,768]",
        "data.cache_gb=0",
        "trainer.compile=false",
    )
    done = command(machine, "train", *large, *machine.keys, "run=large")
    said = [line for line in done.stderr.splitlines() if "out of memory" in line]
    yield "out of memory", said[-1] if said else f"exit code {done.returncode}: {done.stderr[-300:]}", ""


def window(machine: Machine) -> Iterator[Row]:
    """A volume of 512 x 512 x 300 through windows of 128 x 128 x 128 that overlap by half."""
    side, shape = (16, (20, 24, 24)) if machine.tiny else (128, (300, 512, 512))
    cfg: Any = compose("train", [*machine.volumes, *machine.keys])
    hardware = Hardware.choose(cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.threads)
    module = SegmentationModule.from_config(cfg, SegmentationData.from_config(cfg), hardware.precision).to(machine.device).eval()
    memory_order(module.model, cfg.trainer.channels_last, module.metadata.dims)
    image = torch.rand((1, module.metadata.channels, *shape), device=machine.device)
    with torch.inference_mode(), torch.autocast(machine.device, hardware.autocast_dtype, hardware.autocast_dtype is not None):
        sliding(module.model.logits, image[..., :side, :side, :side], (side,) * 3, 0.5)  # starts cuDNN
        synchronize(machine.device)
        start = time.perf_counter()
        sliding(module.model.logits, image, (side,) * 3, 0.5)
        synchronize(machine.device)
    yield f"sliding window over {' x '.join(map(str, shape))}", time.perf_counter() - start, "s"


CHECKS: dict[str, Callable[[Machine], Iterator[Row]]] = {
    check.__name__: check for check in (product, step, volume, ddp, fsdp, loader, resume, predict, memory, window, dice)
}


def run_check(name: str, options: argparse.Namespace, seconds_left: float) -> list[Row]:
    """Rows of one check in a fresh process; a check that fails is a row that says why, after those that it has measured."""
    limit = min(TRAINING_LIMIT_S if name == "dice" else LIMIT_S, seconds_left)
    if limit <= 0:
        return [(name, f"FAILED: not begun within {options.minutes:g} minutes", "")]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        argv = [sys.executable, __file__, "--check", name, "--folder", folder, *(["--tiny"] if options.tiny else [])]
        argv += ["--data", options.data] if options.data else []
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))  # the trainings that it has started, too
        timer.start()
        try:
            printed, errors = process.communicate()
        except BaseException:  # Ctrl-C reaches this process alone
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            is_late, _ = not timer.is_alive(), timer.cancel()
    rows: list[Row] = [tuple(json.loads(line[2:])) for line in printed.splitlines() if line.startswith("> ")]
    if process.returncode:
        raised = [line for line in errors.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
        why = f"not over after {limit:.0f} s" if is_late else raised[-1] if raised else f"exit code {process.returncode}"
        rows.append((name, f"FAILED: {why}", ""))
    return rows


def shown(row: Row) -> str:
    what, value, unit = row
    return f"{what:<72} {value if isinstance(value, str) else format(value, '10.4g')} {unit}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of HC18, for the time to a Dice; else its phantom")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--minutes", type=float, default=math.inf, help="for all checks together")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.check:
        for row in CHECKS[options.check](Machine(options.tiny, options.data, options.folder)):
            print(">", json.dumps(row), flush=True)
        return 0

    if not (options.tiny or torch.cuda.is_available()):
        parser.error("torch sees no GPU;   --tiny runs the checks on the processor")
    card = "processor, tiny" if options.tiny else torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}" + ("   the figures show that the script runs, and nothing else" if options.tiny else ""))
    results: dict[str, Any] = {"card": card, "torch": torch.__version__, "checks": {}}
    end = time.monotonic() + 60 * options.minutes
    for name in options.only:
        start = time.monotonic()
        rows = run_check(name, options, end - start)
        print(*map(shown, rows), sep="\n", flush=True)
        results["checks"][name] = {"rows": rows, "seconds": round(time.monotonic() - start, 1)}
        options.output.write_text(json.dumps(results, indent=1))
    return any("FAILED" in str(row[1]) for check in results["checks"].values() for row in check["rows"])


if __name__ == "__main__":
    sys.exit(main())
