"""Is the data what it seems? Every fault of a data set, each with its file and the line to type, before anything is trained."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
from rich.markup import escape
from rich.text import Text

from segkit.config import schema
from segkit.data.audit.checks import audit
from segkit.data.audit.contact_sheet import contact_sheet
from segkit.data.audit.report import audit_page
from segkit.data.audit.warnings import near_duplicates, suspicions
from segkit.data.case import Manifest, relative
from segkit.data.manifest import find, name_labels
from segkit.data.measures import MEDIAN
from segkit.data.splits import Split, check_split, make_split
from segkit.data.statistics import CaseFacts, data_fingerprint, measure, scan
from segkit.system.environment import Shard
from segkit.system.errors import Problem, ProblemsFound, Severity, raise_errors
from segkit.system.files import CACHE, write_bytes_atomic, write_text_atomic
from segkit.system.progress import console

__all__ = ["CaseFacts", "Prepared", "audit", "command", "data_fingerprint", "prepare", "scan"]

Facts = Mapping[str, CaseFacts]
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_STYLE: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Prepared:
    """A data set that is fit for training: labelled cases, their split, and what reading every file showed."""

    manifest: Manifest
    split: Split
    facts: Facts
    notes: tuple[Problem, ...]
    """Warnings and notes: nothing that stops, but worth saying."""


def prepare(data: schema.Data, split: schema.Split, seed: int, allow: Sequence[str] = (), *, cache_dir: Path) -> Prepared:
    """Open, read, audit, split and check. Raises one ProblemsFound that lists all errors at once."""
    looked = look(data, split, seed, allow, cache_dir)
    raise_errors((*looked.problems, *looked.refused))
    assert looked.split is not None
    notes = tuple(problem for problem in looked.problems if problem.severity != "error")
    return Prepared(looked.labelled, looked.split, looked.facts, notes)


def examine(data: schema.Data, seed: int, allow: Sequence[str] = (), *, cache_dir: Path) -> Manifest:
    """The labelled cases of a data set that only has to be sound, not to be split."""
    looked = look(data, None, seed, allow, cache_dir)
    raise_errors(looked.problems, before="evaluation starts")
    return looked.labelled


@dataclass(frozen=True)
class Looked:
    """All that can be told about a data set, sound or not."""

    manifest: Manifest
    labelled: Manifest
    facts: Facts
    split: Split | None
    problems: tuple[Problem, ...]
    refused: tuple[Problem, ...]
    """Why there is no split."""
    marks: Mapping[str, str]
    """Case id -> a word on why it is worth a look."""


def look(data: schema.Data, split: schema.Split | None, seed: int, allow: Sequence[str], cache_dir: Path) -> Looked:
    """Goes on after every fault, so that all are found."""
    found = find(data, seed, allow, cache_dir)
    facts = scan(found.cases, found.facts_folder(cache_dir))
    labels, label_problems = name_labels(data, found, facts)
    manifest = found.manifest(labels)
    labelled = manifest.labelled()
    suspected = suspicions(manifest, facts)
    problems = [*found.problems, *label_problems, *audit(manifest, facts, tolerant=split is None)]
    made: Split | None = None
    no_split: Sequence[Problem] = ()
    if labelled.cases and split is not None:
        try:
            made = make_split(labelled, split, facts)
            problems += check_split(labelled, made, facts)
            suspected += near_duplicates(labelled, made, facts)
        except ProblemsFound as refused:
            no_split = refused.problems
    problems += [suspicion.problem for suspicion in suspected]
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: _ORDER[problem.severity])
    marks = _in_error(manifest, problems) | {id_: suspicion.mark for suspicion in reversed(suspected) for id_ in suspicion.cases}
    return Looked(manifest, labelled, facts, made, tuple(ordered), tuple(no_split), marks)


def _in_error(manifest: Manifest, problems: Sequence[Problem]) -> dict[str, str]:
    """The cases of the files that problems name."""
    named = {problem.where for problem in problems if problem.severity == "error"}
    return {case.id: "error" for case in manifest if named & {relative(path, manifest.root) for path in case.paths}}


# the command


def command(cfg: schema.Audit) -> int:
    """`segkit audit`: 1 where there are errors. That a sound data set cannot be split by itself is none; a split that was asked for is."""
    part = Shard.named(cfg.part)
    if part is not None:
        return measure_part(cfg, part)
    looked = look(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, CACHE)
    severity: Severity = "warning" if cfg.split.kind == "auto" else "error"
    looked = replace(looked, problems=(*looked.problems, *(replace(problem, severity=severity) for problem in looked.refused)))
    summary = summarize(looked)
    _print(looked, summary)
    if cfg.output is not None:
        folder = Path(cfg.output).expanduser()
        _write(looked, summary, folder)
        console.print(f"written to {folder};   open {folder / 'audit.html'}", markup=False)
    else:
        console.print("output=DIR  keeps this, with pictures of the cases", markup=False)
    return int(any(problem.severity == "error" for problem in looked.problems))


def measure_part(cfg: schema.Audit, part: Shard) -> int:
    """Reads a share of the files for the audit of them all, which finds their facts in the cache."""
    found = find(cfg.data, cfg.seed, cfg.allow_targets, CACHE)
    mine = part.share(found.cases, lambda case: case.volume or case.id)
    facts, _ = measure(mine, folder := found.facts_folder(CACHE))
    unread = sum(bool(fact.errors) for fact in facts.values())
    console.print(
        f"part {part}: {len(mine)} of {len(found.cases)} cases are measured, {unread} of them could not be read; kept in {folder}\n"
        "when all parts have ended, the same command without part audits them all",
        markup=False,
    )
    return 0


def _write(looked: Looked, summary: Mapping[str, Any], folder: Path) -> None:
    content = {**summary, "problems": [problem.as_dict() for problem in looked.problems], "marks": looked.marks}
    write_text_atomic(folder / "audit.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    sheet = contact_sheet(looked.manifest, looked.marks, f"{summary['data']}: {summary['cases']} cases")
    if sheet is not None:
        write_bytes_atomic(folder / "contact_sheet.png", cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    write_text_atomic(folder / "audit.html", audit_page(summary, looked.problems, distributions(looked), sheet))


def distributions(looked: Looked) -> dict[str, list[float]]:
    """What the page shows as histograms, by title; one number a case."""
    sound = [case for case in looked.manifest if not looked.facts[case.id].errors]
    facts = [looked.facts[case.id] for case in sound]
    axes = ("slices", "rows", "columns")[-looked.manifest.dims :]
    shown: dict[str, list[float]] = {name: [f.shape[i] for f in facts] for i, name in enumerate(axes)}
    sizes = [case.pixel_mm for case in sound if case.pixel_mm]
    shown |= {f"size of a pixel, {name}, in mm": [mm[i] for mm in sizes] for i, name in enumerate(axes)}
    channels = max((f.channels for f in facts), default=0)
    for c in range(min(channels, 4)):
        shown[f"median intensity{f', channel {c + 1}' if channels > 1 else ''}"] = [f.quantiles[c][MEDIAN] for f in facts if f.channels > c]
    pixels = [(looked.facts[case.id].class_pixels(looked.manifest.labels), looked.facts[case.id]) for case in sound if case.masks]
    for name in looked.manifest.labels.classes[:8]:
        shown[f"share of {name} in its image, in %"] = [100 * n[name] / max(1, math.prod(f.shape)) for n, f in pixels if n[name]]
    return shown


def summarize(looked: Looked) -> dict[str, Any]:
    """The data set in numbers, JSON-able. Class frequencies: share of all pixels, and of the masks that hold the class."""
    manifest, facts = looked.manifest, looked.facts
    sound = [facts[case.id] for case in manifest if not facts[case.id].errors]
    spacing = [case.pixel_mm for case in manifest if case.pixel_mm]
    split = looked.split
    return {
        "data": manifest.name,
        "root": str(manifest.root),
        "synthetic": manifest.is_phantom,
        "dims": manifest.dims,
        "cases": len(manifest),
        "labelled": len(looked.labelled),
        "groups": len({case.group_or_id for case in manifest}),
        "sizes": {" x ".join(map(str, shape)): n for shape, n in Counter(f.shape for f in sound).most_common()},
        "channels": sorted({f.channels for f in sound}),
        "dtypes": sorted({f.dtype for f in sound}),
        "spacing_mm": {"known": len(spacing), "min": min(map(min, spacing)), "max": max(map(max, spacing))} if spacing else None,
        "labels": manifest.labels.as_dict(),
        "classes": _class_shares(manifest, facts),
        "split": {side: len(split.ids(side)) for side in ("train", "val", "test")} if split else None,
        "excluded": list(split.excluded) if split else [],
        "fingerprint": data_fingerprint(facts),
    }


def _class_shares(manifest: Manifest, facts: Facts) -> dict[str, dict[str, float]]:
    masked = [facts[case.id] for case in manifest if facts[case.id].masks]
    pixels = sum(next(iter(f.masks.values())).pixels for f in masked)
    counted = [f.class_pixels(manifest.labels) for f in masked]
    return {
        name: {
            "pixel_share": sum(c[name] for c in counted) / max(1, pixels),
            "mask_share": sum(c[name] > 0 for c in counted) / max(1, len(counted)),
        }
        for name in manifest.labels.classes
    }


def _print(looked: Looked, summary: Mapping[str, Any]) -> None:
    console.print(f"[bold]{summary['data']}[/] in {escape(summary['root'])}{' (synthetic)' * looked.manifest.is_phantom}")
    for label, text in _summary_lines(summary):
        console.print(f"  {label:<9} {text}", markup=False)
    width = min(max((len(problem.where) for problem in looked.problems), default=0), 44)
    for problem in looked.problems:
        console.print(Text.assemble((f"{problem.severity:<8} ", _STYLE[problem.severity]), f"{problem.where:<{width}}   {problem.what}"))
        if problem.fix:
            console.print(Text(f"{'':<9}{'':<{width}}   -> {problem.fix}"))
    counts = Counter(problem.severity for problem in looked.problems)
    console.print(", ".join(_n(counts[kind], kind) for kind in _ORDER))


def _summary_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = [f"{size} ({n})" for size, n in summary["sizes"].items()]
    more = f" and {len(sizes) - 4} others" if len(sizes) > 4 else ""
    lines = [
        ("cases", f"{summary['cases']}, of these {summary['labelled']} labelled, in {summary['groups']} groups"),
        ("sizes", f"{', '.join(sizes[:4])}{more}   {'slices x ' * (summary['dims'] == 3)}rows x columns"),
        ("pixels", f"{'/'.join(summary['dtypes'])}, channels {', '.join(map(str, summary['channels']))}"),
    ]
    if summary["spacing_mm"]:
        known = summary["spacing_mm"]
        lines.append(("spacing", f"{known['min']:.3g} to {known['max']:.3g} mm (known for {known['known']})"))
    for name, share in summary["classes"].items():
        lines.append(("class", f"{name}: {share['pixel_share']:.1%} of the pixels, in {share['mask_share']:.0%} of the masks"))
    if summary["split"]:
        lines.append(("split", ", ".join(f"{n} {side}" for side, n in summary["split"].items() if n)))
    return lines


def _n(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"
