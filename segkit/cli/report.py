"""`segkit report`: one page of a run, of several runs with their comparison, or of a sweep; a PDF as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segkit.config.commands import Report
from segkit.system.errors import SegkitError
from segkit.system.files import check_writable, write_text_atomic
from segkit.system.page import Picture, Section, Text
from segkit.system.progress import console
from segkit.training.report import report
from segkit.training.report.pdf import write_pdf
from segkit.training.report.runs import Run
from segkit.training.sweeps.plots import draw_sweep, heading_of, space_line
from segkit.training.sweeps.results import Sweep, means_table, read_sweep, trials_table
from segkit.training.sweeps.ties import tie_line


def command(cfg: Report) -> None:
    """Write the page. Raises `SegkitError` for a folder that is neither a run nor a sweep."""
    places = [cfg.runs] if isinstance(cfg.runs, str) else cfg.runs
    if not places:
        raise SegkitError("whose report?   segkit report outputs/EXPERIMENT/RUN")
    output = Path(cfg.output) if cfg.output else None
    if output and output.suffix.lower() not in (".html", ".htm"):
        raise SegkitError(f"output={output} is the file of the page;   output={output.with_suffix('.html')}")
    if output:
        check_writable(output.parent, "choose another  output=FILE")
    sweeps = [Path(place) for place in places if (Path(place) / "sweep.json").is_file()]
    if sweeps and len(places) > 1:
        raise SegkitError(f"{sweeps[0]} is a sweep, which has a page of its own;   segkit report {sweeps[0]}")
    runs = [] if sweeps else [Run.named(place) for place in places]
    for path in report.write(runs, output, cfg.pdf, cfg.allow_targets) if runs else of_sweep(read_sweep(sweeps[0]), output, cfg.pdf):
        console.print(f"report     {path}", markup=False)


def of_sweep(sweep: Sweep, output: Path | None, pdf: bool) -> list[Path]:
    """Write the page that `segkit sweep show` writes as well, to `output` too; the paths written."""
    *figures, _, page = draw_sweep(sweep)
    if output:
        write_text_atomic(output, page.read_text(encoding="utf-8"))
    written = [output or page]
    if pdf:
        written.append(written[0].with_suffix(".pdf"))
        write_pdf(written[1], f"Sweep {sweep.name}", sweep_sections(sweep, figures))
    return written


def sweep_sections(sweep: Sweep, figures: Sequence[Path]) -> list[Section]:
    means, tie = means_table(sweep), tie_line(sweep)
    return [
        Section("", [Text(sweep.counts, "lead"), Text(space_line(sweep)), *([Text(f"Tie: {tie}")] if tie else [])]),
        Section("Trials", [trials_table(sweep)]),
        Section("Means", [means] if means else []),
        *(Section(heading_of(path)[0], [Text(heading_of(path)[1]), Picture("", path.read_bytes())]) for path in figures),
    ]
