"""The hyper-parameters that runs are compared by, and the metrics that they are compared in."""

from __future__ import annotations

from typing import Any

from segkit.config.schema import Train
from segkit.metrics.base import known_as
from segkit.metrics.summary import OVERALL, Summary
from segkit.system.plain import read_json, read_lines
from segkit.training.config_diff import ABSENT, changes, shown
from segkit.training.config_hash import flat
from segkit.training.plots import Columns, best_row, read_columns
from segkit.training.run_folder import RunFolder

Scalar = str | int | float | bool
COMPARED = ("model.", "optimizer.", "scheduler.", "preprocess.", "loss.", "seed", "data.batch_size")
"""Keys that people compare runs by."""
BEST, FINAL = "best", "val_best"
"""Groups of the monitored metric, its best value so far, and of all metrics of the best checkpoint. By their names TensorBoard shows the
one first, as the first metric of HPARAMS, and the other behind `val`."""


def final_metrics(run: RunFolder, cfg: Train, summary: Summary | None = None) -> tuple[dict[str, float], int]:
    """The best value of the monitored metric and, where the run was evaluated, the means of its cases; and the last step."""
    columns = read_columns(run.path / "metrics.csv") if (run.path / "metrics.csv").exists() else {}
    step = int(columns["step"][-1]) - 1 if "step" in columns else 0  # as Lightning counts them
    lines = summary.lines if summary else ()
    found = {f"{FINAL}/{line.statistic}": line.mean for line in lines if line.class_name == OVERALL and line.n}
    return best_so_far(columns, cfg.metric.monitor, cfg.metric.mode) | found, max(0, step)


def best_so_far(columns: Columns, monitor: str, mode: str) -> dict[str, float]:
    """Of metrics.csv by column; empty where the metric has no value."""
    row, name = best_row(columns, f"val/{monitor}", mode), known_as(f"val/{monitor}", columns)
    return {} if row is None else {f"{BEST}/{name.removeprefix('val/')}": float(columns[name][row])}


def hparams(run: RunFolder, cfg: Train) -> dict[str, Scalar]:
    """The keys that people compare runs by, for services that filter and group by them, and all that the sweep around this run searches."""
    leaves = flat(cfg.model_dump(mode="json"))
    return {name_of(key): scalar(key, value) for key, value in leaves if key.startswith(COMPARED)} | swept(run, cfg)


def varied(run: RunFolder, cfg: Train) -> dict[str, Scalar]:
    """What varies, for TensorBoard's table: in a sweep the keys that it searches, else all that is not as the defaults have it.

    Empty where that cannot be found out: a table of keys never fails a run.
    """
    try:
        if found := swept(run, cfg):
            return found
        changed = changes(cfg.model_dump(mode="json"))
    except Exception:
        return {}
    return {name_of(key): scalar(key, value) for key, _, value in changed if value is not ABSENT and value is not None}


def swept(run: RunFolder, cfg: Train) -> dict[str, Scalar]:
    """The keys that the sweep around this run searches; of a config group its choice. Empty where there is no sweep."""
    space = read_json(run.path.parent / "sweep.json").get("space", {})
    if not space:
        return {}
    leaves = dict(flat(cfg.model_dump(mode="json")))
    typed = dict(text.partition("=")[::2] for text in read_lines(run.path / "overrides.yaml"))
    return {key.lstrip("+"): scalar(key, leaves.get(key.lstrip("+"), text)) for key, text in typed.items() if key in space}


def name_of(key: str) -> str:
    return key.removesuffix("._target_")


def scalar(key: str, value: Any) -> Scalar:
    """A value as TensorBoard takes it; of a class its name alone."""
    if key.endswith("._target_"):
        return str(value).rpartition(".")[2]
    return value if isinstance(value, Scalar) else shown(value)
