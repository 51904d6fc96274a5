"""A long list of images, shared by jobs that know nothing of each other: `part=1/4` takes the first of four shares.

Which share a case is in follows from its place in the list alone, so that a job that was killed finds its own again.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from segkit.system.devices import take_share, visible_gpus
from segkit.system.errors import SegkitError
from segkit.system.files import write_text_atomic

T = TypeVar("T")
AUTO = "auto"
NOBODY = "part=auto: this is no SLURM array job, no srun step and no torchrun that could say which part is meant;   name it: part=1/4"


@dataclass(frozen=True)
class Part:
    number: int
    """From 1 on."""
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def named(cls, text: str | None) -> Part | None:
        """Of `1/4`, `auto`, or None: everything."""
        if text is None:
            return None
        if text == AUTO:
            part = from_environment(os.environ)
            take_local_device(os.environ)
            return part
        number, of = text.split("/")
        return cls(int(number), int(of))

    def share(self, items: Sequence[T], unit: Callable[[T], str]) -> list[T]:
        """Every `of`-th unit, such as a volume with all its slices, which are read together."""
        places = {name: place for place, name in enumerate(dict.fromkeys(map(unit, items)))}
        return [item for item in items if places[unit(item)] % self.of == self.number - 1]

    def piece(self, number: int, of: int) -> Part:
        """Every `of`-th unit of this part."""
        return Part(self.number + self.of * (number - 1), self.of * of)

    def overlaps(self, other: Part) -> bool:
        """Whether a long list has units that are in both."""
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0


def is_whole(parts: Iterable[Part]) -> bool:
    """Whether parts none of which overlaps another are everything: 1/2, 2/4 and 4/4."""
    return sum(Fraction(1, part.of) for part in parts) == 1


def from_environment(environment: Mapping[str, str]) -> Part:
    """Of an array job, of the processes that torchrun or srun started, or of both. SegkitError where there is nothing of the kind."""
    array, process = of_array(environment), of_processes(environment)
    if array is None:
        if process is None:
            raise SegkitError(NOBODY)
        return process
    return array if process is None else array.piece(process.number, process.of)


def of_array(environment: Mapping[str, str]) -> Part | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment.get("SLURM_ARRAY_TASK_COUNT", "1"))
    first, step = int(environment.get("SLURM_ARRAY_TASK_MIN", task)), int(environment.get("SLURM_ARRAY_TASK_STEP") or "1")
    number, odd = divmod(task - first, step)
    if odd or number >= count:
        raise SegkitError(
            f"part=auto: job {task} of an array of {count} from {first} on, with gaps;   number it without (--array=0-{count - 1})"
        )
    return Part(number + 1, count)


def of_processes(environment: Mapping[str, str]) -> Part | None:
    """torchrun's ranks before srun's, whose tasks may each be a torchrun. A batch script itself is no srun step."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in environment and size in environment:
            return Part(int(environment[rank]) + 1, int(environment[size]))
    return None


def write_text_if_new(path: Path, text: str) -> bool:
    """Whether there was no such file. Of any number of jobs that ask at once only one hears so, and none reads half of it."""
    whole = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    write_text_atomic(whole, text)
    try:
        path.hardlink_to(whole)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: as good as it can be
        write_text_atomic(path, text)
    finally:
        whole.unlink()
    return True


def take_local_device(environment: Mapping[str, str]) -> None:
    """One of the GPUs that all processes of this machine see; torchrun's take their share of the cores as well, srun binds its own."""
    if "LOCAL_RANK" in environment:
        take_share(int(environment["LOCAL_RANK"]), int(environment.get("LOCAL_WORLD_SIZE", "1")), visible_gpus())
    elif "SLURM_LOCALID" in environment and len(gpus := visible_gpus()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(environment["SLURM_LOCALID"]) % len(gpus)]
