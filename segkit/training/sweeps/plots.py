"""Figures of a sweep by Optuna's own plots, the importance of its keys, and `sweep.html`, one page that needs no other file."""

from __future__ import annotations

import base64
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

from segkit.data.audit.report import STYLE
from segkit.system.files import atomic_path, write_text_atomic
from segkit.training.sweeps.results import FRONT, Sweep, Trial
from segkit.training.sweeps.storage import DIRECTIONS, quiet
from segkit.training.sweeps.tables import Table, means_table, trials_csv, trials_table

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
    suffix = {name: f"_{name}" if i else "" for i, name in enumerate(dict.fromkeys([*sweep.objectives, *sweep.metrics]))}
    alone = {name: _alone(sweep, i) for i, name in enumerate(sweep.objectives)}
    measured = [name for name, one in alone.items() if np.isfinite([one.score(trial, 0)[0] for trial in one.trials]).any()]
    yield from ((f"history{suffix[name]}", partial(_history, alone[name])) for name in measured)
    if sweep.ranked and 2 <= len(alone) <= 3:
        yield "pareto", partial(_pareto, sweep)
    if sweep.ranked and sweep.keys:
        yield from ((f"parallel{suffix[name]}", partial(_parallel, one)) for name, one in alone.items())
    yield from ((f"importance{suffix[name]}", partial(_importance, alone[name])) for name in shares)
    yield from ((f"curves{suffix[name]}", partial(_curves, sweep, name)) for name in sweep.metrics)


def _alone(sweep: Sweep, objective: int) -> Sweep:
    """The sweep with one of its objectives."""
    name, mode = list(sweep.objectives.items())[objective]
    trials = [replace(trial, values=trial.values[objective : objective + 1]) for trial in sweep.trials]
    return replace(sweep, objectives={name: mode}, trials=trials)


def _history(sweep: Sweep) -> Axes:
    """What each trial has reached and the best so far; the best epochs of unfinished trials; ticks at the bottom where trials failed."""
    ((name, mode),) = sweep.objectives.items()
    axes = optuna_plots.plot_optimization_history(_as_study(sweep, []), target_name=f"{name} ({mode})")
    for states, marker, color in ((("pruned",), "x", "#999999"), (("running", "interrupted"), "^", "#009e73")):
        known = [(trial.number, sweep.score(trial, 0)[0]) for trial in sweep.of(*states)]
        if np.isfinite([value for _, value in known]).any():
            axes.plot(*zip(*known, strict=True), marker, color=color, label=f"{' or '.join(states)}: best epoch")
    if failed := [trial.number for trial in sweep.of("failed")]:
        bottom = axes.get_xaxis_transform()  # height 0 is the lower edge
        axes.plot(failed, [0] * len(failed), "|", color="#c00000", ms=12, mew=2, label="failed", transform=bottom, clip_on=False)
    axes.legend(bbox_to_anchor=(1.02, 1.0), loc="upper left", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plt.gcf().set_size_inches(9, 4)
    return axes


def _pareto(sweep: Sweep) -> Axes:
    names = [f"{name} ({mode})" for name, mode in sweep.objectives.items()]
    return optuna_plots.plot_pareto_front(_as_study(sweep, []), target_names=names)


def _parallel(sweep: Sweep) -> Axes:
    (name,) = sweep.objectives
    axes = optuna_plots.plot_parallel_coordinate(_as_study(sweep, list(sweep.keys)), target_name=name)
    plt.gcf().set_size_inches(max(7.0, 1.7 * len(sweep.keys)), 5)
    return axes


def _importance(sweep: Sweep) -> Axes:
    ((name, _),) = sweep.objectives.items()
    study, evaluator = _importance_study(sweep)
    return optuna_plots.plot_param_importances(study, evaluator=evaluator, target_name=name)


def _curves(sweep: Sweep, metric: str) -> Axes:
    """Validation curves of all trials, the best one thick, those that have not finished dotted and thin."""
    axes = optuna_plots.plot_intermediate_values(_as_study(sweep, [], metric))
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plt.gcf().set_size_inches(9, 4.5)
    best = sweep.ranked[0].number if sweep.ranked and sweep.objectives else None
    states = {f"Trial{trial.number}": trial.state for trial in sweep.trials}
    for line in axes.lines:
        state = states[str(line.get_label())]
        if state != "finished":
            line.set(linestyle=":", linewidth=1.0, label=f"{line.get_label()} {state}")
        elif line.get_label() == f"Trial{best}":
            line.set(linewidth=3.0, label=f"{line.get_label()} best")
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
        with warnings.catch_warnings(), plt.style.context("default"), atomic_path(sweep.folder / f"{name}.png") as temporary:
            warnings.simplefilter("ignore")  # Optuna's plots are marked experimental
            axes = plot()
            axes.set_title("")
            axes.set_title(f"{sweep.name}: {sweep.counts}", fontsize=10, loc="left")
            plt.gcf().savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    finally:
        plt.close("all")
        plt.switch_backend(before)
    return sweep.folder / f"{name}.png"


def _as_study(sweep: Sweep, keys: Sequence[str], metric: str = "") -> optuna.Study:
    """A study in memory with the trials of the sweep under their numbers; intermediate values are the curves of `metric`."""
    study = optuna.create_study(directions=[DIRECTIONS[mode] for mode in sweep.objectives.values()] or ["maximize"])
    by_number = {trial.number: trial for trial in sweep.trials}
    axes = {key: _distribution(sweep, key) for key in keys}
    for number in range(max(by_number, default=-1) + 1):
        trial = by_number.get(number)
        if trial is None:  # its number is that of another attempt at a trial before it
            study.add_trial(create_trial(state=TrialState.WAITING))
            continue
        chosen = {key: axis for key, axis in axes.items() if key in trial.keys}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if trial.values else TrialState.PRUNED,
                params={key: _value(trial.keys[key], axis) for key, axis in chosen.items()},
                distributions=chosen,
                values=trial.values or None,
                intermediate_values=trial.curve(metric),
            )
        )
    return study


def _distribution(sweep: Sweep, key: str) -> BaseDistribution:
    """As searched; choices, and values that no study describes, by their texts."""
    known = {trial.distributions.get(key) for trial in sweep.trials if key in trial.keys}
    one = known.pop() if len(known) == 1 else None
    if one is None or isinstance(one, CategoricalDistribution):
        return CategoricalDistribution(sorted({trial.keys[key] for trial in sweep.trials if key in trial.keys}))
    return one


def _value(text: str, axis: BaseDistribution) -> str | float:
    return text if isinstance(axis, CategoricalDistribution) else float(text)


# --- importance -------------------------------------------------------------------------------------------------------


def importances(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Objective -> key -> share of the importance, greatest first. Objectives of which it would mean nothing are left out.

    PED-ANOVA: Watanabe et al., IJCAI 2023 (fANOVA would need scikit-learn).
    """
    found = {name: importance(_alone(sweep, i)) for i, name in enumerate(sweep.objectives)}
    return {name: shares for name, shares in found.items() if shares}


def importance(sweep: Sweep) -> dict[str, float]:
    """Of one objective; empty where there are few trials, one key, or only equal values."""
    finished = [trial for trial in sweep.of("finished") if trial.values]
    varied = [key for key in sweep.keys if len({trial.keys.get(key) for trial in finished}) > 1]
    if len(finished) < FEWEST or len(varied) < 2 or len({trial.values for trial in finished}) < 2:
        return {}
    study, evaluator = _importance_study(sweep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: -item[1])) if any(shares.values()) else {}


def _importance_study(sweep: Sweep) -> tuple[optuna.Study, PedAnovaImportanceEvaluator]:
    """Finished trials and their varied keys."""
    finished = replace(sweep, trials=[trial for trial in sweep.of("finished") if trial.values])
    varied = [key for key in sweep.keys if len({trial.keys.get(key) for trial in finished.trials}) > 1]
    n = len(finished.trials)
    return _as_study(finished, varied), PedAnovaImportanceEvaluator(target_quantile=max(0.1, n_top(n) / n))


def n_top(n: int) -> int:
    return max(TOP, math.ceil(n / 10))


# --- the page ---------------------------------------------------------------------------------------------------------

MORE_STYLE = """
body { max-width: 84rem; } td, th { padding-right: 1.1rem; } td { overflow-wrap: normal; white-space: nowrap; }
.scroll { max-height: 44rem; overflow: auto; } thead th { position: sticky; top: 0; background: var(--paper); cursor: pointer; }
tr.front td { font-weight: 600; } .pruned, .waiting { color: var(--soft); } .failed { color: var(--error); } a { color: inherit; }
img { background: #fff; padding: .5rem; box-sizing: border-box; }
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
    title = f"Sweep {escape(sweep.name)}"
    space = "; ".join(f"{key}: {text}" for key, text in sweep.space.items())
    trials, means = trials_table(sweep), means_table(sweep)
    tags = [f'<tr class="{"front" * (sweep.place(trial, 0) == FRONT)}">' for trial in sweep.in_order]
    sections = [
        f"<h1>{title}</h1><p>{escape(sweep.counts)}<br>{escape(space)}</p>",
        f"<h2>Trials</h2>{_html(trials, tags, sweep.in_order)}",
        f"<h2>Means</h2>{_html(means, ['<tr>'] * len(means.rows))}" if means else "",
        *map(_figure, figures),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(filter(None, sections))
    style = f"<style>{STYLE}{MORE_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}{style}</head>\n<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n'


def _html(table: Table, tags: Sequence[str], trials: Sequence[Trial] = ()) -> str:
    """The table; of trials with links to their folders, and the reasons of failures."""
    has_reasons = any(trial.reason for trial in trials)
    headings = [*table.headings, *(["reason"] if has_reasons else [])]
    heads = "".join(f"<th{_number(heading, table)}>{escape(heading)}</th>" for heading in headings)
    rows = []
    for i, (tag, row) in enumerate(zip(tags, table.rows, strict=True)):
        cells = [f"<td{_number(h, table)}>{escape(text)}</td>" for h, text in zip(table.headings, row, strict=True)]
        if trials:
            trial = trials[i]
            cells[-1] = f'<td><a href="{quote(trial.folder)}/">{escape(trial.folder)}</a></td>' if trial.folder else "<td></td>"
            cells[table.headings.index("state")] = f'<td class="{trial.state}">{trial.state}</td>'
            cells += [f"<td>{_reason(trial)}</td>"] if has_reasons else []
        rows.append(f"{tag}{''.join(cells)}</tr>\n")
    notes = "; ".join(["click a heading to sort", *table.notes])
    table_html = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{''.join(rows)}</tbody></table>"
    return f'<p>{escape(notes)}</p><div class="scroll">{table_html}</div>'


def _number(heading: str, table: Table) -> str:
    return ' class="number"' if heading in table.numbers else ""


def _reason(trial: Trial) -> str:
    has_traceback = trial.state == "failed" and trial.folder and (trial.path / "traceback.txt").exists()
    return escape(trial.reason) + (f' <a href="{quote(trial.folder)}/traceback.txt">traceback.txt</a>' if has_traceback else "")


def _figure(path: Path) -> str:
    name, _, objective = path.stem.partition("_")
    heading, text = TITLES[name]
    heading = escape(f"{heading}, {objective}" if objective else heading)
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{heading}</h2><p>{escape(text)}</p><img alt="{heading}" src="data:image/png;base64,{data}">'
