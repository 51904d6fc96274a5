"""`segkit predict`: masks for new images. On several devices each has a process and a shard of the images, as with `part=1/4`."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segkit.cli.checkpoints import check_output, load_predictor
from segkit.config.aliases import renamed
from segkit.config.commands import Predict, PredictHardware
from segkit.data.case import Case, grouped
from segkit.data.manifest import find
from segkit.inference import inputs
from segkit.inference.batch import BatchResult, OutputOptions, predict_items
from segkit.inference.ensemble import Combination, JointPredictor
from segkit.inference.evaluation import checkpoint_data
from segkit.inference.predictor import Predictor
from segkit.system.environment import Shard, take_share, visible_gpus
from segkit.system.errors import SegkitError, few, raise_errors
from segkit.system.files import cache_folder, sha256_of, write_bytes_atomic, write_text_atomic, write_text_if_new
from segkit.system.hardware import choose_device, usable_cores
from segkit.system.plain import read_json
from segkit.system.processes import INTERRUPTED, die_with
from segkit.system.progress import console

MARKER = ".checkpoint.json"
"""In a folder of masks: the checkpoint and the settings that made them."""
PATIENCE_S = 20.0
"""For a process that is stopped to write its tables."""


def predict(cfg: Predict) -> int:
    """Write masks for new images, or for a part of them. Exit code 1 where an image could not be predicted."""
    check_output(Path(cfg.output))
    part = Shard.named(cfg.part)
    done = predict_shard(cfg, part) if cfg.hardware.devices == 1 else predict_parallel(cfg, part)
    n = done.written + done.skipped + len(done.problems)
    share = f"part {part}, {n} of {done.of} images{'' if n else ', nothing to do'}: " if part else ""
    skipped = f", {done.skipped} there already" if done.skipped else ""
    console.print(f"{share}{done.written} masks written to {cfg.output}{skipped}")
    if part and not done.merged:
        console.print("tables are merged when all parts have ended;   the same command without part predicts what is missing", markup=False)
    for note in done.notes:
        console.print(f"note       {note.where}   {note.what}", markup=False)
    if done.problems:
        console.print(f"{len(done.problems)} images could not be predicted:")
        for what, where in grouped((problem.what, problem.where) for problem in done.problems).items():
            console.print(f"  {few(where, most=1)}   {what}", markup=False)
    return 1 if done.problems else 0


def predict_shard(cfg: Predict, part: Shard | None) -> BatchResult:
    """Predict in this process."""
    predictor, ckpts = load_predictor(cfg)
    if predictor.metadata.is_phantom:
        console.print("this checkpoint was trained on synthetic phantom data: its masks mean nothing on real images")
    output = Path(cfg.output)
    marker = check_output_folder(cfg, predictor, ckpts)
    items = inputs.of_cases(cases_to_predict(cfg, predictor)) if cfg.input is None else inputs.of_files(cfg.input, output)
    options = OutputOptions(cfg.probabilities, cfg.overlays, cfg.overwrite, cfg.palette, tuple(cfg.formats))
    return predict_items(predictor, items, output, options, lambda: write_marker(cfg, marker), part)


def cases_to_predict(cfg: Predict, predictor: Predictor) -> tuple[Case, ...]:
    """The cases of a data set in a layout that a source reads, labelled or not."""
    config = predictor.config
    data = checkpoint_data(predictor.metadata, config.data, cfg.data.model_dump(exclude_unset=True))
    found = find(data, config.seed, cfg.allow_targets, cache_folder(), needs_masks=False)
    raise_errors(found.problems, before="prediction starts")
    return found.cases


# --- several processes ------------------------------------------------------------------------------------------------


def predict_parallel(cfg: Predict, part: Shard | None) -> BatchResult:
    """Predict with one process per device. SegkitError where one failed as a whole; the others end first, and their masks stay."""
    n = cfg.hardware.devices
    shards = [(part or Shard(1, 1)).piece(i + 1, n) for i in range(n)]
    with TemporaryDirectory() as folder, running(cfg, shards, Path(folder)) as processes:
        while any(process.poll() is None for process in processes):
            time.sleep(0.1)  # a signal that comes just before an endless wait, or to another thread, would not end it
        done = [result(shard, process, Path(folder)) for shard, process in zip(shards, processes, strict=True)]
    return BatchResult(
        written=sum(one.written for one in done),
        skipped=sum(one.skipped for one in done),
        problems=tuple(problem for one in done for problem in one.problems),
        notes=tuple(note for one in done for note in one.notes),
        of=done[0].of,
        merged=any(one.merged for one in done),
    )


def result(shard: Shard, process: subprocess.Popen[bytes], folder: Path) -> BatchResult:
    """The outcome of a shard, from the file of its process. SegkitError with the message of its error, or where it has left none."""
    report = folder / str(shard.number)
    if not report.exists():
        lost = f"the process of part {shard} ended with exit code {process.returncode}"
        raise SegkitError(f"{lost};   the same command again predicts what is missing")
    left = pickle.loads(report.read_bytes())
    if not isinstance(left, BatchResult):
        raise SegkitError(left)
    return left


@contextmanager
def running(cfg: Predict, shards: Sequence[Shard], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process for each shard; none of them outlives the block, however it ends."""
    n, gpus = cfg.hardware.devices, gpus_of(cfg.hardware)
    threads = max(1, usable_cores() // n) if cfg.hardware.threads == "auto" else cfg.hardware.threads
    single = cfg.model_copy(update={"hardware": cfg.hardware.model_copy(update={"threads": threads, "devices": 1})})
    processes: list[subprocess.Popen[bytes]] = []
    with handled(signal.SIGTERM, signal.default_int_handler):  # as Ctrl-C
        try:
            for i, shard in enumerate(shards):
                processes.append(start(i, pickle.dumps((single, shard, (i, n, gpus), folder / str(shard.number), os.getpid()))))
            yield processes
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def start(i: int, work: bytes) -> subprocess.Popen[bytes]:
    """A new interpreter, since CUDA and OpenMP do not survive a fork. The first one prints; all of them would print the same.

    Ctrl-C on a terminal reaches all processes, but the parent stops the others, once.
    """
    command = [sys.executable, "-P", "-c", "from segkit.cli.predict import run_shard; run_shard()"]
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    with handled(signal.SIGINT, signal.SIG_IGN):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL if i else None, env={**os.environ, "PYTHONPATH": path}
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # one that is dead already is found by its exit code
        process.stdin.write(work)
    return process


def run_shard() -> None:
    """In the process of a shard: leaves its result, or the message of its error, as a file."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cfg, shard, share, report, parent = pickle.load(sys.stdin.buffer)
    die_with(parent)
    take_share(*share)
    try:
        left: BatchResult | str = predict_shard(cfg, shard)
    except SegkitError as error:
        left = str(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    write_bytes_atomic(report, pickle.dumps(left))


def gpus_of(hardware: PredictHardware) -> list[str]:
    """Empty on a processor. SegkitError where there are fewer devices than processes."""
    device = choose_device(hardware.accelerator)
    gpus = visible_gpus() if device == "cuda" else []
    available = {"cuda": len(gpus), "mps": 1}.get(device, usable_cores())
    if hardware.devices > available:
        what = {"cuda": "GPUs that this process sees", "mps": "Apple GPUs"}.get(device, "cores that it may use")
        raise SegkitError(f"hardware.devices={hardware.devices} is more than the {what}: {available}")
    return gpus


@contextmanager
def handled(number: signal.Signals, handler: Callable[[int, Any], Any] | signal.Handlers) -> Iterator[None]:
    """Handle a signal inside the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# --- the output folder ------------------------------------------------------------------------------------------------


def check_output_folder(cfg: Predict, predictor: Predictor, ckpts: Sequence[Path]) -> dict[str, Any]:
    """The content of the marker. Masks that exist are skipped, so a folder belongs to one checkpoint and one way to use it."""
    files = ", ".join(str(ckpt.absolute()) for ckpt in ckpts)
    marker = {"sha256": " ".join(map(sha256_of, ckpts)), "ckpt": files, "settings": settings_of(cfg, predictor)}
    check_marker(cfg, marker)
    return marker


def check_marker(cfg: Predict, ours: Mapping[str, Any]) -> None:
    """SegkitError where the folder holds other masks, unless they are to be overwritten."""
    output = Path(cfg.output)
    theirs, settings = read_json(output / MARKER), ours["settings"]
    fix = "name another  output=FOLDER,  or add  overwrite=true"
    if not theirs or cfg.overwrite:
        return
    if theirs.get("sha256") != ours["sha256"]:
        raise SegkitError(f"{output} holds masks of another checkpoint ({theirs.get('ckpt')});   {fix}")
    past: Any = renamed(theirs.get("settings", {}))  # missing in older folders
    if other := [f"{key}={past[key]}, not {settings[key]}" for key in settings if key in past and past[key] != settings[key]]:
        raise SegkitError(f"{output} holds masks made with {'; '.join(other)};   {fix}")


def write_marker(cfg: Predict, ours: Mapping[str, Any]) -> None:
    """Several jobs may begin at once: the first one writes the marker, and the others must agree with it."""
    text, path = json.dumps(ours, indent=1) + "\n", Path(cfg.output) / MARKER
    if cfg.overwrite or not write_text_if_new(path, text):
        check_marker(cfg, ours)
        write_text_atomic(path, text)


def settings_of(cfg: Predict, predictor: Predictor) -> dict[str, Any]:
    """Settings that decide about masks beside the weights, as JSON gives them back."""
    members = predictor.predictors if isinstance(predictor, JointPredictor) else [predictor]
    used = [member.config.inference.model_dump(mode="json") for member in members]
    for section in used:
        section["postprocess"] = [node for node in section["postprocess"].values() if node]  # their order counts, not their names
    values = {key: [section[key] for section in used] for key in ("tta", "threshold", "window", "overlap", "postprocess")}
    combined = predictor if isinstance(predictor, Combination) else None
    return {
        **{f"inference.{key}": of[0] if all(one == of[0] for one in of) else of for key, of in values.items()},
        "merge": combined and combined.merge,
        "members.labels": combined and [list(member.owned) for member in combined.members],
    }
