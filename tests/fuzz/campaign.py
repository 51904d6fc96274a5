"""Damaged files are audited in child processes that may crash; each gives one `Outcome`.

`python -m tests.fuzz.campaign FIRST LAST` prints what becomes of a range of files, a line each.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutations import mutated
from tests.fuzz.samples import Sample, samples

SEED = 15
SECONDS, BYTES = 60, 2 << 30
"""What a file may take."""
MAX_LINE = 600
GOOD = ("refused", "right", "not detectable")


@dataclass(frozen=True)
class Outcome:
    """`verdict` is one of GOOD, or else: crashed, hung, silent (read wrongly), unnamed (the error names no file), noise, long."""

    number: int
    sample: str
    damage: str
    verdict: str
    detail: str = ""


def make(number: int) -> tuple[Sample, str, bytes]:
    """Damage `number`: its sample, what is done to it, and the file."""
    random = np.random.default_rng([SEED, number])
    every = list(samples().values())
    sample = every[number % len(every)]
    others = tuple(other.data for other in every if other.form != sample.form)
    return (sample, *mutated(random, sample.data, sample.form, others))


# in the parent


def run(numbers: Sequence[int]) -> Iterator[Outcome]:
    """Outcomes of these files; a child that dies costs the file it was reading, and another one goes on."""
    waiting = list(numbers)
    while waiting:
        command = [sys.executable, "-m", __name__, *map(str, waiting)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                yield Outcome(**json.loads(line))
                waiting.pop(0)
        if waiting:
            sample, damage, _ = make(waiting[0])
            name = "hung" if child.returncode == -signal.SIGALRM else "crashed"
            yield Outcome(waiting.pop(0), sample.name, damage, name, f"the process ended with {child.returncode}")


# in the child


def main(numbers: Sequence[int]) -> None:
    out = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 1)
        os.dup2(noise.fileno(), 2)
        samples()
        for module in ("audit", "report"):
            import_module(f"segkit.data.audit.{module}")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        clean: dict[str, Any] = {}
        for number in numbers:
            signal.alarm(SECONDS)
            sample, damage, data = make(number)
            if sample.name not in clean:
                clean[sample.name] = audited(sample, sample.data, Path(folder, f"clean{number}"))
                assert not clean[sample.name].errors, (sample.name, clean[sample.name].errors)
            noise.seek(0)
            noise.truncate()
            verdict, detail = judge(sample, data, clean[sample.name], Path(folder, f"case{number}"))
            sys.stderr.flush()
            sys.stdout.flush()
            noise.seek(0)
            said = re.sub(r"reading files \d+/\d+", "", noise.read().decode(errors="replace")).strip()  # on a busy machine
            if verdict in GOOD and said:
                verdict, detail = "noise", said[:300]
            print(json.dumps(asdict(Outcome(number, sample.name, damage, verdict, detail))), file=out, flush=True)


@dataclass(frozen=True)
class Audited:
    """What the audit and the readers make of a data set: errors by place and text, and all arrays by case."""

    errors: list[tuple[str, str]]
    arrays: dict[str, np.ndarray]


def audited(sample: Sample, data: bytes, folder: Path) -> Audited:
    """Write the set with `data` in place of its file, audit it, draw its pictures, and read all cases."""
    from segkit.config import schema
    from segkit.data.audit.audit import inspect
    from segkit.data.audit.report import audit_page, contact_sheet, distributions, summarize
    from segkit.data.io.base import ReadError

    root = folder / "set"
    for name, content in {**sample.files, sample.file: data}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    source = {"_target_": f"segkit.data.sources.{sample.source}"}
    section = schema.Data(source=source, root=str(root), dims=sample.dims)
    result = inspect(section, None, 0, [], folder / "cache")
    summary = summarize(result)
    audit_page(summary, result.problems, distributions(result), contact_sheet(result.manifest, result.marks))
    errors = [(p.where, f"{p.where}: {p.what}; {p.fix}") for p in result.problems if p.severity == "error"]
    arrays: dict[str, np.ndarray] = {}
    for case in result.manifest:
        for plane, pixels in {"image": case.image, **{f"mask {name}": mask for name, mask in case.masks.items()}}.items():
            try:
                arrays[f"{case.id} {plane}"] = pixels.read()
            except ReadError as error:
                errors.append((str(error.path), str(error)))
    return Audited(errors, arrays)


def judge(sample: Sample, data: bytes, clean: Audited, folder: Path) -> tuple[str, str]:
    """Verdict and detail, see `Outcome`."""
    from segkit.system.errors import SegkitError

    try:
        found = audited(sample, data, folder)
        verdict = _verdict(sample, data, clean, found, folder / "set" / sample.file)
    except SegkitError as error:
        verdict = "refused" if Path(sample.file).name in str(error) else "unnamed", str(error)[:300]
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "segkit" in frame.filename][-1]
        said = f"{type(error).__name__}: {error} ({Path(ours.filename).name} {ours.lineno}, {Path(where.filename).name})"
        verdict = "crashed", said[:300]
    shutil.rmtree(folder, ignore_errors=True)
    return verdict


def _verdict(sample: Sample, data: bytes, clean: Audited, found: Audited, path: Path) -> tuple[str, str]:
    if found.errors:
        text = " | ".join(text for _, text in found.errors)
        if any("\n" in text or len(text) > MAX_LINE or not text.isprintable() for _, text in found.errors):
            return "long", text[:400]
        about_all = sample.form in ("json", "csv")  # tables, whose mistakes meet the files that they name
        files = [name for name in sample.files if about_all or Path(name).stem == Path(sample.file).stem]  # also of its pair
        named = any(Path(name).name in text for _, text in found.errors for name in files) or _names_a_place(sample, found)
        return ("refused" if named else "unnamed"), text[:300]
    same = found.arrays.keys() == clean.arrays.keys()
    if same and all(np.array_equal(found.arrays[key], clean.arrays[key]) for key in clean.arrays):
        return "right", ""
    shapes = {key: array.shape for key, array in found.arrays.items()}
    if why := _not_detectable(sample, data, clean, found, path):
        return "not detectable", why
    return "silent", f"{shapes} instead of { {key: array.shape for key, array in clean.arrays.items()} }"[:300]


def _names_a_place(sample: Sample, found: Audited) -> bool:
    """A key, all masks, or the folder of a DICOM series: what is wrong is more than one file."""
    folder = Path(sample.file).parent.name if sample.form == "dcm" else "data."
    return any(where.startswith(("data.", "masks", folder)) for where, _ in found.errors)


def _not_detectable(sample: Sample, data: bytes, clean: Audited, found: Audited, path: Path) -> str:
    """Why no reader can know of the change; empty where one could."""
    if sample.form in ("json", "csv"):
        images = [key for key in clean.arrays if key.endswith("image") and key in found.arrays]
        same = all(np.array_equal(clean.arrays[key], found.arrays[key]) for key in images)
        return "words and numbers of an annotation" if same else ""
    sizes = [sum(array.size for array in one.arrays.values()) for one in (clean, found)]
    if any(other.data == data for other in samples().values()):
        return "another sound file"
    if sizes[0] != sizes[1]:
        return ""
    first, last = sample.pixels_at
    untouched = [data[:first], data[last:]] == [sample.data[:first], sample.data[last:]]
    if last and len(data) == len(sample.data) and untouched:
        return "pixels without a checksum"
    if sample.form == "dcm":
        return "numbers of a header of the same size"
    key = next(key for key in found.arrays if key.endswith("image" if "images" in sample.file else "mask "))
    try:
        assert sample.reader is not None
        other = np.sort(np.asarray(sample.reader(path), float), axis=None)
    except Exception:
        return ""
    own = np.sort(found.arrays[key].astype(float), axis=None)
    shown = (other, 255 * other, np.sort(255 - other), np.sort(65535 - other))  # bits, and numbers of a TIFF whose zero is white
    alike = own.shape == other.shape and any(np.allclose(own, numbers, rtol=1e-6, equal_nan=True) for numbers in shown)
    return "what the file says, as another reader finds" if alike else ""


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
