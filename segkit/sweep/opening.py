"""The study of a sweep, new or found again, and whether it is the same search."""

from __future__ import annotations

import json
import logging
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from segkit.errors import SegkitError
from segkit.files import write_text_atomic
from segkit.rundir import read_json
from segkit.sweep.space import Space
from segkit.sweep.storage import locked, without_password

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
KEY = "segkit"
PLACES = (
    *("output_dir", "data.root", "data.num_workers", "data.cache_gb", "data.disk_cache_gb", "allow_targets", "sweep.", "hydra.", "logger"),
    *("trainer.accelerator", "trainer.devices", "trainer.threads", "callbacks.checkpoint", "callbacks.pictures"),
)
"""Overrides that say where and how trials run, not what they are: they may differ from start to start."""


def open_folder(folder: Path, space: Space, objectives: Mapping[str, str], study: str | None = None, storage: str | None = None) -> str:
    """Make the folder, or find it again; its own name among all folders of the world. Raises `SegkitError` where another search has it.

    sweep.json says where the last start had its study, for those who read it; see `reading.read_sweep`.
    """
    where = {"study": study, "storage": storage and without_password(storage)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            known, wanted = read_json(folder / "sweep.json"), identity(space, objectives)
            check_same(known or wanted, wanted, folder.name)
            told = {"id": uuid.uuid4().hex, **wanted, **known, **where}
            if told != known:
                write_text_atomic(folder / "sweep.json", json.dumps(told, indent=1))
    except OSError as error:
        raise SegkitError(f"{folder} cannot be written: {error.strerror}") from error
    return str(told["id"])


def open_study(storage: BaseStorage, name: str, space: Space, objectives: Mapping[str, str], pruner: BasePruner) -> optuna.Study:
    """Raises `SegkitError` where a study of this name has another space, other objectives or other fixed keys."""
    quiet()
    directions = [DIRECTIONS[mode] for mode in objectives.values()]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, pruner=pruner, load_if_exists=True)
    wanted = identity(space, objectives)
    if not study.user_attrs and study.get_trials(deepcopy=False):
        raise SegkitError(f"the storage has a study {name} already, which segkit did not make;   choose a new  sweep.name=NAME")
    if KEY not in study.user_attrs:
        study.set_user_attr(KEY, wanted)
    check_same(study.user_attrs[KEY], wanted, name)
    return study


def check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    changed = differences(known, wanted)
    if changed:
        raise SegkitError("\n".join([f"there is a sweep {name} already, and it is another one;   choose a new  sweep.name=NAME", *changed]))


def identity(space: Space, objectives: Mapping[str, str]) -> dict[str, dict[str, str]]:
    fixed = (text.partition("=") for text in space.fixed if not text.lstrip("+").startswith(PLACES))
    return {"space": space.as_dict(), "objectives": dict(objectives), "fixed": {key: value for key, _, value in fixed}}


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    lines = []
    for part in wanted:
        old, new = known.get(part, {}), wanted[part]
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        lines += [f"  {key}   was {old.get(key, 'not there')}, now {new.get(key, 'not there')}" for key in changed]
    reordered = list(known.get("objectives", wanted["objectives"])) != list(wanted["objectives"])
    return lines or (["  the order of its objectives"] if reordered else [])


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
