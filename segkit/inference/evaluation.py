"""The case table of a checkpoint: one code path for the end of a training and for `segkit evaluate`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from segkit.config.schema import Metric
from segkit.config.targets import instantiate
from segkit.data.case import Case, encoded_mask
from segkit.data.labels import LabelMap
from segkit.data.samples import Panel, panel, samples
from segkit.inference.decide import planes
from segkit.inference.predictor import Prediction
from segkit.metrics.summary import Summary
from segkit.metrics.table import CaseTable, Row, evaluate_case
from segkit.metrics.volumes import Stacks, evaluate_volume
from segkit.system.errors import SegkitError
from segkit.system.progress import track

N_WORST, N_OTHER = 4, 8


class Rules(Protocol):
    """What the table asks of a config."""

    @property
    def metric(self) -> Metric: ...

    @property
    def allow_targets(self) -> list[str]: ...

    @property
    def seed(self) -> int: ...


class Judged(Protocol):
    """A `Predictor`, or masks that are there already."""

    @property
    def config(self) -> Rules: ...

    def predict_all(self, images: Iterable[Case]) -> Iterator[Prediction]: ...


@dataclass(frozen=True)
class Evaluation:
    table: CaseTable
    summary: Summary
    panels: tuple[Panel, ...]
    collisions: Mapping[str, int] = field(default_factory=dict)
    """Of a combination: cases in which several members claimed the same pixels, and how many."""
    volumes: CaseTable = field(default_factory=lambda: CaseTable((), ()))
    """Rows of whole volumes, where `metric.volumes` asks for some; their lines stand in `summary` with the others."""

    def without(self, classes: Collection[str], seed: int) -> Evaluation:
        """The same but for these classes."""
        table, volumes = (
            CaseTable(tuple(row for row in one.rows if row.class_name not in classes), one.statistics) for one in (self.table, self.volumes)
        )
        return replace(self, table=table, volumes=volumes, summary=summary_of(table, volumes, seed))


def build_metrics(nodes: Mapping[str, Mapping[str, Any] | None], allow: Sequence[str]) -> dict[str, Any]:
    return {name: instantiate(node, allow=allow) for name, node in nodes.items() if node is not None}


def evaluate_cases(predictor: Judged, cases: Sequence[Case], labels: LabelMap, sides: Mapping[str, str]) -> Evaluation:
    """Predict and judge every labelled case on its original grid; keep the worst and a few others as pictures.

    `sides`: case id -> subset; the subsets are never mixed into one mean.
    """
    cases = [case for case in cases if case.masks]
    if not cases:
        raise SegkitError("this subset has no labelled case;   choose another  subset=train|val|test|all")
    metrics = build_metrics(predictor.config.metric.cases, predictor.config.allow_targets)
    of_volumes = build_metrics(predictor.config.metric.volumes, predictor.config.allow_targets)
    if of_volumes:
        check_volumes(cases)
    stacks = Stacks(cases if of_volumes else ())
    rows: list[Row] = []
    volume_rows: list[Row] = []
    collisions: dict[str, int] = {}
    for case, prediction in track(zip(cases, predictor.predict_all(cases), strict=True), "evaluating", len(cases)):
        truth = encoded_mask(case, labels)
        rows += evaluate_case(prediction.mask, truth, labels, case, metrics, sides[case.id])
        if of_volumes and (volume := stacks.add(case, prediction.mask, truth)):
            volume_rows += evaluate_volume(volume, labels, of_volumes, sides[case.id])
        collisions |= {case.id: prediction.collisions} if prediction.collisions else {}
    table, volumes = CaseTable.of(rows, metrics), CaseTable.of(volume_rows, of_volumes)
    summary = summary_of(table, volumes, predictor.config.seed)
    return Evaluation(table, summary, tuple(pictures(predictor, cases, labels, table)), collisions, volumes)


def check_volumes(cases: Iterable[Case]) -> None:
    if not any(case.volume or case.dims == 3 for case in cases):
        raise SegkitError("metric.volumes judges whole volumes, but these images belong to none;   choose another  metric=NAME")


def summary_of(table: CaseTable, volumes: CaseTable, seed: int) -> Summary:
    return Summary((*table.summary(seed).lines, *volumes.summary(seed).lines))


def pictures(predictor: Judged, cases: Sequence[Case], labels: LabelMap, table: CaseTable) -> list[Panel]:
    """The worst cases by the first metric, then others evenly from the rest."""
    column = table.columns[0]
    by_case = table.by_case(column)
    known = sorted((case for case in cases if by_case[case.id] == by_case[case.id]), key=lambda case: by_case[case.id])
    worst, rest = known[:N_WORST], known[N_WORST:]
    others = rest[:: max(1, -(-len(rest) // N_OTHER))]
    chosen = [*worst, *others]
    panels = []
    for case, prediction in zip(chosen, predictor.predict_all(chosen), strict=True):
        truth = planes(encoded_mask(case, labels), labels)
        caption = f"{case.id}   {column} {by_case[case.id]:.3f}"
        panels.append(panel(prediction.image, planes(prediction.mask, labels), truth, caption, "worst" if case in worst else ""))
    return panels


def write(evaluation: Evaluation, labels: LabelMap, folder: Path, title: str) -> None:
    """cases.csv, volumes.csv where whole volumes were judged, and samples.png."""
    evaluation.table.to_csv(folder / "cases.csv")
    if evaluation.volumes.rows:
        evaluation.volumes.to_csv(folder / "volumes.csv")
    samples(evaluation.panels, labels, folder / "samples.png", title)
