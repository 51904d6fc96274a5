"""`segkit tensorboard`: TensorBoard on the runs of an experiment, a sweep or a folder, under the names that they have in segkit."""

from __future__ import annotations

import io
import logging
import signal
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path

from segkit.config.commands import Tensorboard
from segkit.system.errors import SegkitError, nearest
from segkit.training.sweeps.names import all_sweeps

EVENTS = "events.out.tfevents.*"
OLD_FOLDER = "tensorboard"
"""Folder of a run's events, until 0.1."""


def command(cfg: Tensorboard) -> None:
    """Serve until interrupted. Raises `SegkitError` for a folder that does not exist and a port in use."""
    folder = find_folder(cfg.name, Path(cfg.output_dir).expanduser())
    n = len(runs(folder))
    print(f"{folder}: {n or 'no'} run{'s' * (n != 1)}{'' if n else ' yet'}; Ctrl-C stops TensorBoard", flush=True)
    with suppress(KeyboardInterrupt):
        serve(folder, cfg)


def find_folder(name: str | None, output_dir: Path) -> Path:
    """A folder by its path, or by its name in segkit. Raises `SegkitError` where there is none, or several."""
    folder = Path(name or output_dir).expanduser()
    if folder.is_dir():
        return folder
    if name is None:
        raise SegkitError(f"{folder} does not exist;   output_dir=FOLDER says where the runs are")
    known = named(output_dir)
    if name not in known:
        available = ", ".join(path.name for path in experiments(output_dir)) or "none"
        hint = nearest(name, known) or f"available in {output_dir}: {available}"
        raise SegkitError(f"no experiment, sweep or run is called {name}; {hint}")
    folders = sorted(known[name])
    if len(folders) > 1:
        raise SegkitError(f"{len(folders)} are called {name};   say which: {', '.join(map(str, folders))}")
    return folders[0]


def experiments(output_dir: Path) -> list[Path]:
    return sorted(path for path in output_dir.glob("[!.]*") if path.is_dir())


def named(output_dir: Path) -> dict[str, set[Path]]:
    """Folders by all names that people use for them: of an experiment; of a sweep or run, with and without its experiment."""
    known = {path.name: {path} for path in experiments(output_dir)}
    sweeps = {f"{path.parents[1].name}/{path.name}": path for path in all_sweeps(output_dir)}
    for name, path in [*sweeps.items(), *((str(run.relative_to(output_dir)), run) for run in runs(output_dir))]:
        known.setdefault(name, set()).add(path)
        known.setdefault(path.name, set()).add(path)
    return known


def runs(folder: Path) -> list[Path]:
    """The runs in `folder`, itself among them, that have events; not what is hidden."""
    places = {path.parent for path in folder.rglob(EVENTS)}
    homes = {place.parent if place.name == OLD_FOLDER and place != folder else place for place in places}
    return sorted(home for home in homes if not any(part.startswith(".") for part in home.relative_to(folder).parts))


def serve(folder: Path, cfg: Tensorboard) -> None:
    """Return when interrupted; SIGTERM is an interruption as well."""
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard()
    # a run that is shown alone keeps its name, where TensorBoard calls it by the path from here
    where = {"logdir_spec": f"{folder.name}:{folder}"} if folder in runs(folder) else {"logdir": str(folder)}
    board.configure(("tensorboard",), **where, port=cfg.port, host=cfg.host, window_title=f"segkit {folder.name}")
    notes = io.StringIO()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # before anybody can see that it serves
    try:
        with redirect_stderr(notes):
            url = board.launch()
    except (program.TensorBoardServerException, OSError, SystemExit) as error:
        signal.signal(signal.SIGTERM, before)
        reason = str(error) if isinstance(error, Exception) else notes.getvalue().strip().rpartition("\n")[2]
        other = cfg.port % 65535 + 1 if cfg.port >= 1024 else 6006
        raise SegkitError(f"port={cfg.port} is not available on host={cfg.host}: {reason};   add  port={other}") from error
    print(url, flush=True)
    while True:
        time.sleep(1)  # a signal that comes just before a sleep, or to another thread, does not end it
