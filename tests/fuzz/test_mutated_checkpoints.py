"""Checkpoints, shared folders, splits and run folders with damage of every kind: each is refused in one line that names the file,
or opens with the very weights that were written."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import segkit
from segkit.config import schema
from segkit.data.case import Manifest
from segkit.data.labels import LabelMap
from segkit.data.manifest import Listing, find
from segkit.data.phantoms.base import write_png
from segkit.data.splits import make_split
from segkit.metrics.table import read_table
from segkit.models import checkpoint
from segkit.system.errors import SegkitError, raise_errors
from segkit.training.plots import read_columns
from segkit.training.run_folder import RunFolder

RUN = Path(__file__).parent.parent / "fixtures/v0_1/finished"
N, N_FAST = 500, 40
LIMIT_S = 60
EXTREMES: tuple[Any, ...] = (
    *(None, True, [], {}, "", "text", "../../outside", "\x1b[2J", "${oc.env:HOME}", -1, 0, 1, 7, 10**9, 10**30, 10**400),
    *(0.5, -0.5, 1e300, math.nan, math.inf, [1, 2], ["a"], [[[]]], {"a": 1}, {"_target_": "os.system"}, [0] * 5000),
)
FILES = (
    *("run/checkpoints/best.ckpt",) * 4,
    *("shared/model.safetensors", "shared/segkit.json") * 2,
    *("run/split.json", "run/config.yaml", "run/status.json", "run/summary.json", "run/cases.csv", "run/metrics.csv", "set/dataset.json"),
)


def original(folder: Path, run: Path) -> Path:
    """A run folder, what is shared of it, and a data set of nnU-Net of which its split is."""
    shutil.copytree(run, folder / "run")
    segkit.save(run, folder / "shared")
    metric = yaml.safe_load((run / "config.yaml").read_text())["metric"]
    (folder / "run/summary.json").write_text(json.dumps({"results": {}, "metric": metric}))
    for i in range(6):
        write_png(folder / f"set/imagesTr/c{i}_0000.png", np.full((8, 8), 40 * i, np.uint8))
        write_png(folder / f"set/labelsTr/c{i}.png", np.eye(8, dtype=np.uint8))
    card = {"channel_names": {"0": "US"}, "labels": {"background": 0, "head": 1}, "numTraining": 6, "file_ending": ".png"}
    (folder / "set/dataset.json").write_text(json.dumps(card))
    make_split(manifest(folder / "set"), schema.Split(kind="holdout")).to_json(folder / "run/split.json")
    return folder


def listing(root: Path) -> Listing:
    found = find(schema.Data(source={"_target_": "segkit.data.sources.NnUNet"}, root=str(root)), 0, [], root / ".cache")
    raise_errors(found.problems)
    return found


def manifest(root: Path) -> Manifest:
    return listing(root).manifest(LabelMap.of({0: "background", 1: "head"}))


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, lost, repeated, zeroed, foreign or additional bytes."""
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 64, 1024))
    rest = data[start + length :]
    match rng.randrange(7):
        case 0:
            flipped = bytearray(data)
            for _ in range(rng.choice((1, 1, 3, 16))):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
        case 1:
            return data[:start]
        case 2:
            return data[:start] + data[max(0, start - length) : start] + data[start:]
        case 3:
            return data[:start] + bytes(len(data[start : start + length])) + rest
        case 4:
            return data[:start] + rng.randbytes(length) + rest
        case 5:
            return data[:start] + rng.randbytes(length) + data[start:]
        case _:
            return data[:start] + rest


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of nested mappings and lists, the whole among them."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node[:20]) if isinstance(node, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(content: Any, rng: random.Random) -> Any:
    """One part removed, of another type, at an extreme, or doubled."""
    content = copy.deepcopy(content)
    (*way, last) = rng.choice([path for path in places(content) if path])
    holder = content
    for key in way:
        holder = holder[key]
    value = holder[last]
    match rng.randrange(5):
        case 0:
            del holder[last]
        case 1 if isinstance(value, int | float | str):
            holder[last] = str(value) if not isinstance(value, str) else [value]
        case 2 if isinstance(holder, dict):
            holder[f"{last}x"] = holder.pop(last)
        case 3 if isinstance(value, torch.Tensor) and value.is_floating_point():
            holder[last] = rng.choice((value.flatten()[:0], value * math.nan, value.to(torch.complex64), value[None], value.double(), "w"))
        case _:
            holder[last] = rng.choice(EXTREMES)
    return content


def mutate(path: Path, rng: random.Random) -> None:
    """Damage one file, its bytes or what they mean."""
    if rng.random() < 0.5 or path.suffix in (".safetensors", ".csv"):
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
    elif path.suffix == ".ckpt":
        content = torch.load(path, weights_only=True)
        part = rng.choice(("segkit", "segkit", "segkit", "state_dict"))
        content = changed(content, rng) if rng.random() < 0.1 else {**content, part: changed(dict(content[part]), rng)}
        torch.save(content, path)
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), rng)))
    else:
        path.write_text(json.dumps(changed(json.loads(path.read_text()), rng)))


# --- what is opened, and what must come out ----------------------------------------------------------------------------


def weights(path: Path) -> dict[str, torch.Tensor]:
    model, _, _ = checkpoint.load_model(path)
    return model.state_dict()


def same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def subsets(path: Path) -> Any:
    """The split that a training would take from the file."""
    return make_split(manifest(path.parent.parent / "set"), schema.Split(kind="file", path=str(path)))


def state(path: Path) -> Any:
    return RunFolder(path.parent).is_unfinished()


def cases(path: Path) -> Any:
    found = listing(path.parent)
    return found.cases, found.default_labels


def table(path: Path) -> Any:
    return read_table(path.parent).summary().lines


def config(path: Path) -> Any:
    return RunFolder(path.parent).config([])


OPEN: dict[str, Callable[[Path], Any]] = {
    "best.ckpt": weights,
    "model.safetensors": lambda path: weights(path.parent),
    "segkit.json": lambda path: weights(path.parent),
    "split.json": subsets,
    "config.yaml": config,
    "status.json": state,
    "summary.json": table,
    "cases.csv": table,
    "metrics.csv": lambda path: read_columns(path),
    "dataset.json": cases,
}
WEIGHTS = ("best.ckpt", "model.safetensors", "segkit.json")
"""Files that open with the very weights that were written. In the others another value of the right type means what it says."""


def outcome(root: Path, file: str, seed: int, wanted: Any) -> tuple[str, str]:
    """right, refused, unnamed, crashed, silent or hung; and the message."""
    path = root / file
    before = path.read_bytes()
    rng = random.Random(f"{file} {seed}")
    try:
        mutate(path, rng)
        with limit(LIMIT_S):
            found = OPEN[path.name](path)
    except SegkitError as error:
        named = {str(path), str(path.parent), path.name, str(path.parent / "model.safetensors")}
        return ("refused" if any(name in str(error) for name in named) else "unnamed"), str(error)
    except TimeoutError:
        return "hung", ""
    except Exception as error:
        return "crashed", "".join(traceback.format_exception(error)[-2:])
    finally:
        path.write_bytes(before)
    silent = path.name in WEIGHTS and not same_weights(found, wanted)
    return ("silent" if silent else "right"), ""


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def campaign(root: Path, n: int) -> list[tuple[str, int, str, str]]:
    """File, seed, outcome and message of `n` mutations, the same ones every time."""
    wanted = weights(root / "run/checkpoints/best.ckpt")
    tried = [(FILES[i % len(FILES)], i) for i in range(n)]
    return [(file, seed, *outcome(root, file, seed, wanted)) for file, seed in tried]


def bad(found: list[tuple[str, int, str, str]]) -> list[tuple[str, int, str, str]]:
    return [one for one in found if one[2] not in ("right", "refused") or ("\n  " in one[3] and one[3].count("\n") > 12)]


def test_a_sample(tmp_path: Path) -> None:
    found = campaign(original(tmp_path, RUN), N_FAST)
    assert not bad(found)
    assert {result for _, _, result, _ in found} == {"right", "refused"}


@pytest.mark.slow
def test_all(tmp_path: Path) -> None:
    assert not bad(campaign(original(tmp_path, RUN), N))


if __name__ == "__main__":  # python test_mutated_checkpoints.py RUN EMPTY_FOLDER: the figures, also of another version of segkit
    results = campaign(original(Path(sys.argv[2]), Path(sys.argv[1])), N)
    for line in results:
        print(*line[:3], line[3].splitlines()[-1:] if line[2] == "crashed" else line[3].splitlines()[:1])
    print(Counter(result for _, _, result, _ in results))
