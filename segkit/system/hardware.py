"""Choices that follow from the machine: device, precision, threads, loader workers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import psutil
import torch

from segkit.system.environment import job, layout
from segkit.system.errors import SegkitError

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Devices = str | int | Sequence[int]
Precision = Literal["32", "bf16", "16"]

NEAREST = {"64": "32", "64-true": "32", "transformer-engine": "bf16"}
"""Precisions of Lightning that only a training has -> what a checkpoint is evaluated with."""
SHARED_MEMORY = Path("/dev/shm")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Names of glibc's malloc.h."""


@dataclass(frozen=True)
class Hardware:
    """The choices for one process, as they are printed and kept with the run."""

    device: str  # cpu | cuda | mps
    name: str
    precision: Precision
    threads: int
    processes: int = 1
    """Those of one training on this machine, one a device; `threads` is for each of them."""
    machines: int = 1

    @property
    def world(self) -> int:
        return self.processes * self.machines

    @classmethod
    def of_training(cls, accelerator: Accelerator, precision: str, threads: str | int, devices: Devices, num_nodes: str | int) -> Hardware:
        """The choices for a training, from the values of `trainer`. Raises `SegkitError` where there are fewer devices than asked for."""
        device = choose_device(accelerator)
        found, is_cpu = count_devices(device), device == "cpu"
        asked = how_many(devices, device, found)
        n, machines = layout(asked, num_nodes, found, 1 if is_cpu else found, "core(s)" if is_cpu else "GPU(s)")
        return cls(device, device_name(device), choose_precision(device, precision), share_of_cores(threads, n), n, machines)

    @classmethod
    def choose(cls, accelerator: Accelerator, precision: str | None, threads: str | int) -> Hardware:
        device = choose_device(accelerator)
        return cls(device, device_name(device), choose_precision(device, precision or "auto"), share_of_cores(threads))

    def prepare_process(self) -> None:
        """Threads and memory of this process."""
        torch.set_num_threads(self.threads)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # only hides bugs of others, and costs time at every allocation
        if self.device == "cpu":
            keep_freed_memory()

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[self.precision]

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        machines = f" on each of {self.machines} machines" if self.machines > 1 else ""
        return f"{self.name}, precision {self.precision}, " + (
            threads if self.world == 1 else f"{self.processes} processes of {threads}{machines}"
        )


def how_many(devices: Devices, device: str, found: int) -> str | int:
    """The number of devices that `trainer.devices` means: auto, -1 (all), a number, or the numbers of some: [0,2] or "0,2"."""
    if devices in (-1, "-1", "auto"):
        return "auto"
    if isinstance(devices, int) or (isinstance(devices, str) and devices.isdecimal() and int(devices)):
        return int(devices)
    numbers = numbered(devices)
    if device != "cuda":
        raise SegkitError(f"trainer.devices={list(numbers)} numbers GPUs, and this training runs on none;   use  trainer.devices=1")
    if missing := [number for number in numbers if number >= found]:
        raise SegkitError(f"trainer.devices: no GPU {missing[0]}: torch sees {found}, numbered from 0")
    return len(numbers)


def numbered(devices: str | Sequence[int]) -> Sequence[int]:
    """The numbers in a list, or in text such as "0,2". Raises SegkitError where that holds anything else."""
    parts = devices.rstrip(",").split(",") if isinstance(devices, str) else devices
    if not parts or not all(str(part).strip().isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise SegkitError(f"trainer.devices={devices}: is a number, auto, or the numbers of GPUs, such as  'trainer.devices=[0,1]'")
    return [int(part) for part in parts]


def numbers_of(devices: Devices) -> list[int]:
    """The numbers of the devices where `trainer.devices` lists them; none where it counts them."""
    lists = isinstance(devices, list | tuple) or (isinstance(devices, str) and "," in devices)
    return list(numbered(devices)) if lists else []  # type: ignore[arg-type]


def choose_device(accelerator: Accelerator) -> str:
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    accelerator = "gpu" if accelerator == "cuda" else accelerator
    if accelerator == "gpu" and not has_cuda:
        raise SegkitError("trainer.accelerator=gpu, but torch sees no GPU;   use  trainer=cpu,  or see  segkit doctor")
    if accelerator == "mps" and not has_mps:
        raise SegkitError("trainer.accelerator=mps, but this is no Apple GPU;   use  trainer=cpu")
    if accelerator in ("gpu", "auto") and has_cuda:
        return "cuda"
    return "mps" if accelerator in ("mps", "auto") and has_mps else "cpu"


def count_devices(device: str) -> int:
    """Number of GPUs, or of cores: one process each is the most that makes sense."""
    started = job()
    if device == "cpu" and started and started.by == "srun":
        return started.per_machine  # each of which sees the cores that are its own
    return {"cuda": torch.cuda.device_count(), "mps": 1, "cpu": usable_cores()}[device]


def choose_precision(device: str, asked: str) -> Precision:
    """bf16 where the hardware multiplies it natively, else fp16 on a GPU, else 32 bit. Of Lightning's names the nearest of ours."""
    if asked != "auto":
        asked = NEAREST.get(asked, asked.partition("-")[0])
        if asked == "16" and device == "cpu":
            raise SegkitError("trainer.precision=16 needs a GPU;   use  trainer.precision=auto")
        return asked  # type: ignore[return-value]
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "16"
    return "bf16" if device == "cpu" and {"avx512_bf16", "amx_bf16"} & cpu_features() else "32"


def cpu_features() -> set[str]:
    """Names as in /proc/cpuinfo; empty where they cannot be read (then nothing special is used)."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return set()
    flags = (line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features")))
    return set(next(flags, "").partition(":")[2].split())


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else {"cpu": "processor", "mps": "Apple GPU"}[device]


def peak_memory_gb() -> dict[str, float]:
    """The most memory that this process has held so far, and that of its GPU; in gigabytes."""
    found = {}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
        found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["GPU memory"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(gb, 3) for name, gb in found.items()}


def keep_freed_memory(of_images: bool = False) -> None:
    """Let glibc keep large blocks for the next step instead of returning them to the system; `of_images`: only blocks of up to 32 MiB.

    Every activation of a large network is a fresh mapping otherwise, whose pages the kernel has to clear on first touch:
    15 % of the classic U-Net's training step at 256 x 256, and 2 ms of every image in a prediction whose threads hand such blocks on.
    Elsewhere than on glibc nothing happens.
    """
    options = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**28} if of_images else {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            for option, value in options.items():
                libc.mallopt(option, value)


def usable_cores() -> int:
    """Cores that this process may use: the affinity mask, and the quota of its container (cgroup 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            cores = min(cores, max(1, round(int(limit) / int(period))))
    return cores


def share_of_cores(asked: str | int, processes: int = 1) -> int:
    """Threads of one of so many processes. srun has bound each of its tasks to cores of its own."""
    if asked != "auto":
        return int(asked)
    started = job()
    return usable_cores() if started and started.by == "srun" else max(1, usable_cores() // processes)


def loader_workers(asked: str | int, device: str, cached: bool, processes: int = 1) -> int:
    """On a processor the training itself wants all cores, so one worker decodes ahead, and none where all is in memory."""
    if asked != "auto":
        return int(asked)
    cores = share_of_cores("auto", processes)
    if device == "cpu":
        return 0 if cached or cores < 2 else 1
    return min(8, max(1, cores - 1))


def shared_memory() -> int:
    """Free bytes of the memory through which loader workers hand over batches; 0 where it is missing or cannot be written."""
    if sys.platform != "linux":
        return sys.maxsize
    try:
        with TemporaryFile(dir=SHARED_MEMORY):
            return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0


def fitting_workers(wanted: int, batch_bytes: int, free_bytes: int, most_ahead: int = 4) -> tuple[int, int]:
    """Workers, and the batches that each prepares ahead, for which half of the shared memory is enough."""
    n_batches = free_bytes // 2 // max(1, batch_bytes)
    n = min(wanted, n_batches)
    return n, min(most_ahead, n_batches // n) if n else 0


def cache_budget(asked: str | float) -> int:
    """Bytes for decoded training images."""
    return psutil.virtual_memory().available // 4 if asked == "auto" else int(float(asked) * 1e9)


def missing_for_compilation(device: str) -> str:
    """What torch.compile lacks on this machine, in words; "" where it lacks nothing."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch's own default
    if shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler})"
    if device == "cuda" and find_spec("triton") is None:
        return "the package triton"
    return ""
