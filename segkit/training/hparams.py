"""The hyper-parameters that runs are compared by, and the metrics that they are compared in."""

from __future__ import annotations

from collections.abc import Iterator

from segkit.config.schema import Train
from segkit.metrics.base import known_as
from segkit.metrics.summary import OVERALL, Summary
from segkit.system.plain import read_json, read_lines
from segkit.training.config_hash import flat
from segkit.training.plots import best_row, read_columns
from segkit.training.run_folder import RunFolder

Scalar = str | int | float | bool
COMPARED = ("model.", "optimizer.", "scheduler.", "preprocess.", "loss.", "seed", "data.batch_size")
"""Keys that people compare runs by."""


def final_metrics(run: RunFolder, cfg: Train, summary: Summary | None = None) -> tuple[dict[str, float], int]:
    """Those of the best epoch and, where the run was evaluated, the means of its cases; and the last step."""
    lines = (line for line in reversed(summary.lines) if line.class_name == OVERALL) if summary else ()
    steps = read_columns(run.path / "metrics.csv").get("step", [0]) if (run.path / "metrics.csv").exists() else [0]
    return best_epoch(run, cfg.metric.monitor, cfg.metric.mode) | {f"final/{line.statistic}": line.mean for line in lines}, int(steps[-1])


def best_epoch(run: RunFolder, monitor: str, mode: str) -> dict[str, float]:
    if not (run.path / "metrics.csv").exists():
        return {}
    columns = read_columns(run.path / "metrics.csv")
    row = best_row(columns, f"val/{monitor}", mode)
    name = known_as(f"val/{monitor}", columns)
    return {} if row is None else {f"best/{name.removeprefix('val/')}": float(columns[name][row])}


def hparams(run: RunFolder, cfg: Train) -> Iterator[tuple[str, Scalar]]:
    """The keys that runs are compared by, then all that the sweep around this run searches; of a config group its choice."""
    config = dict(flat(cfg.model_dump(mode="json")))
    for key, value in config.items():
        if key.startswith(COMPARED):
            name = value.rpartition(".")[2] if key.endswith("._target_") else value
            yield key.removesuffix("._target_"), name if isinstance(name, Scalar) else str(name)
    space = read_json(run.path.parent / "sweep.json").get("space", {})
    for text in read_lines(run.path / "overrides.yaml") if space else ():
        key, _, typed = text.partition("=")
        if key in space:
            value = config.get(key.lstrip("+"))
            yield key.lstrip("+"), value if isinstance(value, Scalar) else typed
