"""`segkit tensorboard`: TensorBoard on the runs of an experiment, a sweep or a folder, under the names that they have in segkit.

Runs keep their events in RUN/tensorboard, and TensorBoard names a run by the folder of its events. So it is shown a folder of links,
EXPERIMENT/RUN -> outputs/EXPERIMENT/RUN/tensorboard, to which runs that start later are added.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

from segkit.system.errors import SegkitError, nearest, plain_command
from segkit.training.sweeps.find import all_sweeps

HELP = """\
segkit tensorboard [NAME] [port=6006] [host=localhost] [output_dir=outputs]

NAME: an experiment, a sweep, a run (RUN or EXPERIMENT/RUN) or a folder; without it all runs in output_dir. Ctrl-C ends it.
The tab HPARAMS has a row for each run or trial that has ended; runs that start later appear by themselves.
On another machine:  ssh -L 6006:localhost:6006 MACHINE  and  segkit tensorboard  there; or  host=0.0.0.0, which everybody can reach."""
EVENTS = "tensorboard"
"""Folder of a run's events."""
SECONDS_BETWEEN_LOOKS = 5.0
KEYS = ("port", "host", "output_dir")


@dataclass(frozen=True)
class Request:
    name: str | None = None
    port: int = 6006
    host: str = "localhost"
    output_dir: Path = Path("outputs")


@plain_command("tensorboard", HELP)
def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0 when it is stopped, 2 for what is not there or a port in use."""
    request = parse(argv)
    check_port(request)
    with suppress(KeyboardInterrupt):  # that is how it ends
        watch(find_folder(request.name, request.output_dir), request)
    return 0


def parse(argv: Sequence[str]) -> Request:
    values: dict[str, Any] = {}
    for word in argv:
        key, is_pair, value = word.partition("=")
        if is_pair and key in KEYS:
            values[key] = value
        elif (is_pair and not Path(word).exists()) or "name" in values:
            raise SegkitError(f"{word} is not understood; {nearest(key, KEYS) or 'segkit tensorboard --help'}")
        else:
            values["name"] = word
    port = values.get("port", "6006")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SegkitError(f"port={port} must be a number from 1 to 65535")
    return Request(**{**values, "port": int(port), "output_dir": Path(values.get("output_dir", "outputs")).expanduser()})


def check_port(request: Request) -> None:
    """Before TensorBoard is imported, which takes seconds."""
    try:
        family, *_, address = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as TensorBoard does: a port just left is free
            probe.bind(address)
    except socket.gaierror as error:
        raise SegkitError(f"host={request.host} is not known: {error.strerror}") from error
    except OSError as error:
        other = request.port % 65535 + 1 if request.port >= 1024 else 6006
        raise SegkitError(f"port={request.port} cannot be had on {request.host}: {error.strerror};   add  port={other}") from error


# --- which folder -----------------------------------------------------------------------------------------------------


def find_folder(name: str | None, output_dir: Path) -> Path:
    """A folder by its path, or by what it is called in segkit. Raises `SegkitError` where there is none, or several."""
    if name is None:
        return existing(output_dir)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    known = named(output_dir)
    if name not in known:
        hint = nearest(name, known) or f"there is {', '.join(experiments(output_dir)) or 'none'} in {output_dir}"
        raise SegkitError(f"there is no experiment, sweep or run {name}; {hint}")
    folders = known[name]
    if len(folders) > 1:
        raise SegkitError(f"{len(folders)} are called {name};   say which: {', '.join(map(str, folders))}")
    return folders[0]


def existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise SegkitError(f"there is no folder {folder};   output_dir=FOLDER says where the runs are")
    return folder


def experiments(output_dir: Path) -> list[str]:
    return sorted(path.name for path in output_dir.glob("[!.]*") if path.is_dir())


def named(output_dir: Path) -> dict[str, list[Path]]:
    """Folders by all names that people may use for them, the experiment's own name first."""
    known: dict[str, list[Path]] = {name: [output_dir / name] for name in experiments(output_dir)}
    for folder in all_sweeps(output_dir):
        for name in (folder.name, f"{folder.parents[1].name}/{folder.name}"):
            known.setdefault(name, []).append(folder)
    for run in runs(output_dir):
        for name in (run.name, str(run.relative_to(output_dir))):
            if run not in known.setdefault(name, []):
                known[name].append(run)
    return known


def runs(folder: Path) -> Iterator[Path]:
    """Folders that hold events, `folder` itself among them; not what is hidden."""
    for place, below, _ in os.walk(folder, followlinks=True):
        if EVENTS in below:
            yield Path(place)
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))


# --- showing it -------------------------------------------------------------------------------------------------------


def watch(folder: Path, request: Request) -> None:
    """Serve until interrupted."""
    found = len(list(runs(folder)))
    print(f"{folder}: {found or 'no'} run{'s' * (found != 1)}{'' if found else ' yet'}; Ctrl-C ends it", flush=True)
    stop = Event()
    with TemporaryDirectory(prefix="segkit-tensorboard-") as logdir:
        link_runs(folder, Path(logdir))
        follower = Thread(target=follow, args=(folder, Path(logdir), stop), daemon=True)
        follower.start()
        try:
            serve(logdir, request, folder.name)
        finally:
            stop.set()
            follower.join()


def follow(folder: Path, logdir: Path, stop: Event) -> None:
    while not stop.wait(SECONDS_BETWEEN_LOOKS):
        with suppress(OSError):  # a folder that vanished meanwhile, a network that is gone for a moment: the next look finds the rest
            link_runs(folder, logdir)


def link_runs(folder: Path, logdir: Path) -> None:
    """A link to the events of each run, by the run's name; what is linked already stays."""
    for run in runs(folder):
        link = logdir / (run.name if run == folder else run.relative_to(folder))
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((run / EVENTS).absolute(), target_is_directory=True)


def serve(logdir: str, request: Request, title: str) -> None:
    """Returns when interrupted; SIGTERM is an interruption as well."""
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard()
    board.configure(("tensorboard",), logdir=logdir, port=request.port, host=request.host, window_title=f"segkit {title}")
    with redirect_stderr(io.StringIO()):  # a note that its fast way to load data is new
        url = board.launch()
    print(url, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        time.sleep(3600)
