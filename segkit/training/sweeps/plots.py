"""`sweep.html`: table and pictures of a sweep as one page that needs nothing else, in light and dark."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from segkit.data.audit.report import STYLE
from segkit.training.sweeps.importance import n_top
from segkit.training.sweeps.names import shown
from segkit.training.sweeps.repeats import Setting, repeats, settings
from segkit.training.sweeps.results import FRONT, Sweep, Trial

MORE_STYLE = """
body { max-width: 84rem; } td, th { padding-right: 1.1rem; } td { overflow-wrap: normal; white-space: nowrap; }
.scroll { max-height: 44rem; overflow: auto; } thead th { position: sticky; top: 0; background: var(--paper); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--bar); }
th[aria-sort] button::after { font-size: .7em; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tr.front td { font-weight: 600; } .pruned, .waiting, .soft { color: var(--soft); } .failed { color: var(--error); }
a { color: inherit; } td.reason { white-space: normal; min-width: 18rem; } img { background: #fff; padding: .5rem; box-sizing: border-box; }
"""
SORT = """
document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const head = button.parentNode, table = head.closest("table"), column = [...head.parentNode.children].indexOf(head);
  const up = head.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.children[column].dataset.v ?? row.children[column].textContent;
  const sign = up ? 1 : -1, last = v => v === "" || v === "nan";
  const compare = (a, b) => last(a) || last(b) ? last(a) - last(b)
    : sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, {numeric: true}) : a - b);
  const body = table.tBodies[0];
  [...body.rows].sort((a, b) => compare(key(a), key(b))).forEach(row => body.append(row));
});
"""
TITLES = {
    "history": ("History", "What each trial has reached, in the order in which they were made."),
    "parallel": ("Parallel coordinates", "A line a trial, from key to key to what it has reached."),
    "importance": (
        "Importance",
        "Of the finished trials alone; it shows what goes with good results, and with few trials much of it is chance.",
    ),
    "curves": ("Validation curves", "Of all trials that have validated an epoch."),
}


def sweep_page(sweep: Sweep, shares: Mapping[str, Mapping[str, float]], pictures: Sequence[Path]) -> str:
    """HTML. `shares`: importance by objective and key; `pictures`: PNG files to embed, known by their names."""
    n = len(sweep.of("finished"))
    told = f"{n_top(n)} of {n} finished trials" if shares else ""
    sections = [
        f"<h1>Sweep {escape(sweep.name)}</h1><p>{escape(sweep.counts)}<br>{escape(space_text(sweep))}</p>",
        f"<h2>Trials</h2><p>{escape(note(sweep))}</p>{trials_table(sweep)}",
        means_table(sweep),
        *(figure(path, told) for path in pictures),
    ]
    title = f"Sweep {escape(sweep.name)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(filter(None, sections))
    style = f"<style>{STYLE}{MORE_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}{style}</head>\n<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n'


def space_text(sweep: Sweep) -> str:
    return "; ".join(f"{key}: {text}" for key, text in sweep.space.items())


def note(sweep: Sweep) -> str:
    lines = ["A click on a heading sorts."]
    if len(sweep.objectives) > 1:
        lines.append("Bold: the front, which no other trial beats in all objectives.")
    if any(not trial.values for trial in sweep.trials):
        lines.append("In brackets: the best epoch of a trial that has not finished.")
    return " ".join(lines)


def trials_table(sweep: Sweep) -> str:
    keys = [(label, key) for key, label in sweep.keys.items()]
    objectives = [f"{name} ({mode})" for name, mode in sweep.objectives.items()] or ["judged by"]
    headings = ["rank", "trial", *objectives, *(label for label, _ in keys), "state", "seconds", "epochs", "folder", "reason"]
    numbers = {"rank", "trial", *objectives, "seconds", "epochs"}
    if not any(trial.reason for trial in sweep.trials):
        headings.remove("reason")
    heads = "".join(
        f'<th scope="col"{CLASS[name in numbers]}><button type="button"{title(name, keys)}>{escape(name)}</button></th>'
        for name in headings
    )
    rows = [row(sweep, trial, rank, "reason" in headings) for rank, trial in enumerate(sweep.in_order, 1)]
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{"".join(rows)}</tbody></table></div>'


CLASS = {True: ' class="number"', False: ""}


def title(label: str, keys: Sequence[tuple[str, str]]) -> str:
    full = dict(keys).get(label)
    return f' title="{escape(full)}"' if full else ""


def row(sweep: Sweep, trial: Trial, rank: int, with_reason: bool) -> str:
    place = sweep.place(trial, rank)
    cells = [number(rank if place else math.nan, place), number(trial.number, str(trial.number))]
    cells += [number(*value(sweep, trial, i)) for i in range(len(sweep.objectives))] or [f"<td>{escape(trial.judged_by)}</td>"]
    cells += [f'<td data-v="{escape(text)}">{escape(shown(text))}</td>' for text in (trial.keys.get(key, "") for key in sweep.keys)]
    cells.append(f'<td class="{trial.state.split()[0]}">{trial.state}</td>')
    cells += [number(trial.seconds, f"{trial.seconds:.0f}"), number(trial.epochs, str(trial.epochs)), f"<td>{link(trial.folder)}</td>"]
    cells += [f'<td class="reason">{reason(trial)}</td>'] if with_reason else []
    return f"<tr{' class=front' * (place == FRONT)}>{''.join(cells)}</tr>\n"


def value(sweep: Sweep, trial: Trial, objective: int) -> tuple[float, str]:
    score, is_final = sweep.score(trial, objective)
    text = "" if math.isnan(score) else f"{score:.4g}"
    return score, text if is_final or not text else f"({text})"


def number(sort_by: float, text: str) -> str:
    return f'<td class="number" data-v="{sort_by!r}">{escape(text)}</td>'


def link(folder: str) -> str:
    return f'<a href="{quote(folder)}/">{escape(folder)}</a>' if folder else ""


def reason(trial: Trial) -> str:
    there = trial.folder and (trial.path / "traceback.txt").exists()
    more = f' <a href="{quote(trial.folder)}/traceback.txt">traceback.txt</a>' if there else ""
    return escape(trial.reason) + more * (trial.state == "failed")


def means_table(sweep: Sweep) -> str:
    """Over seeds and folds; nothing where there are none."""
    found = settings(sweep)
    if not found:
        return ""
    labels = [sweep.keys[key] for key in found[0].keys]
    parts = [heading for name in sweep.objectives for heading in (name, "SD", "n")]
    heads = "".join(f"<th{CLASS[i >= len(labels)]}>{escape(name)}</th>" for i, name in enumerate([*labels, *parts]))
    over = " and ".join(repeats(sweep))
    rows = "".join(f"<tr>{''.join(setting_cells(setting))}</tr>\n" for setting in found)
    return (
        f'<h2>Means over {escape(over)}</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def setting_cells(setting: Setting) -> list[str]:
    cells = [f"<td>{escape(shown(text))}</td>" for text in setting.keys.values()]
    for mean, sd in zip(setting.means, setting.sds, strict=True):
        cells += [number(mean, f"{mean:.4g}"), number(sd, "" if math.isnan(sd) else f"{sd:.2g}"), number(setting.n, str(setting.n))]
    return cells


def figure(path: Path, told: str) -> str:
    heading, text = TITLES[path.stem]
    text = f"What sets the best {told} apart. {text}" if path.stem == "importance" else text
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{heading}</h2><p>{escape(text)}</p><img alt="{heading}" src="data:image/png;base64,{data}">'
