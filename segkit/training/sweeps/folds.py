"""Folds of a cross-validation: which networks of a sweep validated which cases, and each case evaluated by those that did not see it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from pathlib import Path
from typing import Any

from segkit.config.schema import Metric
from segkit.inference.predictor import Image, Prediction, Predictor, as_case
from segkit.metrics.base import known_as
from segkit.metrics.summary import Summary, interval, unit
from segkit.metrics.table import CaseTable, read_table
from segkit.models import checkpoint
from segkit.system.errors import SegkitError, nearest
from segkit.system.plain import read_json, read_lines
from segkit.system.progress import console
from segkit.training.run_folder import RunFolder
from segkit.training.sweeps.names import find_sweep, trial_name

FOLD, SEEDS = "split.fold", ("seed", "split.seed")
"""Trainings that differ in these keys alone belong together; with each seed all cases are validated once more."""
Values = Mapping[str, str]
"""Keys that a sweep varies, as typed."""


def out_of_fold(folds: Sequence[str | Path], allow: Sequence[str] = ()) -> CaseTable:
    """The rows of several run folders or case tables. Raises `SegkitError` where a case is in two of them: these are no folds."""
    tables = [read_table(place, allow) for place in folds]
    check_once([(place, {row.case for row in table.rows}) for place, table in zip(folds, tables, strict=True)])
    statistics = {statistic.name: statistic for table in tables for statistic in table.statistics}
    return CaseTable(tuple(row for table in tables for row in table.rows), tuple(statistics.values()))


def check_once(validated: Sequence[tuple[str | Path, Collection[str]]]) -> None:
    """`validated`: each fold with its cases."""
    counts = Counter(case for _, cases in validated for case in cases)
    if twice := sorted(case for case, n in counts.items() if n > 1):
        where = ", ".join(str(place) for place, cases in validated if twice[0] in cases)
        raise SegkitError(f"{twice[0]} and {len(twice) - 1} more cases are validated twice ({where}): these are no folds of one split")


@dataclass(frozen=True)
class Trained:
    """A training of a sweep, finished or not."""

    path: Path
    values: Values

    @property
    def trouble(self) -> str:
        """Why it has no finished network; empty where it has one."""
        run = RunFolder(self.path)
        state = run.status.get("state", "")
        if state == "failed":
            return f"failed: {run.status.get('traceback', '').strip().rpartition(chr(10))[2]}"
        if state == "running" and run.is_alive():
            return "is still running"
        return {"finished": "", "pruned": "was stopped by the sweep, as others did better"}.get(state, "was interrupted")

    @cached_property
    def ckpt(self) -> Path:
        return checkpoint.find(self.path)

    @cached_property
    def split(self) -> Mapping[str, Any]:
        return checkpoint.read_metadata(self.ckpt, checkpoint.read(self.ckpt)).split

    @property
    def seeds(self) -> tuple[str, ...]:
        return tuple(f"{key}={self.values[key]}" for key in SEEDS if key in self.values)


@dataclass(frozen=True)
class Folds:
    """The finished trainings of a sweep that differ in fold and seed alone. `values`: those of the other keys that it varies."""

    sweep: Path
    values: Values
    trained: tuple[Trained, ...]

    @property
    def ckpts(self) -> list[Path]:
        return [one.ckpt for one in self.trained]

    @property
    def name(self) -> str:
        return trial_name(self.values, 0)

    @property
    def title(self) -> str:
        return ", ".join([f"{len({one.values[FOLD] for one in self.trained})} folds", *(f"{k}={v}" for k, v in self.values.items())])

    @property
    def home(self) -> Path:
        """The folder of their tables."""
        return self.sweep / "evaluation" / self.name

    def validators(self) -> dict[str, tuple[Path, ...]]:
        """Case -> the networks that validated it, one of each seed. Cases of the same networks follow each other."""
        found: dict[str, tuple[Path, ...]] = {}
        for one in self.trained:
            for case in one.split["val"]:
                found[case] = (*found.get(case, ()), one.ckpt)
        order = {ckpt: i for i, ckpt in enumerate(self.ckpts)}
        return dict(sorted(found.items(), key=lambda item: [order[ckpt] for ckpt in item[1]]))


class OutOfFold(Predictor):
    """A cross-validation as the predictor of its own cases, one fold in memory at a time. `load` loads one network, or several as one."""

    def __init__(self, folds: Folds, load: Callable[[Sequence[Path]], Predictor]) -> None:
        self.of_case, self.load = folds.validators(), load
        first = load(folds.ckpts[:1])
        self.config, self.labels = first.config, first.labels
        self.metadata = replace(first.metadata, split={"train": [], "val": list(self.of_case), "test": []})

    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        orient = self.config.data.source.get("orient", "LPS")
        found = (as_case(image, self.metadata.dims, orient) for image in images)
        for ckpts, cases in groupby(found, key=lambda case: self.of_case[case.id]):
            yield from self.load(ckpts).predict_all(cases)


def find_folds(sweep: str, where: Values | None = None, partial: bool = False) -> list[Folds]:
    """The folds that a sweep has trained, a group for each setting of its other keys.

    Args:
        sweep: Name or folder of the sweep.
        where: Values of other keys; only settings with these are returned.
        partial: Whether cases that no finished network validates are allowed.

    Raises:
        SegkitError: The sweep has no folds, they are not of one split, or some are missing.
    """
    folder = find_sweep(sweep)
    space = {key.lstrip("+"): text for key, text in read_json(folder / "sweep.json")["space"].items()}
    if FOLD not in space:
        raise SegkitError(f"sweep {folder} has no folds: it varies {', '.join(space)};   segkit train -m … split=kfold folds=all")
    groups: dict[tuple[tuple[str, str], ...], list[Trained]] = {}
    for path in sorted(folder.glob("*/overrides.yaml")):
        typed = (text.partition("=") for text in read_lines(path))
        values = {key.lstrip("+"): value for key, _, value in typed if key.lstrip("+") in space}
        others = tuple((key, text) for key, text in values.items() if key not in (FOLD, *SEEDS))
        groups.setdefault(others, []).append(Trained(path.parent, values))
    if not groups:
        raise SegkitError(f"sweep {folder} has trained nothing yet")
    chosen = {others: trained for others, trained in groups.items() if fits(dict(others), where or {}, space)}
    if not chosen:
        known = "\n".join(f"  {line_to_type(dict(others))}" for others in groups)
        raise SegkitError(f"sweep {folder} has no training with  {line_to_type(where or {})}; available:\n{known}")
    found = [finished(folder, dict(others), trained, space, partial) for others, trained in chosen.items()]
    if not any(folds.trained for folds in found):
        raise SegkitError(f"sweep {folder} has no fold that was trained to its end")
    return [folds for folds in found if folds.trained]


def one_of(groups: Sequence[Folds]) -> Folds:
    """The only one. Raises `SegkitError` with the keys that choose one where there are several."""
    if len(groups) == 1:
        return groups[0]
    lines = "\n".join(f"  {line_to_type(folds.values)}" for folds in groups)
    raise SegkitError(f"sweep {groups[0].sweep} varies more than folds;   choose one of these with\n{lines}")


def best_of(summaries: Mapping[str, Summary], metric: Metric) -> str:
    """The name of the best summary. Prints several, a line each, best first."""
    names = list(summaries)
    statistics = {line.statistic for summary in summaries.values() for line in summary.lines}
    monitor = known_as(metric.monitor.split("/")[0], statistics)
    statistic = monitor if monitor in statistics else summaries[names[0]].lines[0].statistic
    lines = {name: summary.line(statistic) for name, summary in summaries.items()}
    sign = -1 if monitor in statistics and metric.mode == "min" else 1
    names.sort(key=lambda name: sign * lines[name].mean if lines[name].n else -math.inf, reverse=True)
    for name in names if len(names) > 1 else ():
        console.print(f"{statistic} {unit(statistic)(lines[name].mean)} {interval(lines[name])}   {name}", markup=False, highlight=False)
    return names[0]


def fits(values: Values, where: Mapping[str, Any], space: Mapping[str, Any]) -> bool:
    """Whether the values are those that `where` asks for, numbers however they were written."""
    others = [key for key in space if key not in (FOLD, *SEEDS)]
    for key in where:
        if key not in others:
            hint = nearest(key, others) or f"it varies {', '.join(others) or 'nothing but folds'}"
            raise SegkitError(f"where.{key}: the sweep does not vary it; {hint}")
    return all(plain(values.get(key, "")) == plain("null" if value is None else str(value)) for key, value in where.items())


def plain(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return re.sub(r"[\s'\"]", "", text).lower()


def line_to_type(values: Mapping[str, Any]) -> str:
    return f"'where={{{', '.join(f'{key}: {text}' for key, text in values.items())}}}'"


def numbers(text: str) -> list[int]:
    """The folds or seeds of `choice(0, 1, 2)` or `0 to 4 by 1` (see `space.Parameter`)."""
    found = [int(number) for number in re.findall(r"\d+", text)]
    return list(range(found[0], found[1] + 1, *found[2:])) if " to " in text else found


def finished(folder: Path, values: Values, trained: Sequence[Trained], space: Mapping[str, str], partial: bool) -> Folds:
    """The folds that have a network. With each seed they must be those of one split. Raises `SegkitError` or prints what is missing."""
    missing: list[str] = []
    ready = [one for one in trained if not one.trouble]
    for seeds in product(*([f"{key}={n}" for n in numbers(space[key])] for key in SEEDS if key in space)):
        by_fold = {int(one.values[FOLD]): one for one in trained if one.seeds == seeds}
        for n in numbers(space[FOLD]):
            if n not in by_fold:
                missing.append(f"  {' '.join((f'{FOLD}={n}', *seeds))}   has not been trained")
            elif trouble := by_fold[n].trouble:
                missing.append(f"  {by_fold[n].path.name}   {trouble}")
        cases, left = left_over([one for one in ready if one.seeds == seeds])
        missing += [f"  {len(left)} of {len(cases)} cases are validated by no network"] if left else []
    if missing and not partial:
        headline = f"sweep {' '.join([str(folder), *(f'{key}={text}' for key, text in values.items())])} lacks folds"
        fixes = [how_to_train_them(trained), "  or take those there are:  partial=true" if ready else ""]
        raise SegkitError("\n".join([headline, *missing, *filter(None, fixes)]))
    for line in missing:
        console.print(f"note     {line}", markup=False, highlight=False)
    return Folds(folder, values, tuple(sorted(ready, key=lambda one: (int(one.values[FOLD]), one.seeds))))


def left_over(folds: Sequence[Trained]) -> tuple[set[str], set[str]]:
    """All cases of a split, and those that none of its folds validated. Raises `SegkitError` where it is not one split."""
    everyone = [{*one.split["train"], *one.split["val"]} for one in folds]
    for one, cases in zip(folds, everyone, strict=True):
        if differing := cases ^ everyone[0]:
            what = f"{folds[0].path} and {one.path} are not of one split: {len(differing)} cases are in one alone"
            raise SegkitError(f"{what}, so the data have changed between them;   train all folds again with another  sweep.name=NAME")
    check_once([(one.path, set(one.split["val"])) for one in folds])
    cases = set().union(*everyone)
    return cases, cases.difference(*(one.split["val"] for one in folds))


def how_to_train_them(trained: Sequence[Trained]) -> str:
    """The command of the sweep, as its first training has recorded it; empty where none has."""
    sessions = (read_json(one.path / "provenance.json").get("sessions") for one in trained)
    commands = [known[0]["command"].partition(" ")[2] for known in sessions if known]
    return f"  train what is missing with the same command:  segkit {commands[0]}" if commands else ""
