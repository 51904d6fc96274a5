"""A run's row in TensorBoard's HPARAMS tab: its hyper-parameters beside its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as summaries

from segkit.config.schema import Train
from segkit.metrics.summary import OVERALL, Summary
from segkit.system.files import read_json
from segkit.training.plots import best_row, read_columns
from segkit.training.run_folder import RunFolder

Scalar = str | int | float | bool


def record_hparams(run: Path, cfg: Train, summary: Summary | None = None) -> None:
    """Write the hyper-parameters of a run with its final metrics. A pruned run has no summary, only its best epoch.

    Lightning's `log_hyperparams` would make the columns of one run those of all runs; here TensorBoard collects them.
    """
    lines = (line for line in reversed(summary.lines) if line.class_name == OVERALL) if summary else ()
    metrics = best_epoch(run, cfg.metric.monitor, cfg.metric.mode) | {f"final/{line.statistic}": line.mean for line in lines}
    *_, session_start, session_end = summaries(hparams(cfg) | searched(run, cfg), metrics)  # type: ignore[no-untyped-call]
    with SummaryWriter(RunFolder(run).events) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value)
        for session in (session_start, session_end):
            writer.file_writer.add_summary(session)


def best_epoch(run: Path, monitor: str, mode: str) -> dict[str, float]:
    if not (run / "metrics.csv").exists():
        return {}
    columns = read_columns(run / "metrics.csv")
    row = best_row(columns, f"val/{monitor}", mode)
    return {} if row is None else {f"best/{monitor}": float(columns[f"val/{monitor}"][row])}


def hparams(cfg: Train) -> dict[str, Scalar]:
    """The scalars that people compare runs by: `model.widths`, `optimizer.lr`, `data.batch_size` and so on."""
    sections = ("model", "optimizer", "scheduler", "preprocess", "loss")
    tree = cfg.model_dump(mode="json")
    chosen = {name: tree[name] for name in sections} | {"seed": cfg.seed, "data": {"batch_size": cfg.data.batch_size}}
    return dict(leaves(chosen))


def searched(run: Path, cfg: Train) -> dict[str, Scalar]:
    """The keys that the sweep around this run searches, wherever in the config they are; of a group its choice."""
    space, tree = read_json(run.parent / "sweep.json").get("space", {}), cfg.model_dump(mode="json")
    typed = dict(text.split("=", 1) for text in yaml.safe_load((run / "overrides.yaml").read_text()) if "=" in text and space)
    return {key.lstrip("+"): value_at(tree, key.lstrip("+"), text) for key, text in typed.items() if key in space}


def value_at(tree: Any, key: str, otherwise: str) -> Scalar:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Scalar) else otherwise


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif key == "_target_":
            yield prefix.rstrip("."), value.rpartition(".")[2]
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool) else str(value)
