"""Where Optuna keeps a study: a journal file, or any database that it has an address for."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from segkit.system.addresses import absolute, without_password
from segkit.system.errors import SegkitError, first_line


class KernelLock(JournalFileOpenLock):
    """flock on a file beside the journal. Optuna's own locks outlive a killed process by half a minute; this one does not.

    A record that was cut off by a kill is taken off the end of the journal, which Optuna would stumble over for ever.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        self._held = self.journal.with_name(f"{self.journal.name}.lock").open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        cut_torn_end(self.journal)
        return True

    def release(self) -> None:
        if self._held:
            self._held.close()
            self._held = None


def cut_torn_end(journal: Path) -> None:
    with journal.open("rb+") as file:
        size = file.seek(0, 2)
        if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among all processes, on all machines that share the folder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(path: Path, seconds: float = 0.0) -> IO[str] | None:
    """The open file that holds the lock, for as long as this process or one forked from it keeps it; None where it is held for
    longer than `seconds`."""
    file, until = path.open("w"), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= until:
                file.close()
                return None
        time.sleep(0.05)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """`url` None: journal.log in `folder`; without `://` the path of a journal file. Raises `SegkitError` naming what fails."""
    url = absolute(url)
    if url is None or "://" not in url:
        journal = folder / "journal.log" if url is None else Path(url)
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal)))
        except OSError as error:
            raise SegkitError(f"hydra.sweeper.storage: {journal} cannot be written: {error.strerror}") from error
    try:
        return RDBStorage(url)
    except ImportError as error:
        name = getattr(error.__cause__, "name", None) or str(error)
        raise SegkitError(f"hydra.sweeper.storage={without_password(url)}: the database's driver is missing: {name}") from error
    except Exception as error:  # whatever SQLAlchemy and the driver raise
        reason = without_password(first_line(error.__cause__ or error))
        raise SegkitError(f"hydra.sweeper.storage={without_password(url)} cannot be reached: {reason}") from error
