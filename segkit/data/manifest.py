"""From the data section of a config to the cases of a data set: build the source, sort what it lists. `naming.py` names labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path
from typing import Any

from rich.markup import escape

from segkit.config import schema
from segkit.config.targets import instantiate
from segkit.data.case import Case, Manifest
from segkit.data.io.base import suffix_of
from segkit.data.io.exif import as_stored
from segkit.data.io.volumes import n_volumes
from segkit.data.labels import LabelMap
from segkit.data.phantoms.base import MARK, VERSION, write
from segkit.data.slices import view
from segkit.data.sources import Source, source_name
from segkit.data.sources.files import Exclude
from segkit.system.errors import Problem, SegkitError, nearest
from segkit.system.files import natural
from segkit.system.progress import console


@dataclass(frozen=True)
class Listing:
    """The cases that a source found, before their files are read and their labels named."""

    name: str
    root: Path
    cases: tuple[Case, ...]
    default_labels: Mapping[Any, str] | None
    is_phantom: bool
    problems: tuple[Problem, ...]
    source_keys: frozenset[str] = frozenset()
    """Keys of `data.source`."""

    def manifest(self, labels: LabelMap) -> Manifest:
        return Manifest(self.name, self.root, self.cases, labels, self.is_phantom, self.source_keys)

    def statistics_folder(self, cache_dir: Path) -> Path:
        place = hashlib.sha1(os.fsencode(self.root), usedforsecurity=False).hexdigest()[:10]
        return cache_dir / f"facts-{self.name}-{place}"


def find(data: schema.Data, seed: int, allow: Sequence[str], cache_dir: Path, needs_masks: bool = True) -> Listing:
    """Build the source, or its phantom where `data.root` is not set, and list its cases in natural order of their ids.

    A prediction needs no masks; sources that pair files by name then list images that have none.
    """
    if not data.source:
        raise SegkitError(f"data: {data.target} reads its files itself, which segkit does not know: they cannot be listed or audited")
    root = _phantom(data, seed, allow, cache_dir) if data.root is None else Path(data.root).expanduser().absolute()
    source = instantiate(data.source, "data.source", allow=allow, root=root)
    exclude, is_there = Exclude(tuple(data.exclude)), True
    if isinstance(source, Source):
        source.is_excluded, source.needs_masks = exclude, needs_masks
        is_there = source.root_exists()
    try:
        listed = [_as_stored(case) if data.exif == "stored" else case for case in source.cases()] if is_there else []
    except OSError as error:
        raise SegkitError(f"{root} cannot be listed: {error}") from error
    problems: list[Problem] = list(source.problems)
    if data.fourth_axis == "auto" and not getattr(source, "has_channel_axis", False):
        problems += _four_dimensional(_without(listed, exclude))
    unique = _unique(sorted(listed, key=lambda case: natural(case.id)), problems)
    viewed = view(_without(unique, exclude), data.dims, data.neighbours, problems)
    cases = sorted(_without(viewed, exclude), key=lambda case: natural(case.id))
    settled = {id_ for id_ in data.exclude if any(_is_about(problem, id_) for problem in source.problems)}
    problems = [problem for problem in problems if not any(_is_about(problem, id_) for id_ in settled)]
    unused = [id_ for id_ in data.exclude if id_ not in settled | exclude.used]
    problems += _unknown_ids(unused, [*unique, *viewed])
    if not cases and not any(problem.severity == "error" for problem in problems):
        left = "every case is excluded" if listed else f"no case found by {type(source).__name__}"
        problems.append(Problem(str(root), left, "check data.root, data.source and data.exclude"))
    name = source_name(data.source)
    keys = frozenset(signature(type(source)).parameters)
    return Listing(name, root, tuple(cases), source.default_labels, (root / MARK).exists(), tuple(problems), keys)


def _as_stored(case: Case) -> Case:
    """The case on the grid as its pictures are stored, whatever their EXIF orientation."""
    mask = {plane: as_stored(pixels) for plane, pixels in case.masks.items()}
    return replace(case, image=as_stored(case.image), mask=mask.get("", mask or None), whole=as_stored(case.whole))


def _four_dimensional(cases: Sequence[Case]) -> list[Problem]:
    """One problem about all files that hold several volumes: time points must not become channels."""
    found = [(case.id, path, n) for case in cases for path in case.image.paths if (n := n_volumes(path)) > 1]
    if not found:
        return []
    _, path, n = found[0]
    ids = dict.fromkeys(id_ for id_, *_ in found)
    what = f"is 4-D: {n} volumes in one file, time points or channels{f' (so are {len(found) - 1} more)' if len(found) > 1 else ''}"
    names = ",".join(f'"{id_}"' for id_ in ids)
    return [Problem(str(path), what, f"if they are channels:  data.fourth_axis=channels,  else  data.exclude='[{names}]'")]


def _unique(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            problems.append(Problem(f"case {case.id}", "two cases have this id", "give each case its own id"))
        seen.setdefault(case.id, case)
    return list(seen.values())


def _without(cases: Sequence[Case], exclude: Exclude) -> list[Case]:
    """Leave out cases by id, and all slices of a volume by its name."""
    return [case for case in cases if not exclude(case.id, case.volume)]


def _is_about(problem: Problem, id_: str) -> bool:
    """Whether a problem of the layout is about one case, or about one that fits a pattern, so that excluding it solves the problem."""
    if re.search(rf'(^|[\s"/]){re.escape(id_)}($|[\s".])', f"{problem.where} {problem.fix}"):
        return True
    tails = [problem.where, *(problem.where[i + 1 :] for i, letter in enumerate(problem.where) if letter == "/")]
    return any(fnmatchcase(tail.removesuffix(suffix_of(tail)), id_) for tail in tails if suffix_of(tail))


def _unknown_ids(exclude: Sequence[str], cases: Sequence[Case]) -> list[Problem]:
    known = {case.id for case in cases} | {case.volume for case in cases}
    return [Problem("data.exclude", f"{id_!r} is not a case", nearest(id_, known) or "remove it") for id_ in exclude]


# the phantom


def _phantom(data: schema.Data, seed: int, allow: Sequence[str], cache_dir: Path) -> Path:
    """The folder of the synthetic data set, written on first use; several processes may need it at once."""
    folder = (cache_dir / _phantom_name(data, seed)).absolute()
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            write(instantiate(data.source, allow=allow, root=temporary), temporary, data.phantom_n, seed)
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and wrote the same
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    console.print(
        f"[bold yellow]SYNTHETIC DATA[/]: data.root is not set, so this uses a phantom of {data.phantom_n} images\n"
        f"  in {escape(str(folder))}\n"
        "  its results say nothing about patients;   your own images:  data.root=FOLDER"
    )
    return folder


def _phantom_name(data: schema.Data, seed: int) -> str:
    name = source_name(data.source)
    keys = json.dumps({k: v for k, v in data.source.items() if k != "_target_"}, sort_keys=True, default=str)
    layout = "" if keys == "{}" else "-" + hashlib.sha1(keys.encode(), usedforsecurity=False).hexdigest()[:6]
    return f"phantom-{name}{layout}-n{data.phantom_n}-seed{seed}-v{VERSION}"
