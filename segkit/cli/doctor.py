"""`segkit doctor`: does this installation work, on this machine? Every failure names its remedy.

Imports happen in other processes: a broken library may raise, crash or hang, and the other checks still answer.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.table import Table

import segkit
from segkit.system.errors import SegkitError

SECONDS = 60
"""A check that takes longer has failed. The first import of torch on a cold network disk may take most of it."""
PINNED = ("torch", "lightning", "hydra-core", "omegaconf", "albumentations", "segmentation-models-pytorch", "numpy")
FAST = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
REINSTALL = "take both from one index:  pip install --force-reinstall torch torchvision"

TORCH = """
import json, torch
facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": []}
import torchvision
facts |= {"torchvision": torchvision.__version__, "nms": bool(torchvision.ops.nms)}
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
from segkit.system.hardware import cpu_features, usable_cores
facts |= {"cores": usable_cores(), "features": sorted(cpu_features())}
if torch.cuda.is_available():
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    facts["gpus"] = [f"{d.name}, {d.total_memory / 1e9:.0f} GB" for d in devices]
print(json.dumps(facts))
"""
LIGHTNING = "import json, lightning; print(json.dumps(lightning.__version__))"
IMAGES = "import json, cv2, albumentations; print(json.dumps(f'{cv2.__version__}, albumentations {albumentations.__version__}'))"
OTHER_FOLDER = "choose another  output_dir=FOLDER"


@dataclass(frozen=True)
class Finding:
    check: str
    found: str
    state: Literal["ok", "warning", "failed"] = "ok"
    remedy: str = ""


def main(argv: Sequence[str] = ()) -> int:
    """Exit code 1 if anything failed; warnings are no failure."""
    if argv and "=" in argv[0] and not Path(argv[0]).exists():
        raise SegkitError(f"{argv[0]}: segkit doctor takes no keys;   segkit doctor FOLDER  checks whether runs can be written there")
    findings = examine(Path(argv[0] if argv else "outputs"))
    table = Table(title="segkit doctor", title_justify="left", show_lines=False)
    for heading in ("", "check", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    colors = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    for finding in findings:
        table.add_row(f"[{colors[finding.state]}]{finding.state}", finding.check, finding.found, finding.remedy)
    Console(highlight=False).print(table)
    return int(any(finding.state == "failed" for finding in findings))


def examine(output_dir: Path) -> list[Finding]:
    """All checks, the slow ones beside each other."""
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(check) for check in (torch_and_machine, lightning, images)]
        return [python(), *pins(), *(finding for check in slow for finding in check.result()), *machine(output_dir)]


def python() -> Finding:
    version = platform.python_version()
    if Version(version) < Version("3.11"):  # pip refuses such an installation, a copied folder does not
        return Finding("Python", version, "failed", "segkit needs Python 3.11 or newer")
    return Finding("Python", version)


def pins() -> Iterable[Finding]:
    """Installed versions against what segkit's own metadata asks for."""
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires("segkit") or ()]
    except importlib.metadata.PackageNotFoundError:
        return [Finding("segkit", "runs from its source tree", "warning", "install it:  pip install -e .")]
    wanted = {r.name: r for r in requirements if r.name in PINNED and r.marker is None}
    return [Finding("segkit", segkit.__version__), *map(pin, wanted.values())]


def pin(requirement: Requirement) -> Finding:
    fix = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "is not installed", "failed", fix)
    if not requirement.specifier.contains(Version(version), prereleases=True):
        return Finding(requirement.name, f"{version}, wanted {requirement.specifier}", "failed", fix)
    return Finding(requirement.name, version)


def probe(code: str) -> tuple[Any, str]:
    """Run `code` by itself: what it prints as JSON, or None and the last line of its error."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {SECONDS} s"
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), ""
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"died with code {done.returncode}"


def torch_and_machine() -> list[Finding]:
    facts, error = probe(TORCH)
    if facts is None:
        cores = Finding("processor", f"{psutil.cpu_count()} cores, features unknown", "warning", "fix torch first")
        return [Finding("torch + torchvision", error, "failed", REINSTALL), cores]
    fast = [name for name in FAST if name in facts["features"]]
    bf16 = "bf16 in hardware" if {"avx512_bf16", "amx_bf16"} & set(fast) else "float32 (no bf16 in hardware)"
    return [
        Finding("torch + torchvision", f"{facts['torch']} + {facts['torchvision']}"),
        Finding("processor", f"{facts['cores']} usable cores; {' '.join(fast) or platform.machine()}; {bf16}"),
        gpu(facts["gpus"], facts["cuda"]),
    ]


def gpu(names: Sequence[str], cuda: str | None) -> Finding:
    if names:
        return Finding("GPU", "; ".join(names))
    if not (Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")):
        return Finding("GPU", "none, training runs on the processor")
    if cuda:
        fix = "update the driver (nvidia-smi shows it), or install the torch build for its CUDA version"
        return Finding("GPU", f"there is one, but its driver does not fit torch's CUDA {cuda}", "warning", fix)
    fix = "install a torch build with CUDA (the default of pip)"
    return Finding("GPU", "there is one, but this torch is built without CUDA", "warning", fix)


def lightning() -> list[Finding]:
    version, error = probe(LIGHTNING)
    fix = REINSTALL if "nms" in error else 'pip install --force-reinstall "lightning>=2.6.6"'
    return [Finding("import lightning", version) if version else Finding("import lightning", error, "failed", fix)]


def images() -> list[Finding]:
    version, error = probe(IMAGES)
    fix = "only opencv-python-headless may be installed:  pip uninstall opencv-python;  then reinstall the headless one"
    return [Finding("import cv2", version) if version else Finding("import cv2", error, "failed", fix)]


def machine(output_dir: Path) -> Iterator[Finding]:
    if compiler := next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None):
        yield Finding("C++ compiler", compiler)
    else:
        fix = "apt install g++ (or your system's compiler package); until then  trainer.compile=false"
        yield Finding("C++ compiler", "none: torch.compile cannot work on the processor", "warning", fix)
    yield space("memory", psutil.virtual_memory().available, 2e9, "smaller data.batch_size, data.cache_gb=0")
    if Path("/dev/shm").is_dir():  # loader workers hand images over through it; containers often have only 64 MB
        yield space("/dev/shm", psutil.disk_usage("/dev/shm").free, 1e9, "docker run --shm-size=8g, or data.num_workers=0")
    yield space(f"disk at {output_dir}", psutil.disk_usage(str(existing(output_dir))).free, 2e9, f"make room, or {OTHER_FOLDER}")
    yield writable(output_dir)


def space(check: str, free: float, needed: float, fix: str) -> Finding:
    return Finding(check, f"{free / 1e9:.1f} GB free", *(("warning", fix) if free < needed else ()))


def existing(folder: Path) -> Path:
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())


def writable(output_dir: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=existing(output_dir)) as file:
            file.write(b"segkit")
    except OSError as error:
        return Finding(f"writing to {output_dir}", error.strerror or str(error), "failed", OTHER_FOLDER)
    return Finding(f"writing to {output_dir}", "works")
