"""How close `segkit predict` comes to the rate of its network: files in and out, against the same network calls on ready tensors.

    python scripts/bench_predict.py --ckpt RUN [--input FOLDER] [--n 100] [--rounds 3] [--device auto] [--keys '{"tta": "none"}']

Without a folder it draws gray images of HC18's size (540 x 800); `--n` is how many are drawn, or the most that are used. Three ways in
turn, so that a busy moment meets all, in one process with the same threads: the network alone as the prediction runs it (on a processor
several images side by side, each with one thread), the network alone on one image after another (all threads on each), and the whole
prediction. It prints the median images a second, processor time an image, and the ratio of the prediction to both; then where the
processor time of an image goes, by part, and the floor: what OpenCV alone takes to decode the images and to encode the masks, from
memory to memory. Nothing is asserted. Processor times bear a busy machine better than rates do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch

import segkit
from segkit.data.io.images import ImageFile
from segkit.inference import batch
from segkit.inference import predictor as module
from segkit.inference.batch import OutputOptions, predict_items
from segkit.inference.inputs import InputItem, of_files
from segkit.inference.pipeline import Workers
from segkit.inference.postprocess import Decision
from segkit.inference.predictor import CheckpointPredictor, Ready

ROWS, COLUMNS = 540, 800
ALIKE = 50
"""Different images; more of them are copies, since reading them costs the same."""
NETWORK = "network"
PARTS: dict[str, tuple[Any, str]] = {
    "read and decode": (ImageFile, "read"),
    "resize, normalize": (module, "to_grid"),
    NETWORK: (CheckpointPredictor, "_probabilities"),
    "restore": (module, "restore"),
    "threshold, postprocess": (Decision, "__call__"),
    "encode and write": (batch, "write_mask"),
    "sizes": (batch, "size_rows"),
}
"""Where each part of a prediction is."""


def draw(folder: Path, n: int) -> None:
    """Ellipses on speckle, as PNG: like an ultrasound image as hard to decompress."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(min(n, ALIKE)):
        image = np.zeros((ROWS, COLUMNS), np.float32)
        cv2.ellipse(image, (COLUMNS // 2, ROWS // 2), (200 + i, 130 + i), float(7 * i), 0, 360, 150, 6)
        speckle = cv2.GaussianBlur(random.rayleigh(30, image.shape).astype(np.float32), (5, 5), 0)
        (folder / f"{i:03d}.png").write_bytes(cv2.imencode(".png", np.clip(image + speckle, 0, 255).astype(np.uint8))[1].tobytes())
    for i in range(ALIKE, n):
        (folder / f"{i:03d}.png").write_bytes((folder / f"{i % ALIKE:03d}.png").read_bytes())


def alone(predictor: CheckpointPredictor, ready: list[Ready], streams: int) -> None:
    """The network's calls, and nothing else."""
    torch.set_num_threads(predictor.hardware.threads)
    if streams == 1:
        for one in ready:
            predictor.compute([one])
        return
    with Workers(streams, partial(torch.set_num_threads, predictor.hardware.threads // streams)) as workers:
        for _ in workers.map(predictor.compute, ([one] for one in ready)):
            pass


def whole(predictor: CheckpointPredictor, items: list[InputItem], output: Path) -> None:
    done = predict_items(predictor, items, output, OutputOptions(overwrite=True))
    assert done.written == len(items), done.problems


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """The seconds of its own thread that each part takes within the block."""
    spent = dict.fromkeys(PARTS, 0.0)

    def clocked(name: str, function: Callable[..., Any], *args: Any, **keys: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*args, **keys)
        finally:
            spent[name] += time.thread_time() - began

    def method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **keys: clocked(name, function, *args, **keys)

    with ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            stack.enter_context(patch.object(owner, attribute, method(name, getattr(owner, attribute))))
        yield spent


def by_part(predict: Callable[[], None], n: int, rounds: int, one_stream: bool, network: float) -> None:
    """Of the round that used least. With one stream the threads of torch share the network: its time is that of the network alone."""
    found = []
    for _ in range(rounds):
        with timed() as spent:
            began = time.process_time()
            predict()
            found.append((time.process_time() - began, spent))
    total, spent = min(found, key=lambda pair: pair[0])
    if one_stream:
        spent[NETWORK] = network * n
    for name in PARTS:
        print(f"  {name:<28} {1e3 * spent[name] / n:7.2f} ms")
    print(f"  {'rest':<28} {1e3 * (total - sum(spent.values())) / n:7.2f} ms")
    print(f"  {'all':<28} {1e3 * total / n:7.2f} ms of processor time an image")


def floor(items: list[InputItem], output: Path) -> float:
    """Seconds of OpenCV alone for one image and its mask, from memory to memory; NaN of files that it does not read."""
    images = [np.frombuffer(item.source.read_bytes(), np.uint8) for item in items]
    masks = [cv2.imread(str(item.files(output)[0]), cv2.IMREAD_UNCHANGED) for item in items]
    readable = [mask for mask in masks if mask is not None]
    if len(readable) < len(masks) or any(cv2.imdecode(image, cv2.IMREAD_UNCHANGED) is None for image in images):
        return float("nan")
    began = time.thread_time()
    for image, mask in zip(images, readable, strict=True):
        cv2.imdecode(image, cv2.IMREAD_UNCHANGED)
        cv2.imencode(".png", mask)
    return (time.thread_time() - began) / len(items)


def measure(ways: dict[str, Callable[[], None]], n: int, rounds: int) -> float:
    """Print rates and ratios; the processor time of one image in the first of the ways."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began, before = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - began)
            used[name].append(time.process_time() - before)
    for name in ways:
        seconds = statistics.median(wall[name])
        print(f"  {name:<28} {n / seconds:7.2f} images/s   {1e3 * statistics.median(used[name]) / n:7.1f} ms of processor time an image")
    *networks, files = ways
    for name in networks:
        ratio = statistics.median(other / own for other, own in zip(wall[name], wall[files], strict=True))
        print(f"  prediction / {name:<28} {ratio:6.1%}   (median of {rounds})")
    return min(used[networks[0]]) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--input")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keys", type=json.loads, default={}, help="keys of the inference section, as JSON")
    args = parser.parse_args()
    predictor = segkit.load(args.ckpt, args.device, inference=args.keys)
    with tempfile.TemporaryDirectory() as folder:
        if args.input is None:
            draw(Path(folder, "images"), args.n)
        items = of_files(args.input or f"{folder}/images", Path(folder, "masks"))[: args.n]
        ready = [predictor.prepare(item.cases[0]) for item in items[:ALIKE]]
        calls = [ready[i % len(ready)] for i in range(len(items))]
        streams = predictor.streams(len(items))
        side_by_side = {f"network, {streams} at a time": partial(alone, predictor, calls, streams)} if streams > 1 else {}
        ways: dict[str, Callable[[], None]] = {**side_by_side, "network, one at a time": partial(alone, predictor, calls, 1)}
        print(f"{len(items)} images, {predictor.hardware}, tta={predictor.config.inference.tta}")
        whole(predictor, items[:4], Path(folder, "masks"))
        prediction = partial(whole, predictor, items, Path(folder, "masks"))
        network = measure({**ways, "prediction, files in and out": prediction}, len(items), args.rounds)
        by_part(prediction, len(items), args.rounds, streams == 1, network)
        least = floor(items[:ALIKE], Path(folder, "masks"))
        share = network / (network + least)
        print(f"  {'floor of decode and encode':<28} {1e3 * least:7.2f} ms with OpenCV alone: at most {share:.1%} of the network's rate")


if __name__ == "__main__":
    main()
