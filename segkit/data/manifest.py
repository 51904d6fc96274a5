"""From the data section of a config to a manifest: build the source, sort its cases, name their labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from segkit.config import schema
from segkit.config.targets import instantiate
from segkit.data.case import Case, Manifest
from segkit.data.labels import BACKGROUND, LabelMap
from segkit.data.phantoms.base import MARK, VERSION, write
from segkit.data.slices import view
from segkit.data.sources import source_name
from segkit.data.statistics import MAX_VALUES, Statistics, scan, values_seen
from segkit.system.errors import Problem, SegkitError, nearest, raise_errors
from segkit.system.files import natural
from segkit.system.progress import console

_VALUE = re.compile(r"-?\d+|#[0-9a-f]{6}")
MAX_PROPOSED = 20
"""With more distinct values than this, a mask holds gray levels instead of labels, and no label map is proposed."""


@dataclass(frozen=True)
class Listing:
    """The cases that a source found, before their files are read and their labels named."""

    name: str
    root: Path
    cases: tuple[Case, ...]
    default_labels: Mapping[Any, str] | None
    is_phantom: bool
    problems: tuple[Problem, ...]

    def manifest(self, labels: LabelMap) -> Manifest:
        return Manifest(self.name, self.root, self.cases, labels, self.is_phantom)

    def statistics_folder(self, cache_dir: Path) -> Path:
        place = hashlib.sha1(str(self.root).encode(), usedforsecurity=False).hexdigest()[:10]
        return cache_dir / f"facts-{self.name}-{place}"


def open_manifest(data: schema.Data, seed: int, allow: Sequence[str] = (), *, cache_dir: Path) -> Manifest:
    """The manifest of a data set; files are read only if labels must be inferred. Raises ProblemsFound."""
    found = find(data, seed, allow, cache_dir)
    declared = data.labels is not None or found.default_labels is not None or bool(data.overlap)
    statistics = {} if declared else scan(found.cases, found.statistics_folder(cache_dir))
    labels, problems = name_labels(data, found, statistics)
    raise_errors((*found.problems, *problems))
    return found.manifest(labels)


def find(data: schema.Data, seed: int, allow: Sequence[str], cache_dir: Path) -> Listing:
    """Build the source, or its phantom where `data.root` is not set, and list its cases in natural order of their ids."""
    root = _phantom(data, seed, allow, cache_dir) if data.root is None else Path(data.root).expanduser().absolute()
    source = instantiate(data.source, allow=allow, root=root)
    try:
        listed = list(source.cases())
    except OSError as error:
        raise SegkitError(f"{root} cannot be listed: {error}") from error
    problems: list[Problem] = list(source.problems)
    unique = _unique(sorted(listed, key=lambda case: natural(case.id)), problems)
    viewed = view(_without(unique, data.exclude), data.dims, data.neighbours, problems)
    cases = sorted(_without(viewed, data.exclude), key=lambda case: natural(case.id))
    settled = {id_ for id_ in data.exclude if any(_is_about(problem, id_) for problem in source.problems)}
    problems = [problem for problem in problems if not any(_is_about(problem, id_) for id_ in settled)]
    problems += _unknown_ids([id_ for id_ in data.exclude if id_ not in settled], [*unique, *viewed])
    if not cases and not any(problem.severity == "error" for problem in problems):
        left = "every case is excluded" if listed else f"no case found by {type(source).__name__}"
        problems.append(Problem(str(root), left, "check data.root, data.source and data.exclude"))
    name = source_name(data.source)
    return Listing(name, root, tuple(cases), source.default_labels, (root / MARK).exists(), tuple(problems))


def _unique(cases: Sequence[Case], problems: list[Problem]) -> list[Case]:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            problems.append(Problem(f"case {case.id}", "two cases have this id", "give each case its own id"))
        seen.setdefault(case.id, case)
    return list(seen.values())


def _without(cases: Sequence[Case], exclude: Sequence[str]) -> list[Case]:
    """Leave out cases by id, and all slices of a volume by its name."""
    names = set(exclude)
    return [case for case in cases if case.id not in names and case.volume not in names]


def _is_about(problem: Problem, id_: str) -> bool:
    """Whether a problem of the layout is about one case, so that excluding the case solves it."""
    return re.search(rf'(^|[\s"/]){re.escape(id_)}($|[\s".])', f"{problem.where} {problem.fix}") is not None


def _unknown_ids(exclude: Sequence[str], cases: Sequence[Case]) -> list[Problem]:
    known = {case.id for case in cases} | {case.volume for case in cases}
    return [Problem("data.exclude", f"{id_!r} is not a case", nearest(id_, known) or "remove it") for id_ in exclude if id_ not in known]


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


# the labels


def name_labels(data: schema.Data, found: Listing, statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    """The label map: `data.labels`, else the source's own, else names of planes or unambiguous mask values.

    Where labels are ambiguous or wrong, the map is a guess that comes with the problem to fix, so that the audit can go on.
    """
    if not found.cases:  # the reason has been reported
        return LabelMap.of({"0": BACKGROUND, "1": "foreground"}), []
    given = data.labels if data.labels is not None else found.default_labels
    overlap = any("" not in case.masks for case in found.cases if case.masks) if data.overlap is None else data.overlap
    if given is not None:
        return _given_labels(given, overlap, statistics)
    if overlap:
        return _plane_names(found.cases, statistics)
    return _inferred(statistics)


def labels_line(names: Mapping[str, str]) -> str:
    """The override to type on the command line, whose grammar has no #: colors are written 0xrrggbb there."""
    inner = ", ".join(f"{_typed(value.replace('#', '0x'))}: {_typed(name)}" for value, name in names.items())
    return f"data.labels='{{{inner}}}'"


def _typed(word: str) -> str:
    """Quoted where the command line would misread it, or drop a trailing space."""
    return word if re.fullmatch(r"[\w.\-+/@?|]+( [\w.\-+/@?|]+)*", word) else f'"{word}"'


def _given_labels(given: Mapping[Any, str], overlap: bool, statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    if not overlap:
        given = {str(raw).lower().replace("0x", "#"): name for raw, name in given.items()}
    wrong = [] if overlap else [raw for raw in given if not _VALUE.fullmatch(raw)]
    if wrong:
        what = f"{wrong[0]!r} is not a mask value; use whole numbers or colors 0xrrggbb"
        fix = "e.g.  data.labels='{0: background, 1: NAME}'   (or data.overlap=true where each structure has its own mask)"
        return _any_values(statistics), [Problem("data.labels", what, fix)]
    try:
        return LabelMap.of(given, overlap), []
    except SegkitError as error:
        what, _, fix = str(error).partition(";   ")
        return _any_values(statistics), [Problem("data.labels", what, fix)]


def _any_values(statistics: Statistics) -> LabelMap:
    """A map that accepts every value seen, in place of a wrong one, so that the other checks can go on."""
    values = values_seen(statistics.values())
    return LabelMap.of(dict.fromkeys(("1", *values), "foreground") | {_background(values): BACKGROUND})


def _background(values: Iterable[str]) -> str:
    return "#000000" if any(value.startswith("#") for value in values) else "0"


def _plane_names(cases: Sequence[Case], statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    planes = dict.fromkeys(plane for case in cases for plane in case.masks if plane)
    if planes:
        return LabelMap.of({plane: plane for plane in planes}, overlap=True), []
    what = "is true, which needs one mask for each structure, but no case has them"
    return _any_values(statistics), [Problem("data.overlap", what, "data.overlap=false")]


def _inferred(statistics: Statistics) -> tuple[LabelMap, list[Problem]]:
    """0/1 and 0/255 need no map, even if masks hold only one of the two."""
    values = list(values_seen(statistics.values()))
    if set(values) <= {"0", "1"} or set(values) <= {"0", "255"}:
        return LabelMap.of({"0": BACKGROUND, "255" if "255" in values else "1": "foreground"}), []
    if len(values) > MAX_PROPOSED:
        many = f"{'more than ' * (len(values) >= MAX_VALUES)}{len(values)}"
        what = f"the masks hold {many} different values: gray levels or blurred edges, not labels"
        return _any_values(statistics), [Problem("masks", what, "save them as PNG with one value a class (no JPEG, no smoothing)")]
    background = _background(values)
    names = {value: BACKGROUND if value == background else "NAME" for value in dict.fromkeys([background, *values])}
    what = f"the masks hold {', '.join(values)}, which have no names"
    return _any_values(statistics), [Problem("data.labels", what, f"add  {labels_line(names)}")]
