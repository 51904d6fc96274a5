"""Storage of a sweep: its folder, its study in a journal file or database, shared by processes by way of file locks."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from segkit.config.aliases import ALIASES, KEYWORDS
from segkit.config.schema import Strict, Train
from segkit.system.environment import absolute, without_password
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import write_text_atomic
from segkit.system.locks import flock, locked, opened
from segkit.system.plain import read_json
from segkit.training.config_hash import flat
from segkit.training.sweeps.space import Space

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
KEY = "segkit"
"""User attribute of a study that segkit has made: its identity."""


class KernelLock(JournalFileOpenLock):
    """flock on a file beside the journal, which the kernel frees with its process; Optuna's own locks outlive a kill by 30 s.

    A record that a kill has cut off is removed from the journal's end: Optuna could not read past it.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self._held: IO[str] | None = None

    def acquire(self) -> bool:
        self._held = opened(self.journal.with_name(f"{self.journal.name}.lock"))
        flock(self._held, self.journal)
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


def journal_file(url: str | None, folder: Path) -> Path | None:
    """The journal of a study: `url` is the path of one or, with `://`, the address of a database, which has none."""
    path = absolute(url) or str(folder / "journal.log")
    return None if "://" in path else Path(path)


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the storage of a study. Raises `SegkitError`, without the password, where it cannot be written or reached."""
    journal = journal_file(url, folder)
    if journal:
        try:
            journal.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal)))
        except OSError as error:
            raise SegkitError(f"hydra.sweeper.storage: {journal} cannot be written: {error.strerror}") from error
    address = f"hydra.sweeper.storage={without_password(str(url))}"
    try:
        return RDBStorage(str(absolute(url)))
    except ImportError as error:
        name = getattr(error.__cause__, "name", None) or str(error)
        raise SegkitError(f"{address}: the database's driver is missing: {name}") from error
    except Exception as error:  # whatever SQLAlchemy and the driver raise
        reason = without_password(first_line(error.__cause__ or error))
        raise SegkitError(f"{address} cannot be reached: {reason}") from error


# --- the folder and the study ------------------------------------------------------------------------------------------


def open_folder(folder: Path, space: Space, objectives: Mapping[str, str], study: str | None = None, storage: str | None = None) -> str:
    """Create or reopen a sweep's folder; return its unique name. sweep.json records its identity and where its study is.

    Raises `SegkitError` where the folder belongs to another search, or cannot be written.
    """
    where = {"study": study, "storage": storage and without_password(storage)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            known, wanted = read_json(folder / "sweep.json"), identity(space, objectives)
            _check_same(known or wanted, wanted, folder.name)
            content = {"id": uuid.uuid4().hex, **wanted, **known, **where}
            if content != known:
                write_text_atomic(folder / "sweep.json", json.dumps(content, indent=1))
    except OSError as error:
        raise SegkitError(f"{folder} cannot be written: {error.strerror}") from error
    return str(content["id"])


def open_study(
    storage: BaseStorage, name: str, space: Space, objectives: Mapping[str, str], pruner: BasePruner, is_checked: bool = False
) -> optuna.Study:
    """Create or load a study. Raises `SegkitError` where one of this name has another space, objectives or, unless checked, config."""
    quiet()
    directions = [DIRECTIONS[mode] for mode in objectives.values()]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True)
    wanted = identity(space, objectives)
    # a short hash, as databases limit attributes, and without the folder of the images, which may differ between machines
    fixed = json.dumps({key: value for key, value in wanted["fixed"].items() if key != "data.root"}, sort_keys=True)
    wanted["fixed"] = {"config": hashlib.sha256(fixed.encode()).hexdigest()[:16]}
    if not study.user_attrs and study.get_trials(deepcopy=False):
        raise SegkitError(f"the storage has a study {name} already, which segkit did not make;   choose a new  sweep.name=NAME")
    if KEY not in study.user_attrs:
        study.set_user_attr(KEY, wanted)
    known = study.user_attrs[KEY]
    _check_same({**known, "fixed": wanted["fixed"]} if is_checked else known, wanted, name)
    return study


def _check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    if changed := differences(known, wanted):
        raise SegkitError("\n".join([f"there is a sweep {name} already, and it is another one;   choose a new  sweep.name=NAME", *changed]))


def identity(space: Space, objectives: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {"space": space.as_dict(), "objectives": dict(objectives), "fixed": dict(space.shared)}


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line a key that has changed."""
    lines = []
    for part in wanted:
        old, new = _present_names(known.get(part, {})), wanted[part]
        if part == "fixed" and old:  # by an older segkit, which did not have all keys
            old = {**{key: text for key, text in schema_defaults().items() if key in new}, **old}
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        lines += [f"  {key}   was {old.get(key, 'missing')}, now {new.get(key, 'missing')}" for key in changed]
    reordered = list(known.get("objectives", wanted["objectives"])) != list(wanted["objectives"])
    return lines or (["  the order of its objectives"] if reordered else [])


def schema_defaults() -> dict[str, str]:
    """The defaults of the schema by dotted key, as text."""
    sections = {name: field.default for name, field in Train.model_fields.items() if isinstance(field.default, Strict)}
    return {key: str(value) for key, value in flat({name: section.model_dump(mode="json") for name, section in sections.items()})}


def _present_names(fixed: Mapping[str, str]) -> dict[str, str]:
    """A flat config with old names of targets and of their keywords replaced by the present ones."""
    found = {key: ALIASES.get(text, text) for key, text in fixed.items()}
    targets = {key.removesuffix("_target_"): text for key, text in found.items() if key.endswith("_target_")}
    keywords = {f"{at}{old}": f"{at}{new}" for at, text in targets.items() for old, new in KEYWORDS.get(text, {}).items()}
    return {keywords.get(key, key): text for key, text in found.items()}


def quiet() -> None:
    """Silence Optuna's and alembic's own log."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
