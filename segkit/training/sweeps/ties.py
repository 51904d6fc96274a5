"""Whether the best trial of a sweep is better than the next ones, or only first among equals."""

from __future__ import annotations

from dataclasses import replace

from segkit.metrics.base import PRESENT
from segkit.metrics.compare import compare
from segkit.metrics.summary import OVERALL
from segkit.metrics.table import CaseTable, read_table
from segkit.system.errors import SegkitError, few
from segkit.training.sweeps.results import Sweep, Trial

MOST_COMPARED = 50


def tie_line(sweep: Sweep) -> str:
    """The sentence to print below the best trial; "" where it stands alone, or there are several objectives."""
    if not (tied := ties(sweep)):
        return ""
    names = few([str(trial.number) for trial in tied])
    what = f"trials {sweep.ranked[0].number}, {names} differ by less than the 95 % interval of their paired differences"
    return f"{what};   repeat them with other seeds, such as  'seed=range(0,3)',  or choose the cheapest"


def ties(sweep: Sweep) -> list[Trial]:
    """The trials that follow the best one and cannot be told from it, case by case."""
    if len(sweep.objectives) != 1:
        return []
    tied: list[Trial] = []
    for trial in sweep.ranked[1:MOST_COMPARED]:
        if not is_tie(sweep, sweep.ranked[0], trial):
            break
        tied.append(trial)
    return tied


def is_tie(sweep: Sweep, best: Trial, other: Trial) -> bool:
    """Whether the 95 % interval of the mean difference includes 0; of what has no case table, whether the digits shown are equal."""
    if best.values == other.values:
        return True
    name = next(iter(sweep.objectives))
    try:
        compared = compare(table_of(best, name), table_of(other, name))
        lines = [line for line in compared.lines if (line.class_name, line.statistic) == (OVERALL, name.replace(PRESENT, "", 1))]
    except (SegkitError, OSError, KeyError, ValueError):  # no table, other cases, or metrics that cannot be built here
        lines = []
    if not lines or lines[0].low != lines[0].low:
        return f"{best.values[0]:.4g}" == f"{other.values[0]:.4g}"
    return lines[0].low <= 0 <= lines[0].high


def table_of(trial: Trial, name: str) -> CaseTable:
    """Its case table, of `dice_present` without the rows of structures that are absent."""
    table = read_table(trial.path)
    return replace(table, rows=tuple(row for row in table.rows if row.n_truth_px)) if name.endswith(PRESENT) else table
