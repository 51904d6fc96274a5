"""The case table, `cases.csv`: one row a case and class. Every reported number is made from it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from segkit.config.signatures import check_call, check_name
from segkit.config.targets import instantiate, target_nodes
from segkit.data.case import Case
from segkit.data.labels import IGNORE, LabelMap
from segkit.metrics.base import NAN, Array, CaseMetric, Statistic
from segkit.metrics.summary import OVERALL, Summary, Tree, summarize
from segkit.system.errors import SegkitError, first_line, of_file, raise_errors
from segkit.system.files import Natural, natural, write_csv_atomic
from segkit.system.plain import fitted, read_json, read_yaml, reading

KEYS = ("case", "group", "subset", "class", "n_truth_px", "n_pred_px")
TABLE, VOLUMES, SUMMARY = "cases.csv", "volumes.csv", "summary.json"
OUT_OF_FOLD = "evaluation/val"
"""Written by  segkit evaluate sweep=NAME  in the folder of a sweep over folds."""
SUBSETS = ("train", "val", "test")
EXCLUDED = "excluded"
"""Validation cases that the data set says are not fit to learn from: reported separately, and together with the others."""


@dataclass(frozen=True)
class Row:
    """One class of one case. `values` holds the metric columns; NaN is missing."""

    case: str
    group: str
    subset: str
    class_name: str
    n_truth_px: int
    n_pred_px: int
    values: Mapping[str, float]


def evaluate_case(
    pred: Array, reference: Array, labels: LabelMap, case: Case, metrics: Mapping[str, CaseMetric], subset: str = ""
) -> list[Row]:
    """One row for each class, in the order of the label map.

    `pred` and `reference` are on the original grid: class indices (H, W) of an exclusive map, or planes (K, H, W) of 0, 1
    of an overlapping one. What is 255 in the reference counts in neither.
    """
    if pred.shape != reference.shape:
        raise SegkitError(f"{case.id}: prediction {pred.shape} and reference {reference.shape} are not on the same grid")
    rows = []
    for k, name in enumerate(labels.classes):
        p, t = labels.plane(pred, k), labels.plane(reference, k)
        p &= (reference[k] if labels.overlap else reference) != IGNORE
        values = {column: value for key, metric in metrics.items() for column, value in called(key, metric, p, t, case, name).items()}
        rows.append(Row(case.id, case.group_or_id, subset, name, int(t.sum()), int(p.sum()), values))
    return rows


def called(key: str, metric: CaseMetric, pred: Array, target: Array, case: Case, class_name: str) -> dict[str, float]:
    """The values of a metric for one class of a case. Raises SegkitError, which names all three, where it fails."""
    try:
        return metric(pred, target, case)
    except SegkitError:
        raise
    except Exception as error:  # whatever a metric of the user's own raises
        what = f"metric.cases.{key} failed for class {class_name} of case {case.id}: {type(error).__name__}: {first_line(error)}"
        fix = f"mend {type(metric).__module__}.{type(metric).__qualname__}, or leave it out with  metric.cases.{key}=null"
        raise SegkitError(f"{what};   {fix}") from error


@dataclass(frozen=True)
class CaseTable:
    """Rows in natural order of subset and case (the order of classes is kept), and the statistics of their columns."""

    rows: tuple[Row, ...]
    statistics: tuple[Statistic, ...]

    @classmethod
    def of(cls, rows: Iterable[Row], metrics: Mapping[str, CaseMetric]) -> CaseTable:
        statistics = tuple(statistic for metric in metrics.values() for statistic in metric.statistics)
        return cls(tuple(sorted(rows, key=position)), statistics)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.class_name for row in self.rows))

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that no reference mask shows."""
        shown = {row.class_name for row in self.rows if row.n_truth_px}
        return tuple(name for name in self.classes if name not in shown)

    def summary(self, seed: int = 0) -> Summary:
        """A line a subset, class and statistic; `overall` is the mean over cases of the mean over their classes.

        Where cases without a structure have a score by convention, the mean over those that hold it follows (`dice_present`).
        """
        lines = []
        subsets: dict[str, list[Row]] = {}
        for row in self.rows:
            subsets.setdefault(row.subset, []).append(row)
        if EXCLUDED in subsets and "val" in subsets:
            subsets[f"val+{EXCLUDED}"] = [*subsets["val"], *subsets[EXCLUDED]]
        for name, rows in subsets.items():
            part = CaseTable(tuple(rows), self.statistics)
            for class_name in (OVERALL, *part.classes):
                for statistic in self.statistics:
                    values, groups = part.collect(statistic, class_name)
                    lines.append(summarize(values, groups, statistic, class_name, name, seed))
                    if statistic.scores_empty and part.lacks(class_name):
                        values, groups = part.collect(statistic, class_name, only_present=True)
                        lines.append(summarize(values, groups, statistic.of_present, class_name, name, seed))
        return Summary(tuple(lines))

    def lacks(self, class_name: str) -> bool:
        """Whether the reference of some case lacks this class; of `overall`: any class, while some structure is there at all."""
        shown = [row.n_truth_px > 0 for row in self.rows if class_name in (OVERALL, row.class_name)]
        return not all(shown) and (class_name != OVERALL or any(shown))

    def collect(self, statistic: Statistic, class_name: str, only_present: bool = False) -> tuple[Array, list[str]]:
        """Values of one class (or the mean over classes of each case) with the group of each; NaN of cases that are left out."""
        rows = [row for row in self.rows if class_name in (OVERALL, row.class_name)]
        groups = {row.case: row.group for row in rows}
        values: dict[str, list[float]] = {case: [] for case in groups}
        column = statistic.of_rows([row.values for row in rows])
        for row, value in zip(rows, column, strict=True):
            if row.n_truth_px or not only_present:
                values[row.case].append(float(value))
        return np.array([mean_of_known(of_case) for of_case in values.values()]), list(groups.values())

    def to_csv(self, path: Path) -> None:
        """Floats are written so that they read back to the last bit; a missing value is an empty field."""
        lines: list[list[object]] = [[*KEYS, *self.columns]]
        for row in self.rows:
            values = [row.values.get(column, NAN) for column in self.columns]
            keys = (row.case, row.group, row.subset, row.class_name, row.n_truth_px, row.n_pred_px)
            lines.append([*keys, *("" if v != v else repr(float(v)) for v in values)])
        write_csv_atomic(path, lines)

    @classmethod
    def from_csv(cls, path: Path, metrics: Mapping[str, CaseMetric] | None = None) -> CaseTable:
        """The table as written. Without metrics the statistics are plain means of the columns, under no known rule."""
        if not path.is_file():
            raise SegkitError(f"{path}: no such case table;   segkit evaluate writes it")
        with reading(path), path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            columns = list(reader.fieldnames or [])[len(KEYS) :]
            if tuple(reader.fieldnames or ())[: len(KEYS)] != KEYS:
                raise SegkitError(f"{path}: not a case table; its first columns must be {', '.join(KEYS)}")
            rows = tuple(read_row(row, columns, f"{path}, line {reader.line_num}") for row in reader)
        if metrics is None:
            return cls(rows, tuple(Statistic(column, column) for column in columns))
        return cls.of(rows, metrics)


def read_row(row: Mapping[str, str], columns: Sequence[str], where: str) -> Row:
    try:
        values = {column: float(row[column]) if row[column] else NAN for column in columns}
        keys = (row["case"], row["group"], row["subset"], row["class"])
        return Row(*keys, int(row["n_truth_px"]), int(row["n_pred_px"]), values)
    except ValueError as error:
        raise SegkitError(f"{where}: {error}") from error


def mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else NAN


def position(row: Row) -> tuple[int, str, Natural]:
    """Train before val before test; case 2 before case 10."""
    place = SUBSETS.index(row.subset) if row.subset in SUBSETS else len(SUBSETS)
    return place, row.subset, natural(row.case)


# --- tables of runs ----------------------------------------------------------------------------------------------------


def read_table(place: str | Path, allow: Sequence[str] = ()) -> CaseTable:
    """The case table of a run folder, a sweep over folds, an evaluation folder, or a file.

    Its statistics are those of the run's metrics, some of which compare absolute values; without a config, plain columns.
    """
    path = Path(place).expanduser()
    path = path / OUT_OF_FOLD if (path / "sweep.json").exists() else path
    path = path / TABLE if path.is_dir() else path
    found = metric_of(path.parent)
    if found is None:
        return CaseTable.from_csv(path)
    home, section = found
    nodes = fitted(home, section.get("volumes" if path.name == VOLUMES else "cases") or {}, dict[str, dict[str, Any] | None])
    table = CaseTable.from_csv(path, build_metrics(home, {name: node for name, node in nodes.items() if node}, allow))
    if path.name == TABLE:
        check_means(path, table, fitted(path.with_name(SUMMARY), read_json(path.with_name(SUMMARY)).get("results") or {}, Tree))
    return table


def check_means(path: Path, table: CaseTable, results: Tree) -> None:
    """Raise SegkitError where the mean of a structure is not that of `results`, which were computed from the table as it was."""
    for subset, name, statistic in product(results, table.classes, table.statistics):
        rows = tuple(row for row in table.rows if row.subset == subset)
        line = results[subset].get(name, {}).get(statistic.name, {}) if rows else {}
        was, now = line.get("mean"), mean_of_known(list(CaseTable(rows, table.statistics).collect(statistic, name)[0]))
        if was is not None and not math.isclose(was, now, rel_tol=1e-6, abs_tol=1e-9):
            what = f"its mean {statistic.name} of {name} is {now:.6g}, and was {was:.6g}"
            fix = "evaluate again,  segkit evaluate ckpt=RUN,  and compare  RUN/evaluation/val"
            raise SegkitError(f"{path} has been changed since {SUMMARY} was written: {what};   {fix}")


def build_metrics(home: Path, nodes: Mapping[str, Mapping[str, Any]], allow: Sequence[str]) -> dict[str, CaseMetric]:
    """The metrics that a file names. Raises SegkitError, which names it, where one cannot be built."""
    try:
        for place, node in target_nodes(nodes, ("metric",)):
            raise_errors(check_name(node, ".".join(place), allow, ours=True) or check_call(node, ".".join(place), allow))
        return {name: instantiate(node, allow=allow) for name, node in nodes.items()}
    except SegkitError as error:
        raise of_file(home, "has a metric that cannot be used", error) from error


def metric_of(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The metric section that made the table, and its file: from summary.json beside it, else from the run's config.

    An evaluation may use another metric than its run; older ones do not record it.
    """
    section = read_json(folder / SUMMARY).get("metric")
    if isinstance(section, dict):
        return folder / SUMMARY, section
    for home in (folder, *folder.resolve().parents[:2]):  # an evaluation lies in RUN/evaluation/PART or RUN/benchmark
        if (home / "config.yaml").is_file():
            content = read_yaml(home / "config.yaml")
            if not isinstance(content.get("metric"), dict):
                raise SegkitError(f"{home / 'config.yaml'} is not the config of a run: it has no section metric")
            return home / "config.yaml", content["metric"]
    return None
