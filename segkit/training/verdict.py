"""A remark on a finished training whose monitored score never moved."""

from __future__ import annotations

import numpy as np

from segkit.config.schema import Train
from segkit.metrics.base import known_as
from segkit.metrics.table import CaseTable
from segkit.training.plots import Columns, read_columns
from segkit.training.run_folder import RunFolder

SHOWN = 5e-5
"""Scores that differ by less are printed alike."""


def unmoved(run: RunFolder, cfg: Train, table: CaseTable) -> list[str]:
    """Lines that say so, with the likely cause, where two or more validations gave the same score, and not the best possible one."""
    columns = read_columns(run.path / "metrics.csv")
    name = known_as(f"val/{cfg.metric.monitor}", columns)
    if name not in columns:
        return []  # trainer.limit_val_batches=0
    values = columns[name][np.isfinite(columns[name])]
    is_perfect = len(values) > 0 and bool(values[0] > 1 - SHOWN if cfg.metric.mode == "max" else values[0] < SHOWN)
    if len(values) < 2 or np.ptp(values) >= SHOWN or is_perfect:
        return []
    what = f"{name} was {values[0]:.4f} in all {len(values)} validations: the network learned nothing that it measures"
    return [f"warning    {what}", f"           {cause(columns, run, cfg, table)}"]


def cause(columns: Columns, run: RunFolder, cfg: Train, table: CaseTable) -> str:
    """The likely one, and what to type."""
    losses, lr = columns["train/loss"], float(cfg.optimizer.get("lr") or 0)
    rates = run.command("-m", f"optimizer.lr={lr / 10:g},{lr * 10:g}") if lr else "another learning rate"
    if losses[-1] > 0.98 * losses[0]:
        return f"the training loss did not fall either ({losses[0]:.4g} to {losses[-1]:.4g});   try  {rates}"
    if not any(row.n_pred_px for row in table.rows):
        return f"every predicted mask is empty;   train for longer, or try  loss=dice_focal  or  {rates}"
    return f"the training loss fell;   compare masks and predictions in {run.path / 'samples.png'}"
