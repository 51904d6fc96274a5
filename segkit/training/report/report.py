"""Write the report of runs: `report.html` in a run folder, one page of several runs, and the same as a PDF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segkit.system.errors import first_line
from segkit.system.files import write_text_atomic
from segkit.system.page import Section, html
from segkit.system.progress import console
from segkit.training.report import run_page, runs_page
from segkit.training.report.runs import Run
from segkit.training.sweeps.names import clean

PAGE = "report.html"
MOST_LETTERS = 80


def write(runs: Sequence[Run], output: Path | None = None, pdf: bool = False, allow: Sequence[str] = ()) -> list[Path]:
    """Write the page of one run, or of several with their comparison.

    Args:
        runs: In the order of the page.
        output: The file; None: report.html in the folder of the one run, beside several `report_A_B.html`.
        pdf: Whether to write the same as a PDF beside it.
        allow: Packages whose metrics the runs may name.

    Returns:
        The paths written.

    Raises:
        SegkitError: A file of a run is damaged.
    """
    sections = run_page.sections(runs[0]) if len(runs) == 1 else runs_page.sections(runs, allow)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    return save(output or place_of(runs), title, sections, pdf)


def save(path: Path, title: str, sections: Sequence[Section], pdf: bool) -> list[Path]:
    write_text_atomic(path, html(title, sections))
    if not pdf:
        return [path]
    from segkit.training.report.pdf import write_pdf  # here: it is seldom asked for

    write_pdf(path.with_suffix(".pdf"), title, sections)
    return [path, path.with_suffix(".pdf")]


def place_of(runs: Sequence[Run]) -> Path:
    """Where the page of these runs goes by itself."""
    if len(runs) == 1:
        return runs[0].path / PAGE
    folders = [run.path.absolute() for run in runs]
    home = next(parent for parent in folders[0].parents if all(parent in folder.parents for folder in folders))
    names = [clean(str(folder.relative_to(home))) for folder in folders]
    return home / f"report_{'_'.join(names)[:MOST_LETTERS]}.html"


@contextmanager
def leaving_report(folder: Path) -> Iterator[None]:
    """Leave the page of the training within, however that ends, in its run folder."""
    try:
        yield
    finally:
        _leave(folder)


def _leave(folder: Path) -> None:
    """What goes wrong is printed in one line: the training is what counts."""
    if not (folder / "config.yaml").is_file():
        return
    try:
        write([Run(folder)])
    except Exception as error:  # whatever it is
        console.print(f"note       {folder / PAGE} could not be written: {first_line(error)}", markup=False)
    else:
        console.print(f"report     {folder / PAGE}", markup=False)
