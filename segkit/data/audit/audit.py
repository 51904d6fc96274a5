"""Audit of a data set: every problem, with its file and the line to type, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segkit.config import schema
from segkit.data.audit.audited import Audited, Pair
from segkit.data.audit.checks import check_files, check_split
from segkit.data.audit.images import check_images
from segkit.data.audit.warnings import find_warnings, near_duplicates
from segkit.data.case import Case, Manifest, relative
from segkit.data.channels import settle, settle_stacks
from segkit.data.manifest import Listing, find
from segkit.data.naming import name_labels
from segkit.data.splits import Split, make_split
from segkit.data.statistics import Statistics, scan
from segkit.system.errors import Problem, ProblemsFound, Severity, raise_errors

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Prepared:
    """A data set that is fit for training: labelled cases, their split, their statistics, and warnings and notes."""

    manifest: Manifest
    split: Split
    statistics: Statistics
    notes: tuple[Problem, ...]


def prepare(data: schema.Data, split: schema.Split, seed: int, allow: Sequence[str] = (), *, cache_dir: Path) -> Prepared:
    """Read, audit and split a data set.

    Args:
        data: The `data` section of a config.
        split: The `split` section.
        seed: Of the phantom, where `data.root` is not set.
        allow: Packages beyond segkit whose sources may be used (`allow_targets`).
        cache_dir: Folder for phantoms and statistics.

    Raises:
        ProblemsFound: Lists all errors at once.
    """
    result = inspect(data, split, seed, allow, cache_dir)
    raise_errors((*result.problems, *result.split_problems))
    assert result.split is not None
    notes = tuple(problem for problem in result.problems if problem.severity != "error")
    return Prepared(result.labelled, result.split, result.statistics, notes)


def load_labelled(data: schema.Data, seed: int, allow: Sequence[str] = (), *, cache_dir: Path) -> Manifest:
    """The labelled cases of a data set that needs no split. Raises ProblemsFound."""
    result = inspect(data, None, seed, allow, cache_dir)
    raise_errors(result.problems, before="evaluation starts")
    return result.labelled


@dataclass(frozen=True)
class AuditResult:
    """All that was found in a data set, with errors or without."""

    manifest: Manifest
    labelled: Manifest
    statistics: Statistics
    split: Split | None
    problems: tuple[Problem, ...]
    """Errors first, then warnings, then notes."""
    split_problems: tuple[Problem, ...]
    """Why there is no split."""
    marks: Mapping[str, str]
    """Case id -> a word on why it is worth a look."""
    pairs: tuple[Pair, ...] = ()
    """Images of different groups in two subsets of the split that look alike."""


def _one_kind(found: Listing, data: schema.Data, statistics: Statistics, folder: Path) -> tuple[Listing, Statistics, list[Problem]]:
    """The cases with the channels of `data.channels`, their statistics, and what was done to them."""

    def again(cases: Sequence[Case]) -> Statistics:
        return scan(cases, folder, compact=False)

    if (stacked := len(data.neighbours)) > 1:
        cases, known = settle_stacks(found.cases, statistics, data.channels, stacked, again)
        return replace(found, cases=tuple(cases)), known, []
    cases, known, notes = settle(found.cases, statistics, data.channels, again)
    return replace(found, cases=tuple(cases)), known, notes


def inspect(data: schema.Data, split: schema.Split | None, seed: int, allow: Sequence[str], cache_dir: Path) -> AuditResult:
    """Run all checks, going on after each problem so that all are found. Arguments as for `prepare`."""
    found = find(data, seed, allow, cache_dir)
    folder = found.statistics_folder(cache_dir)
    found, statistics, notes = _one_kind(found, data, scan(found.cases, folder), folder)
    labels, label_problems = name_labels(data, found, statistics)
    manifest = found.manifest(labels)
    labelled = manifest.labelled()
    warnings = find_warnings(manifest, statistics)
    problems = [*found.problems, *notes, *label_problems, *check_files(manifest, statistics, tolerant=split is None)]
    problems += check_images(Audited(manifest, statistics), data.exif)
    made: Split | None = None
    split_problems: Sequence[Problem] = ()
    if labelled.cases and split is not None:
        try:
            made = make_split(labelled, split, statistics)
            problems += check_split(labelled, made, statistics)
            warnings += near_duplicates(labelled, made, statistics)
        except ProblemsFound as refused:
            split_problems = refused.problems
    problems += [warning.problem for warning in warnings]
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: SEVERITIES.index(problem.severity))
    named = {problem.where for problem in problems if problem.severity == "error"}
    marks = {case.id: "error" for case in manifest if named & {relative(path, manifest.root) for path in case.paths}}
    marks |= {id_: warning.mark for warning in reversed(warnings) for id_ in warning.cases}
    pairs = tuple(pair for warning in warnings for pair in warning.pairs)
    return AuditResult(manifest, labelled, statistics, made, tuple(ordered), tuple(split_problems), marks, pairs)
