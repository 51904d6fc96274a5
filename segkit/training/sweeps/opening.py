"""The study of a sweep, new or found again, and whether it is the same search."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from segkit.system.addresses import without_password
from segkit.system.errors import SegkitError
from segkit.system.files import write_text_atomic
from segkit.training.run_folder import PLACE_KEYS, is_below, read_json
from segkit.training.sweeps.space import Space
from segkit.training.sweeps.storage import locked

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
KEY = "segkit"


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
    wanted = of_the_study(identity(space, objectives))
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
    return {"space": space.as_dict(), "objectives": dict(objectives), "fixed": dict(space.shared)}


def of_the_study(wanted: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Short, as databases want it, and without the folder of the images, which another machine may have elsewhere."""
    fixed = json.dumps({key: value for key, value in wanted["fixed"].items() if key != "data.root"}, sort_keys=True)
    return {**wanted, "fixed": {"config": hashlib.sha256(fixed.encode()).hexdigest()[:16]}}


def shared(config: Mapping[str, Any], space: Space) -> dict[str, str]:
    """The config of a sweep by key, without what its trials vary, and what says where they run: that may differ from start to start."""
    varied = tuple(parameter.key.lstrip("+").replace("/", ".") for parameter in space.parameters)
    found = {key: str(value) for key, value in leaves(config) if not is_below(key, (*varied, *PLACE_KEYS, "name", "hydra"))}
    if root := config["data"].get("root"):
        found["data.root"] = str(Path(root).expanduser().absolute())
    return found


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
