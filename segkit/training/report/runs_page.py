"""The page of several runs: what they have in common and what differs, their curves, and the paired comparison with the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

import numpy as np

from segkit.metrics.base import known_as
from segkit.metrics.compare import NOTE, Comparison, compare
from segkit.metrics.summary import OVERALL
from segkit.metrics.table import CaseTable, read_table
from segkit.system.errors import SegkitError
from segkit.system.page import Block, Chart, Code, Facts, Section, Table, Text
from segkit.training.config_diff import differences, shown
from segkit.training.plots import has_values
from segkit.training.report import charts
from segkit.training.report.run_page import commands, split_text
from segkit.training.report.runs import Run, value_text

MOST_CASES = 8
"""Cases that are listed as better, and as worse."""
Runs = dict[str, Run]
"""By the letter that stands for each."""


def sections(runs: Sequence[Run], allow: Sequence[str] = ()) -> list[Section]:
    """The page from top to bottom: runs are called A, B, C in their order, and compared with A."""
    named = dict(zip(letters(len(runs)), runs, strict=True))
    first, *others = named
    return [
        Section("", [Facts([(letter, f"{run.name}: {run.result_text or run.state}") for letter, run in named.items()])]),
        Section("Runs", [overview(named)]),
        Section("Differences between the configs", config_table(named)),
        Section("Learning curves", list(curves(named))),
        *(Section(f"{letter} against {first}", list(comparison(named, first, letter, allow))) for letter in others),
        Section("Repeat them", [Code([line for run in runs for line in commands(run)[:1]])]),
    ]


def letters(n: int) -> list[str]:
    return [ascii_uppercase[i % 26] * (1 + i // 26) for i in range(n)]


def overview(runs: Runs) -> Table:
    rows = []
    for letter, run in runs.items():
        line = run.result
        result = [line.statistic, value_text(line), str(line.n)] if line else ["", "", ""]
        rows.append([letter, run.name, run.state, *result, run.time, str(run.epochs), run.parameters, split_text(run)])
    numbers = ["mean, 95 % interval", "n", "time", "epochs", "parameters"]
    return Table(["", "run", "state", "metric", *numbers, "split"], numbers, rows)


def config_table(runs: Runs) -> list[Block]:
    changed = differences([run.leaves for run in runs.values()])
    if not changed:
        return [Text("There is none.")]
    return [Table(["key", *runs], [], [[key, *map(shown, values)] for key, values in changed.items()])]


def curves(runs: Runs) -> Iterator[Chart]:
    """The losses and the monitored metric of the first run."""
    columns = {f"{letter} {run.path.name}": run.columns for letter, run in runs.items()}
    monitor = f"val/{next(iter(runs.values())).monitor}"
    for name in dict.fromkeys(["train/loss", "val/loss", monitor]):
        if any(has_values(of_run, known_as(name, of_run)) for of_run in columns.values()):
            yield charts.several_curves(columns, name)


# --- the paired comparison ----------------------------------------------------------------------------------------------


def comparison(runs: Runs, first: str, letter: str, allow: Sequence[str]) -> Iterator[Block]:
    """Differences case by case; where the runs cannot be compared, why."""
    try:
        a, b = (read_table(runs[name].path, allow) for name in (first, letter))
        found = compare(a, b)
    except SegkitError as error:
        yield Text(f"Not compared: {error}", "warning")
        return
    yield comparison_table(found)
    statistic = found.lines[0].statistic
    paired = paired_cases(a, b, statistic)
    yield charts.paired(list(paired.values()), statistic)
    yield from changed_cases(paired, statistic)


def comparison_table(found: Comparison) -> Table:
    several = len({line.class_name for line in found.lines} - {OVERALL}) > 1
    rows = [line.cells() for line in found.lines if several or line.class_name != OVERALL]
    numbers = ["A", "B", "B - A", "95 % interval", "p", "n", "groups", "missing"]
    notes = [f"{', '.join(names)}: {rule}" for rule, names in found.rules().items()]
    notes += [f"not compared, since the rules differ: {one.statistic} ({one.rule_a}; {one.rule_b})" for one in found.unlike]
    notes += [f"in one of both alone, not compared: {len(cases)} cases" for cases in (found.only_a, found.only_b) if cases]
    return Table(["subset", "class", "metric", *numbers], numbers, rows, [*notes, NOTE])


def paired_cases(a: CaseTable, b: CaseTable, statistic: str) -> dict[str, float]:
    """Case -> B minus A, the mean over its classes, of the cases that both have."""
    before, after = scores_of(a, statistic), scores_of(b, statistic)
    paired = {case: after[case] - score for case, score in before.items() if case in after}
    return {case: change for case, change in paired.items() if np.isfinite(change)}


def scores_of(table: CaseTable, statistic: str) -> dict[str, float]:
    found = next(one for one in table.statistics if one.name == statistic)
    values, _ = table.collect(found, OVERALL)
    return dict(zip(dict.fromkeys(row.case for row in table.rows), values.tolist(), strict=True))


def changed_cases(paired: dict[str, float], statistic: str) -> Iterator[Block]:
    ranked = sorted(paired.items(), key=lambda item: item[1])
    for word, chosen in (("falls", ranked[:MOST_CASES]), ("rises", ranked[::-1][:MOST_CASES])):
        rows = [[case, f"{change:+.4f}"] for case, change in chosen if change and (change < 0) is (word == "falls")]
        if rows:
            yield Table(["case", "B - A"], ["B - A"], rows, [f"Where {statistic} {word} most:"])
