"""The run folder: everything one training leaves behind, and how an unfinished one is found again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from segkit.config import validate
from segkit.config.schema import Train
from segkit.system.environment import TRIAL, is_child, job_name, now, session
from segkit.system.errors import ProblemsFound, SegkitError, first_line, of_file
from segkit.system.files import remove_leftovers, write_text_atomic
from segkit.system.hardware import peak_memory_gb
from segkit.system.locks import own
from segkit.system.plain import fitted, read_json, read_yaml
from segkit.system.processes import identity
from segkit.system.shell import override
from segkit.training.config_hash import config_hash, with_found
from segkit.training.status import Interrupted, NonFinite, Pruned, Status

CONTINUED = ("trainer.on_nonfinite", "trainer.max_minutes", "trainer.max_time")
"""Keys that may be typed with  resume=RUN:  whether a run goes on past numbers that are not finite, and for how long."""
TIME = "trainer.max_minutes"
"""Why a run ended, in its status: it may be resumed, for as many minutes again."""
HELD: dict[Path, IO[str]] = {}
"""The locks of the runs that this process trains; closing the file frees it."""
SILENCE_SECONDS = 1800
"""last.ckpt is written every few minutes: a run on another host that wrote nothing for so long is dead."""


@dataclass(frozen=True)
class RunFolder:
    """Everything one training leaves behind: config, status, provenance, checkpoints, tables and figures.

    Args:
        path: The folder, outputs/<experiment>/<run>.
        resumed: Whether the run exists already and continues from last.ckpt, if there is one yet.
    """

    path: Path
    resumed: bool = False

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def resume_from(self) -> Path | None:
        return self.last if self.resumed and self.last.exists() else None

    @property
    def events(self) -> Path:
        """The folder of its TensorBoard events: the run folder itself; `tensorboard` in it where segkit 0.1 began the run."""
        old = self.path / "tensorboard"
        return old if old.is_dir() else self.path

    @property
    def status(self) -> dict[str, Any]:
        """Empty where the run has not begun. Raises SegkitError where the file is damaged."""
        path = self.path / "status.json"
        content = read_json(path)
        if content:
            fitted(path, content, Status)
        return content

    # --- making and finding -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, cfg: Train, overrides: Sequence[str], run_dir: Path | None = None) -> RunFolder:
        """Make a new folder outputs/<experiment>/<run> that holds the config.

        Args:
            cfg: The validated config.
            overrides: As typed; they are kept in overrides.yaml.
            run_dir: Another folder than the one that follows from the config (a trial of a sweep has one).

        Raises:
            SegkitError: There is a run of this name, or in this folder; it is never overwritten.
        """
        parent, name = Path(cfg.output_dir) / str(cfg.name), cfg.run or job_name()
        if is_child():
            return cls(run_dir or parent / str(name))
        path = run_dir or reserve(parent, name)
        run = cls(path)
        if not run.lock() or (run_dir is None and (path / "config.yaml").exists()):
            raise SegkitError(f"{path}: {run.trainer}")
        run.last.parent.mkdir(parents=True, exist_ok=True)
        run.start_anew()
        run.write_config(cfg)
        write_text_atomic(path / "overrides.yaml", yaml.safe_dump(list(overrides)))
        return run

    def start_anew(self) -> None:
        """Delete what a trial has left that starts again in its own folder; SegkitError where another run has left it."""
        self.remove_leftovers()
        stale = [path for path in (*self.last.parent.iterdir(), self.path / "metrics.csv") if path.exists()]
        if stale and TRIAL not in os.environ:
            raise SegkitError(f"{self.path} holds a run already: {stale[0]};   choose another folder")
        for path in stale:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @classmethod
    def to_resume(cls, cfg: Train, overrides: Sequence[str]) -> RunFolder | None:
        """Find the run that `resume` names: a path, or with `auto` the newest unfinished run of this experiment and config.

        Returns:
            None where nothing is to be resumed.

        Raises:
            SegkitError: The named folder is no run, is finished or still running, or there are overrides that would change it.
        """
        if cfg.resume is None:
            return None
        if cfg.resume != "auto":
            return cls.named(Path(cfg.resume), overrides)
        for path in sorted((Path(cfg.output_dir) / str(cfg.name)).glob(f"{cfg.run or '*'}/config.yaml"), reverse=True):
            run = cls(path.parent, resumed=True)
            is_free = run.is_unfinished()
            if not (is_free or run.status.get("state") == "running") or not run.is_of(cfg):
                continue
            if is_free and run.lock():
                run.remove_leftovers()
                return run
            if cfg.run:
                raise SegkitError(f"{run.path}: {run.trainer}")
        return None

    @classmethod
    def finished(cls, cfg: Train) -> RunFolder | None:
        """The run that `run=NAME resume=auto` names, if it is finished: a job may be queued again and again."""
        run = cls(Path(cfg.output_dir) / str(cfg.name) / str(cfg.run))
        if cfg.resume != "auto" or not cfg.run or run.status.get("state") != "finished":
            return None
        if not run.is_of(cfg):
            raise SegkitError(f"{run.path} is finished, but with another config (see its config.yaml);   choose another  run=NAME")
        return run

    @classmethod
    def named(cls, path: Path, overrides: Sequence[str]) -> RunFolder:
        if not (path / "config.yaml").is_file():
            raise SegkitError(f"resume={path}: no run folder (it has no config.yaml);   resume=auto looks for one")
        allowed = ("resume", "output_dir", "allow_targets", *CONTINUED)
        others = [o for o in overrides if o.split("=")[0].lstrip("+~") not in allowed]
        if others:
            raise SegkitError(
                f"resume={path} continues with the run's own config; leave out {' '.join(others)},\n"
                f"  or start a new run from its weights:   init_from={path}"
            )
        run = cls(path, resumed=True)
        if is_child():
            return run
        state = run.status.get("state")
        if state == "finished" and run.status.get("ended_by") != TIME:
            raise SegkitError(f"resume={path}: this run is finished;   segkit evaluate {override('ckpt', str(path))}")
        if (state == "running" and run.is_alive()) or not run.lock():
            raise SegkitError(f"resume={path}: {run.trainer}")
        run.remove_leftovers()
        return run

    def config(self, allow: Sequence[str]) -> Train:
        """Raises SegkitError, which names the file, where it is damaged or nothing can be trained with it."""
        path = self.path / "config.yaml"
        try:
            return validate.restore(read_yaml(path), allow)
        except ProblemsFound as error:
            raise of_file(path, "cannot be used", error) from error

    def how_to_resume(self, allow: Sequence[str]) -> str:
        """The command."""
        permission = [override("allow_targets", allow)] if allow else []
        return " ".join(["segkit", "train", override("resume", str(self.path)), *permission])

    def command(self, *more: str, without: Sequence[str] = ()) -> str:
        """The command that began it, as a new run with `more` overrides, and without those of some keys."""
        typed = yaml.safe_load((self.path / "overrides.yaml").read_text(encoding="utf-8")) or []
        dropped = {"run", "resume", *without, *(text.partition("=")[0] for text in more)}
        return shlex.join(["segkit", "train", *(text for text in typed if text.partition("=")[0].lstrip("+") not in dropped), *more])

    def continued(self, cfg: Train, overrides: Sequence[str]) -> Train:
        """Its own config with the keys of `CONTINUED` as they are typed in `cfg`; kept in config.yaml, as further processes read that."""
        own = self.config(cfg.allow_targets)
        if cfg.resume == "auto":  # which has found the same config
            return with_found(cfg, own)
        typed = {text.partition("=")[0].lstrip("+") for text in overrides} & set(CONTINUED)
        if is_child() or not typed:
            return own
        names = [key.rpartition(".")[2] for key in typed]
        own = own.model_copy(update={"trainer": own.trainer.model_copy(update={name: getattr(cfg.trainer, name) for name in names})})
        self.write_config(own)
        return own

    def is_of(self, cfg: Train) -> bool:
        """Whether it was begun with this config; never where another version of segkit wrote its own."""
        try:
            own = self.config(cfg.allow_targets)
        except SegkitError:
            return False
        return config_hash(own) == config_hash(with_found(cfg, own))

    def is_unfinished(self) -> bool:
        state = self.status.get("state", "failed")  # killed before status.json was written
        is_mine = TRIAL in os.environ  # whoever runs a trial holds its lock
        return state in ("interrupted", "failed") or (state == "running" and (is_mine or not self.is_alive()))

    def is_alive(self) -> bool:
        """Whether the recorded process still runs; one on another host does if it wrote lately."""
        status = self.status
        if status.get("job") and status["job"] == os.environ.get("SLURM_JOB_ID"):
            return False  # our own job, which was queued again
        if status["host"] != socket.gethostname():
            newest = max(path.stat().st_mtime for path in (self.path, self.last.parent, self.path / "status.json") if path.exists())
            return time.time() - newest < SILENCE_SECONDS
        if known := status.get("process"):
            return bool(identity(status["pid"]) == known)
        try:  # of an older segkit: times are off by any change of the clock
            process = psutil.Process(status["pid"])
            started: float = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        return abs(started - float(status["process_started"])) < 1

    @property
    def trainer(self) -> str:
        """Who trains it at this moment, and what to do where that is wrong."""
        status = self.status
        who = f"still running as process {status['pid']} on {status['host']}" if status.get("state") == "running" else "starting just now"
        if status.get("host") in (None, socket.gethostname()):
            return f"{who};   wait for it, or stop it first"
        return f"{who};   if it has died, remove  {self.path / 'status.json'}  and type the line again"

    def lock(self) -> bool:
        """Keep the run for this process until it ends, or `recording` does; False while another process does."""
        try:
            lock = HELD.get(self.path) or own(self.path / ".run.lock")
        except OSError as error:
            raise SegkitError(f"{self.path} cannot be written: {error.strerror}") from error
        if lock is None:
            return False
        HELD[self.path] = lock
        return True

    def unlock(self) -> None:
        if lock := HELD.pop(self.path, None):
            lock.close()

    def remove_leftovers(self) -> None:
        """Delete what a killed writer has left."""
        for folder in (self.path, self.last.parent):
            remove_leftovers(folder)

    def check_exists(self) -> None:
        """Raise SegkitError where the folder has been deleted or moved: a new one would hold half a run."""
        if not (self.path / "config.yaml").exists():
            raise SegkitError(f"{self.path} has been deleted or moved while it was training;   start the training again")

    # --- writing ------------------------------------------------------------------------------------------------------

    def write_config(self, cfg: Train) -> None:
        write_text_atomic(self.path / "config.yaml", yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))

    @contextmanager
    def recording(self) -> Iterator[dict[str, Any]]:
        """Keep status.json up to date: running, then finished, interrupted, pruned, or failed with the traceback.

        What is put into the yielded dict stands in the status of a finished run.
        """
        self.write_status("running")
        facts: dict[str, Any] = {}
        try:
            yield facts
            self.check_exists()
            self.write_status("finished", **facts)
        except (Interrupted, KeyboardInterrupt):
            self.write_status("interrupted")
            raise
        except Pruned:
            self.write_status("pruned")
            raise
        except NonFinite as error:
            self.write_status("failed", traceback=traceback.format_exc(), diverged=first_line(error))
            raise
        except BaseException:
            self.write_failure(traceback.format_exc())
            raise
        finally:
            self.unlock()

    def write_status(self, state: str, **more: Any) -> None:
        if not self.path.is_dir():
            return  # deleted: a new folder would hold nothing else
        me = {"pid": os.getpid(), "host": socket.gethostname(), "process": identity(os.getpid())}
        me |= {"process_started": psutil.Process().create_time()}  # for an older segkit
        me |= {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
        me |= {"memory_gb": peak_memory_gb()} if state != "running" else {}
        started = self.status.get("started", now())
        status = {"state": state, "started": started, "changed": now(), **me, **more}
        write_text_atomic(self.path / "status.json", json.dumps(status, indent=1))

    def write_failure(self, message: str) -> None:
        self.write_status("failed", traceback=message)

    def write_provenance(self, data: Mapping[str, Any], hardware: str) -> None:
        """Write data, versions, command and machine to provenance.json; each resume adds a session."""
        path = self.path / "provenance.json"
        sessions = [*read_json(path).get("sessions", []), {**session(), "hardware": hardware}]
        write_text_atomic(path, json.dumps({"data": dict(data), "sessions": sessions}, indent=1))


def reserve(parent: Path, name: str | None) -> Path:
    """Make a new folder below `parent`; a clash of date and time gets a number, a clash of a chosen name is an error."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for candidate in [name] if name else [stamp, *(f"{stamp}-{i}" for i in range(2, 100))]:
        try:
            (parent / str(candidate)).mkdir(parents=True)
        except FileExistsError:
            if not is_abandoned(parent / str(candidate)):
                continue
        return parent / str(candidate)
    raise SegkitError(
        f"{parent / str(name)} exists;   choose another  run=NAME,  or continue it with  {override('resume', str(parent / str(name)))}"
    )


def is_abandoned(folder: Path) -> bool:
    """Whether a kill in the first moment of a run has left a folder with nothing in it."""
    names = {path.name for path in folder.rglob("*") if not path.name.endswith(".tmp")} if folder.is_dir() else {""}
    return names <= {"checkpoints", ".run.lock"}
