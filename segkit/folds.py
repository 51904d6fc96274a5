"""Folds of one cross-validation as one table: each case judged once, by the network that did not see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segkit.comparing import read_table
from segkit.errors import SegkitError
from segkit.metrics.table import CaseTable


def out_of_fold(folds: Sequence[str | Path], allow: Sequence[str] = ()) -> CaseTable:
    """The rows of several run folders or case tables. A case that two of them judge was validated twice, so they are no folds."""
    tables = [read_table(place, allow) for place in folds]
    rows = [row for table in tables for row in table.rows]
    judged = Counter(case for table in tables for case in {row.case for row in table.rows})
    if twice := sorted(case for case, n in judged.items() if n > 1):
        where = ", ".join(str(place) for place, table in zip(folds, tables, strict=True) if twice[0] in {row.case for row in table.rows})
        raise SegkitError(f"{twice[0]} and {len(twice) - 1} more cases are validated twice ({where}): these are no folds of one split")
    statistics = {statistic.name: statistic for table in tables for statistic in table.statistics}
    return CaseTable(tuple(rows), tuple(statistics.values()))
