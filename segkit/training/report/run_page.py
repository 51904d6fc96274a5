"""The page of one run: the question, the curves, the scores, their failures, what it cost, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.data.labels import color_of
from segkit.inference.examples import ERROR_COLORS
from segkit.metrics.base import known_as
from segkit.metrics.summary import Summary, interval, rules_of, unit
from segkit.metrics.table import CaseTable, Row
from segkit.system.page import Block, Code, Facts, Legend, Picture, Section, Table, Text, jpeg
from segkit.system.shell import override
from segkit.training.config_diff import changes, shown
from segkit.training.plots import best_row
from segkit.training.report import charts
from segkit.training.report.runs import STATES, Evaluated, Run

MOST_ROWS = 12
"""Cases in the list of the worst ones."""
THIRDS = ("small", "medium", "large")
"""A third of the structures each, by their size in the ground truth."""
MOST_TRACE = 12
"""Lines of a traceback, the last ones."""


def sections(run: Run) -> list[Section]:
    """The page from top to bottom; what there is nothing to say about is left out."""
    one = run.evaluation
    return [
        Section("", list(head(run))),
        Section("Question", question(run)),
        Section("Learning curves", list(charts.curves(run.columns, run.monitor, run.mode)) if run.columns else []),
        Section("Results", list(results(run))),
        Section("Scores of the cases", list(scores(one)) if one else []),
        Section("Worst and best cases", list(examples(run))),
        Section("Failures", list(failures(one)) if one else []),
        Section("Calibration", list(calibration(run))),
        Section("Time and memory", [Facts(rows) for rows in [costs(run)] if rows]),
        Section("Provenance", [Facts(rows) for rows in [provenance(run)] if rows]),
        Section("Repeat it", [Code(lines) for lines in [commands(run)] if lines]),
    ]


# --- head and question --------------------------------------------------------------------------------------------------


def head(run: Run) -> Iterator[Block]:
    """The result, or why there is none, and what makes it mean less than it says."""
    if run.result_text:
        yield Text(run.result_text, "lead")
    if text_and_kind := STATES.get(run.state):
        text, kind = text_and_kind
        epochs = f" {run.epochs} of {run.section('trainer').get('max_epochs', '?')} epochs have ended." if run.epochs else ""
        yield Text(f"{text}{epochs}", kind)
    if trace := str(run.status.get("traceback", "")).strip():
        yield Code(trace.splitlines()[-MOST_TRACE:])
    if run.provenance.get("data", {}).get("is_phantom"):
        yield Text("Trained and evaluated on synthetic images: says nothing about patients.", "warning")


def question(run: Run) -> list[Block]:
    changed = [[key, shown(usual), shown(value)] for key, usual, value in changes(run.config)]
    blocks: list[Block] = [Facts([(name, text) for name, text in facts(run) if text])]
    if changed:
        blocks.append(Table(["key", "default", "this run"], [], changed, ["What the config sets otherwise than the defaults:"]))
    return blocks


def facts(run: Run) -> list[tuple[str, str]]:
    data = run.provenance.get("data", {})
    n_cases = f"{data['cases']} cases in {data['root']}" if "cases" in data and "root" in data else ""
    own = run.section("module").get("_target_", "")
    parts = [] if data.get("own_module") else facts_of_parts(run)
    epochs, batch = run.section("trainer").get("max_epochs"), run.section("data").get("batch_size")
    return [
        ("Data", "; ".join(filter(None, [run.section("data").get("target") or named(run.section("data").get("source")), n_cases]))),
        ("Split", split_text(run)),
        ("Classes", ", ".join(run.evaluation.table.classes) if run.evaluation else ""),
        ("LightningModule", str(own)),
        *parts,
        ("Parameters", str(run.parameters or "")),
        ("Epochs", f"{epochs}, batches of {batch}, seed {run.config.get('seed')}" if epochs and batch else ""),
        ("Best epoch", best_epoch(run)),
    ]


def facts_of_parts(run: Run) -> list[tuple[str, str]]:
    """What segkit's own LightningModule is made of."""
    optimizer, schedule = run.section("optimizer"), run.section("scheduler")
    return [
        ("Network", named(run.section("model"))),
        ("Loss", " + ".join(named(part) for part in (run.section("loss").get("parts") or {}).values() if part)),
        ("Optimizer", ", ".join(filter(None, [named(optimizer), number("lr", optimizer), number("weight_decay", optimizer)]))),
        ("Schedule", str(schedule.get("name") or named(schedule))),
    ]


def number(key: str, node: Mapping[str, Any]) -> str:
    return f"{key} {shown(node[key])}" if node.get(key) is not None else ""


def named(node: Any) -> str:
    """The class that a node of the config names, without its package."""
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def split_text(run: Run) -> str:
    sizes = [f"{len(run.split[name])} {verb}" for name, verb in (("train", "to train"), ("val", "to validate"), ("test", "to test"))
             if run.split.get(name)]  # fmt: skip
    section = run.section("split")
    kind = f"{section.get('kind')}" + (
        f", fold {section.get('fold')} of {section.get('n_folds')}" if section.get("kind") == "kfold" else ""
    )
    return f"{', '.join(sizes)} ({kind})" if sizes else ""


def best_epoch(run: Run) -> str:
    name = known_as(f"val/{run.monitor}", run.columns)
    row = best_row(run.columns, name, run.mode)
    return "" if row is None else f"{run.columns['epoch'][row]:.0f}, by {name} {run.columns[name][row]:.4g}"


# --- results ------------------------------------------------------------------------------------------------------------


def results(run: Run) -> Iterator[Block]:
    for one in [*([run.evaluation] if run.evaluation else []), *run.others]:
        title = "" if one is run.evaluation else f"{one.name}: "
        yield summary_table(one.summary, title)


def summary_table(summary: Summary, title: str = "") -> Table:
    """The table that a training prints, with the rules above it."""
    rows = []
    for line in summary.shown():
        as_text = unit(line.statistic)
        numbers = [as_text(line.mean), interval(line), as_text(line.median), as_text(line.sd), str(line.n), str(line.missing)]
        rows.append([line.subset, line.class_name, line.statistic, *numbers])
    rules = [f"{', '.join(names)}: {rule}" for rule, names in rules_of(summary.lines).items()]
    notes = [f"{title}mean with its 95 % interval (bootstrap over groups); n cases, missing ones apart.", *rules]
    numeric = ["mean", "95 % interval", "median", "SD", "n", "missing"]
    return Table(["subset", "class", "metric", *numeric], numeric, rows, notes)


def scores(one: Evaluated) -> Iterator[Block]:
    """Every case as a dot, and the lowest ones by name."""
    table = validation_rows(one.table)
    for column in table.columns[:2]:
        yield charts.distribution(table, column)
    if table.columns:
        column = table.columns[0]
        known = sorted((row for row in table.rows if row.values.get(column) == row.values.get(column)), key=lambda row: row.values[column])
        rows = [[row.case, row.class_name, unit(column)(row.values[column]), str(row.n_truth_px), str(row.n_pred_px)] for row in known]
        numeric = [column, "pixels", "predicted"]
        yield Table(
            ["case", "class", *numeric], numeric, rows[:MOST_ROWS], [f"Lowest {column}, {min(MOST_ROWS, len(rows))} of {len(rows)}:"]
        )


def validation_rows(table: CaseTable) -> CaseTable:
    """Those of the first subset, which is never mixed with another."""
    return CaseTable(tuple(row for row in table.rows if row.subset == table.rows[0].subset), table.statistics)


def examples(run: Run) -> Iterator[Block]:
    """Pictures of the worst and best cases; of a run that was stopped, the few of samples.png."""
    for kind in ("worst", "best"):
        for one in (one for one in run.examples if one.kind == kind):
            yield Picture(f"{kind}: {one.case}, {one.metric} {one.score:.3f}", one.path.read_bytes())
    if run.examples:
        classes = run.evaluation.table.classes if run.evaluation else ()
        yield Legend("Left: prediction solid, ground truth dashed.", {name: color_of(k) for k, name in enumerate(classes)})
        yield Legend("Right: wrong pixels.", ERROR_COLORS)
    elif (path := run.path / "samples.png").is_file():
        yield Picture("Validation images: prediction solid, ground truth dashed", smaller(path))


def smaller(path: Path, width: int = 1100) -> bytes:
    """A picture as a JPEG no wider than a page."""
    image = cv2.imread(str(path))
    if image is None:
        return path.read_bytes()
    scale = min(1.0, width / image.shape[1])
    return jpeg(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1])


# --- failures -----------------------------------------------------------------------------------------------------------


def failures(one: Evaluated) -> Iterator[Block]:
    """By class: structures missed as a whole, found where none is, and the mean of small, medium and large ones."""
    table = validation_rows(one.table)
    if not table.columns or not table.rows:
        return
    column = table.columns[0]
    numeric = ["missed", "of", "invented", "of ", *(f"{column}, {name}" for name in THIRDS)]
    notes = [
        "missed: structures of which nothing was found; invented: found in cases without the structure;",
        f"{', '.join(THIRDS)}: mean of a third of the structures each, by their size in the ground truth.",
    ]
    yield Table(["class", *numeric], numeric, [failure_row(table, name, column) for name in table.classes], notes)
    if sum(row.n_truth_px > 0 for row in table.rows) > 1:
        yield charts.by_size(table, column)


def failure_row(table: CaseTable, class_name: str, column: str) -> list[str]:
    rows = [row for row in table.rows if row.class_name == class_name]
    present, absent = [row for row in rows if row.n_truth_px], [row for row in rows if not row.n_truth_px]
    missed, invented = sum(not row.n_pred_px for row in present), sum(row.n_pred_px > 0 for row in absent)
    counts = [str(missed), str(len(present)), str(invented), str(len(absent))]
    return [class_name, *counts, *(unit(column)(mean) for mean in means_by_third(present, column))]


def means_by_third(rows: Sequence[Row], column: str) -> list[float]:
    """NaN of a third that holds no value."""
    ranked = sorted(rows, key=lambda row: row.n_truth_px)
    parts = [[row.values.get(column, math.nan) for row in ranked[len(ranked) * i // 3 : len(ranked) * (i + 1) // 3]] for i in range(3)]
    known = [[value for value in part if value == value] for part in parts]
    return [float(np.mean(part)) if part else math.nan for part in known]


def calibration(run: Run) -> Iterator[Block]:
    known = run.calibration.known
    if not known:
        return
    errors = ", ".join(f"{name} {counts.expected_error:.4f}" for name, counts in known.items())
    yield Text(f"Expected calibration error over the pixels of the validation cases: {errors}.")
    yield from (charts.reliability(run.calibration), charts.precision_recall(run.calibration))


# --- costs and provenance -----------------------------------------------------------------------------------------------


def costs(run: Run) -> list[tuple[str, str]]:
    a_epoch = f"{run.seconds / run.epochs:.1f} s, validation included" if run.epochs else ""
    speed, memory = run.status.get("images_per_second"), run.status.get("memory_gb")
    rows = [
        ("Training", f"{run.time}, {run.epochs} epochs" if run.epochs else ""),
        ("An epoch", a_epoch),
        ("Images per second", f"{speed:.1f} in training" if isinstance(speed, float) else ""),
        ("Memory", ", ".join(f"{gb:.2f} GB of {what}" for what, gb in memory.items()) + " at most" if isinstance(memory, dict) else ""),
        ("Began", str(run.status.get("started", ""))),
        ("Last change", str(run.status.get("changed", ""))),
    ]
    return [row for row in rows if row[1]]


def provenance(run: Run) -> list[tuple[str, str]]:
    data, rows = run.provenance.get("data", {}), []
    rows += [(name, str(data[key])) for name, key in (("Data fingerprint", "fingerprint"), ("File list", "manifest")) if key in data]
    rows += [("Split", str(run.split["manifest_hash"]))] if run.split.get("manifest_hash") else []
    for i, session in enumerate(run.sessions):
        git, packages = session.get("git"), session.get("packages", {})
        again = f" ({i + 1})" if len(run.sessions) > 1 else ""
        commit = f"{git['commit']}{', with uncommitted changes' if git.get('dirty') else ''}" if git else "no repository"
        rows += [
            (f"Session{again}", f"{session.get('when', '')} on {session.get('host', '')}, {session.get('platform', '')}"),
            ("Hardware", str(session.get("hardware", ""))),
            ("Git commit", commit),
            ("Versions", ", ".join([f"python {session.get('python', '')}", *(f"{name} {of}" for name, of in packages.items())])),
        ]
    return [row for row in rows if row[1]]


def commands(run: Run) -> list[str]:
    """What was typed, and what can be typed about the run now."""
    allow, data = run.config.get("allow_targets") or [], run.provenance.get("data", {})
    ckpt, permission = override("ckpt", str(run.path)), f" {override('allow_targets', allow)}" if allow else ""
    lines = [run.folder.command()] if run.overrides else []
    if run.state in ("interrupted", "failed", "killed"):
        lines.append(run.folder.how_to_resume(allow))
    is_ours = not data.get("own_module") and "datamodule" not in data  # segkit opens no other checkpoints
    if run.folder.best.exists() and is_ours:
        lines += [f"segkit evaluate {ckpt}{permission}", f"segkit predict {ckpt} input=IMAGES output=MASKS{permission}"]
    return lines
