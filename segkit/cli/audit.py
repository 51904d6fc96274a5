"""`segkit audit`: check a data set and print each problem with its fix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
from rich.markup import escape
from rich.text import Text

from segkit.config import commands
from segkit.data.audit import pairs
from segkit.data.audit.audit import SEVERITIES, AuditResult, inspect
from segkit.data.audit.report import audit_page, contact_sheet, distributions, summarize, summary_rows
from segkit.data.manifest import find
from segkit.data.statistics import scan
from segkit.system.environment import Shard
from segkit.system.errors import Severity
from segkit.system.files import CACHE, cache_folder, check_writable, write_bytes_atomic, write_text_atomic
from segkit.system.progress import console

_STYLE: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


def command(cfg: commands.Audit) -> int:
    """Return 1 where there are errors. A missing split is an error only if `split` asked for one."""
    part = Shard.named(cfg.part)
    if part is not None:
        return measure_shard(cfg, part)
    if cfg.output is not None:
        check_writable(Path(cfg.output).expanduser(), "choose another  output=FOLDER")
    result = inspect(cfg.data, cfg.split, cfg.seed, cfg.allow_targets, cache_folder())
    severity: Severity = "warning" if cfg.split.kind == "auto" else "error"
    result = replace(result, problems=(*result.problems, *(replace(problem, severity=severity) for problem in result.split_problems)))
    summary = summarize(result)
    _print(result, summary)
    if cfg.output is not None:
        folder = Path(cfg.output).expanduser()
        _write(result, summary, folder)
        console.print(f"written to {folder};   open {folder / 'audit.html'}", markup=False)
    else:
        console.print("output=DIR  writes this as a report, with figures of the cases", markup=False)
    return int(any(problem.severity == "error" for problem in result.problems))


def measure_shard(cfg: commands.Audit, part: Shard) -> int:
    """Read one share of the files; the audit of all finds their statistics in the cache."""
    check_writable(CACHE, "the parts of an audit are kept there: run it in a folder that can be written")
    found = find(cfg.data, cfg.seed, cfg.allow_targets, CACHE)
    folder = found.statistics_folder(CACHE)
    mine = part.share(found.cases, lambda case: case.volume or case.id)
    unread = sum(bool(stats.errors) for stats in scan(mine, folder, compact=False).values())
    console.print(
        f"part {part}: {len(mine)} of {len(found.cases)} cases are measured, {unread} of them could not be read; kept in {folder}\n"
        "when all parts are done, run the same command without part to audit them all",
        markup=False,
    )
    return 0


def _write(result: AuditResult, summary: Mapping[str, Any], folder: Path) -> None:
    content = {**summary, "problems": [problem.as_dict() for problem in result.problems], "marks": result.marks}
    content["alike"] = pairs.rows_of(result.pairs, result.split)
    write_text_atomic(folder / "audit.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    sheet = contact_sheet(result.manifest, result.marks, f"{summary['data']}: {summary['cases']} cases")
    if sheet is not None:
        write_bytes_atomic(folder / "contact_sheet.png", cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    alike = pairs.section(result.manifest, result.pairs, result.split)
    write_text_atomic(folder / "audit.html", audit_page(summary, result.problems, distributions(result), sheet, alike))


def _print(result: AuditResult, summary: Mapping[str, Any]) -> None:
    console.print(f"[bold]{summary['data']}[/] in {escape(summary['root'])}{' (synthetic)' * result.manifest.is_phantom}")
    classes = [
        ("Class", f"{name}: {share['pixel_share']:.1%} of the pixels, in {share['mask_share']:.0%} of the masks")
        for name, share in summary["classes"].items()
    ]
    for label, text in (*summary_rows(summary), *classes):
        console.print(f"  {label.lower():<11} {text}", markup=False)
    width = min(max((len(problem.where) for problem in result.problems), default=0), 44)
    for problem in result.problems:
        told = Text.assemble((f"{problem.severity:<8} ", _STYLE[problem.severity]), f"{problem.where:<{width}}   {problem.what}")
        console.print(told, soft_wrap=True)
        if problem.fix:  # not broken into lines, so that it can be copied
            console.print(Text(f"{'':<9}{'':<{width}}   -> {problem.fix}"), soft_wrap=True)
    counts = Counter(problem.severity for problem in result.problems)
    console.print(", ".join(f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}" for kind in SEVERITIES))
