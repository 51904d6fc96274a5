"""Figures of a sweep by Optuna's own plots, the importance of its keys, and `sweep.html`, one page that needs no other file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial
from optuna.visualization import matplotlib as optuna_plots

from segkit.system.files import atomic_path, write_text_atomic
from segkit.system.page import Table, cells, document, image
from segkit.training.sweeps.results import Sweep, Trial, means_table, trials_csv, trials_table
from segkit.training.sweeps.storage import DIRECTIONS, quiet
from segkit.training.sweeps.ties import tie_line

FEWEST = 10
"""Finished trials below which the importance of keys is not computed: it would be chance."""
TOP = 5
"""Best trials whose values are compared with those of all; a tenth of all where this is more."""
MOST_IN_LEGEND = 20


def draw_sweep(sweep: Sweep) -> list[Path]:
    """Write the figures for which there is something to draw, then trials.csv and sweep.html, into the sweep's folder.

    Figures: history.png, parallel.png, importance.png and curves.png for the first objective, further ones with `_NAME` in the file's
    name; pareto.png for two or three objectives.

    Returns:
        The paths written, the page last.
    """
    quiet()
    shares = importances(sweep)
    written = [_save(sweep, name, plot) for name, plot in _plots(sweep, shares)]
    write_text_atomic(sweep.folder / "trials.csv", trials_csv(sweep))
    write_text_atomic(sweep.folder / "sweep.html", sweep_page(sweep, written))
    return [*written, sweep.folder / "trials.csv", sweep.folder / "sweep.html"]


# --- figures ----------------------------------------------------------------------------------------------------------


def _plots(sweep: Sweep, shares: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, Callable[[], Axes]]]:
    """File name and plot, in the order of the page."""
    suffix = {name: f"_{name}" if i else "" for i, name in enumerate(sweep.objectives)}
    alone = {name: _alone(sweep, i) for i, name in enumerate(sweep.objectives)}
    measured = [name for name, one in alone.items() if np.isfinite([one.score(trial) for trial in one.trials]).any()]
    yield from ((f"history{suffix[name]}", partial(_history, alone[name])) for name in measured)
    if sweep.ranked and 2 <= len(alone) <= 3:
        names = [f"{name} ({mode})" for name, mode in sweep.objectives.items()]
        yield "pareto", partial(optuna_plots.plot_pareto_front, _as_study(sweep), target_names=names)
    if sweep.ranked and sweep.keys:
        yield from ((f"parallel{suffix[name]}", partial(_parallel, one)) for name, one in alone.items())
    yield from ((f"importance{suffix[name]}", partial(_importance, shares[name])) for name in shares)
    yield from ((f"curves{suffix[name]}", partial(_curves, sweep, name)) for name in sweep.metrics)


def _alone(sweep: Sweep, objective: int) -> Sweep:
    """The sweep with one of its objectives."""
    name, mode = list(sweep.objectives.items())[objective]
    trials = [replace(trial, values=trial.values[objective : objective + 1]) for trial in sweep.trials]
    return replace(sweep, objectives={name: mode}, trials=trials)


def _history(sweep: Sweep) -> Axes:
    """The score of each trial and the best so far; the best epochs of unfinished trials; ticks at the bottom where trials failed."""
    ((name, mode),) = sweep.objectives.items()
    axes = optuna_plots.plot_optimization_history(_as_study(sweep), target_name=f"{name} ({mode})")
    for states, marker, color in ((("pruned",), "x", "#999999"), (("running", "interrupted"), "^", "#009e73")):
        known = [(trial.number, sweep.score(trial)) for trial in sweep.of(*states)]
        if np.isfinite([value for _, value in known]).any():
            axes.plot(*zip(*known, strict=True), marker, color=color, label=f"{' or '.join(states)}: best epoch")
    if failed := [trial.number for trial in sweep.of("failed")]:
        bottom = axes.get_xaxis_transform()  # height 0 is the lower edge
        axes.plot(failed, [0] * len(failed), "|", color="#c00000", ms=12, mew=2, label="failed", transform=bottom, clip_on=False)
    axes.legend(bbox_to_anchor=(1.02, 1.0), loc="upper left", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plt.gcf().set_size_inches(9, 4)
    return axes


def _parallel(sweep: Sweep) -> Axes:
    (name,) = sweep.objectives
    axes = optuna_plots.plot_parallel_coordinate(_as_study(sweep, list(sweep.keys)), target_name=name)
    plt.gcf().set_size_inches(max(7.0, 1.7 * len(sweep.keys)), 5)
    return axes


def _importance(shares: Mapping[str, float]) -> Axes:
    """Bars, the greatest on top."""
    _, axes = plt.subplots()
    axes.bar_label(axes.barh(list(shares), list(shares.values())), fmt="%.2f")
    axes.invert_yaxis()
    axes.set_xlabel("importance")
    return axes


def _curves(sweep: Sweep, metric: str) -> Axes:
    """Validation curves of all trials, the best one thick, those that have not finished dotted and thin."""
    _, axes = plt.subplots(figsize=(9, 4.5))
    best = sweep.ranked[0] if sweep.ranked else None
    for trial in sweep.trials:
        is_done = trial.state == "finished"
        remark = " best" if trial is best else "" if is_done else f" {trial.state}"
        width = 3.0 if trial is best else 1.5 if is_done else 1.0
        if curve := trial.curve(metric):
            line, label = ".-" if is_done else ".:", f"Trial{trial.number}{remark}"
            axes.plot(list(curve), list(curve.values()), line, linewidth=width, label=label)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = sorted(axes.lines, key=lambda line: "best" not in str(line.get_label()))[:MOST_IN_LEGEND]
    more = len(axes.lines) - len(handles)
    title = f"and {more} more" if more else None
    axes.legend(handles=handles, bbox_to_anchor=(1.02, 1.0), loc="upper left", fontsize=8, title=title)
    return axes


def _save(sweep: Sweep, name: str, plot: Callable[[], Axes]) -> Path:
    """Draw without a display, and leave pyplot's style as it was."""
    before = plt.get_backend()
    plt.switch_backend("agg")
    try:
        with warnings.catch_warnings(), plt.style.context(["default", "ggplot"]), atomic_path(sweep.folder / f"{name}.png") as temporary:
            warnings.simplefilter("ignore")  # Optuna's plots are marked experimental
            axes = plot()
            axes.set_title("")
            axes.set_title(f"{sweep.name}: {sweep.counts}", fontsize=10, loc="left")
            plt.gcf().savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    finally:
        plt.close("all")
        plt.switch_backend(before)
    return sweep.folder / f"{name}.png"


def _as_study(sweep: Sweep, keys: Sequence[str] = ()) -> optuna.Study:
    """A study in memory with the trials of the sweep under their numbers."""
    study = optuna.create_study(directions=[DIRECTIONS[mode] for mode in sweep.objectives.values()])
    by_number = {trial.number: trial for trial in sweep.trials}
    axes = {key: _distribution(sweep, key) for key in keys if any(key in trial.keys for trial in sweep.trials)}
    for number in range(max(by_number, default=-1) + 1):
        trial = by_number.get(number)
        if trial is None:  # its number is that of another attempt at a trial before it
            study.add_trial(create_trial(state=TrialState.WAITING))
            continue
        state = TrialState.COMPLETE if trial.values else TrialState.PRUNED
        chosen = {key: axis for key, axis in axes.items() if key in trial.keys}
        params = {key: _value(trial.keys[key], axis) for key, axis in chosen.items()}
        study.add_trial(create_trial(state=state, params=params, distributions=chosen, values=trial.values or None))
    return study


def _distribution(sweep: Sweep, key: str) -> BaseDistribution:
    """As searched; choices, and values that no study describes, by their texts."""
    trials = [trial for trial in sweep.trials if key in trial.keys]
    one = trials[0].distributions.get(key)
    if one is None or isinstance(one, CategoricalDistribution):
        return CategoricalDistribution(sorted({trial.keys[key] for trial in trials}))
    return one


def _value(text: str, axis: BaseDistribution) -> str | float:
    return text if isinstance(axis, CategoricalDistribution) else float(text)


# --- importance -------------------------------------------------------------------------------------------------------


def importances(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Objective -> key -> share of the importance. Objectives of which it would mean nothing are left out."""
    found = {name: importance(_alone(sweep, i)) for i, name in enumerate(sweep.objectives)}
    return {name: shares for name, shares in found.items() if shares}


def importance(sweep: Sweep) -> dict[str, float]:
    """Key -> share for the only objective, greatest first; empty where there are few trials, one key, or only equal values.

    PED-ANOVA: Watanabe et al., IJCAI 2023 (fANOVA would need scikit-learn).
    """
    finished = sweep.of("finished")
    n, varied = len(finished), [key for key in sweep.keys if len({trial.keys.get(key) for trial in finished}) > 1]
    if n < FEWEST or len(varied) < 2 or len({trial.values for trial in finished}) < 2:
        return {}
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, n_top(n) / n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(_as_study(replace(sweep, trials=finished), varied), evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: -item[1])) if any(shares.values()) else {}


def n_top(n: int) -> int:
    return max(TOP, math.ceil(n / 10))


# --- the page ---------------------------------------------------------------------------------------------------------

MORE_STYLE = """
body { max-width: 84rem; } td, th { padding-right: 1.1rem; } td { overflow-wrap: normal; white-space: nowrap; }
@media screen { .scroll { max-height: 44rem; overflow: auto; } }
thead th { position: sticky; top: 0; background: var(--paper); cursor: pointer; }
@media (max-width: 30rem) { .scroll img { max-width: none; width: 44rem; } }
tr.front td { font-weight: 600; } .pruned, .waiting { color: var(--soft); } .failed { color: var(--error); } a { color: inherit; }
"""
SORT = """
document.querySelectorAll("thead th").forEach(head => head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, up = head.dataset.up = head.dataset.up === "1" ? "" : "1";
  const key = row => row.cells[column].textContent.replace(/[()]/g, "");
  const compare = (a, b) => a === "" || b === "" ? (a === "") - (b === "")
    : (up ? 1 : -1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b);
  [...body.rows].sort((a, b) => compare(key(a), key(b))).forEach(row => body.append(row));
});
"""
TITLES = {
    "history": ("History", "The result of each trial in the order in which they were drawn."),
    "pareto": ("Pareto front", "Finished trials by their objectives; no other trial is better in all objectives than one on the front."),
    "parallel": ("Parallel coordinates", "One line a finished trial, from its objective to its value of each key."),
    "importance": ("Importance", "Which keys set the best finished trials apart (PED-ANOVA); of few trials much of it is chance."),
    "curves": ("Validation curves", "All trials that have validated an epoch."),
}


def sweep_page(sweep: Sweep, figures: Sequence[Path]) -> str:
    """HTML with the tables and the embedded figures (PNG files known by their names)."""
    title, tie, means = f"Sweep {sweep.name}", tie_line(sweep), means_table(sweep)
    sections = [
        f"<h1>{escape(title)}</h1><p>{escape(sweep.counts)}<br>{escape(space_line(sweep))}</p>",
        f"<h2>Trials</h2>{f'<p>Tie: {escape(tie)}</p>' if tie else ''}{_html(trials_table(sweep), sweep)}",
        f"<h2>Means</h2>{_html(means)}" if means else "",
        *map(_figure, figures),
    ]
    return document(title, sections, MORE_STYLE, SORT)


def space_line(sweep: Sweep) -> str:
    return "; ".join(f"{key}: {text}" for key, text in sweep.space.items())


def _html(table: Table, sweep: Sweep | None = None) -> str:
    """The table; that of a sweep's trials with links to their folders, and the reasons of failures."""
    heads, rows = cells(table, table.headings, "th"), [cells(table, row) for row in table.rows]
    tags = ["<tr>"] * len(rows)
    if sweep:
        heads.append("<th>reason</th>")
        rows = [[*row[:-1], *_links(trial)] for row, trial in zip(rows, sweep.in_order, strict=True)]
        tags = [f'<tr class="{trial.state}{" front" * (sweep.place(trial, 0) == "front")}">' for trial in sweep.in_order]
    lines = "".join(f"{tag}{''.join(row)}</tr>\n" for tag, row in zip(tags, rows, strict=True))
    notes = "; ".join(["click a heading to sort", *table.notes])
    table_html = f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>\n{lines}</tbody></table>"
    return f'<p>{escape(notes)}</p><div class="scroll">{table_html}</div>'


def _links(trial: Trial) -> list[str]:
    """The cells of its folder and page, and of the reason why it failed."""
    folder, link = escape(trial.folder), quote(trial.folder)
    has_traceback = trial.state == "failed" and (trial.path / "traceback.txt").exists()
    traceback = f' <a href="{link}/traceback.txt">traceback.txt</a>' if has_traceback else ""
    page = f' <a href="{link}/report.html">report</a>' if trial.folder and (trial.path / "report.html").exists() else ""
    return [f'<td><a href="{link}/">{folder}</a>{page}</td>' if folder else "<td></td>", f"<td>{escape(trial.reason)}{traceback}</td>"]


def heading_of(figure: Path) -> tuple[str, str]:
    """The heading of a figure of a sweep, and what it shows."""
    name, _, objective = figure.stem.partition("_")
    heading, text = TITLES[name]
    return f"{heading}, {objective}" if objective else heading, text


def _figure(path: Path) -> str:
    heading, text = heading_of(path)
    return f'<h2>{escape(heading)}</h2><p>{escape(text)}</p><div class="scroll">{image(path.read_bytes(), heading)}</div>'
