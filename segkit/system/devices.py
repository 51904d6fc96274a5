"""Cores and GPUs for trials that run side by side: an equal share each."""

from __future__ import annotations

import os
import shutil
import subprocess


def take_share(worker: int, n_workers: int, gpus: list[str]) -> None:
    """Bind this process, and all that it starts, to share `worker` of `n_workers`. Fewer devices than workers: shared by turns."""
    if n_workers == 1:
        return
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[worker::n_workers] or [cores[worker % len(cores)]])
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[worker::n_workers] or [gpus[worker % len(gpus)]])


def visible_gpus() -> list[str]:
    """Asked of the driver's own tool: CUDA, once started, would not survive the fork."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
    return listed.stdout.split() if listed.returncode == 0 else []
