"""Pydantic's complaints as the sentences a person needs: the key, what it wants, what it got."""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from segkit.system.errors import Problem, nearest
from segkit.system.plain import excess

Path = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping {key: value}",
    "model_type": "a group of keys",
    "none_required": "null",
}
OBJECTS = ("needs_python_object", "is_instance_of", "is_subclass_of", "callable_type")
"""Errors about alternatives that no YAML value can be, such as a tensor."""
LIMITS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
}


def fit(model: type[Model], container: Any) -> tuple[Model | None, list[Problem]]:
    """`container` as a `model`, or all that is wrong with it.

    JSON is the strict middle ground: lists fit tuples and 1 fits a float, but no text becomes a number. One kindness:
    whole numbers where text is wanted (`trainer.precision=32`, ids such as 12) are what the user typed, and become text.
    """
    if too_much := excess(container):
        return None, [Problem("", too_much)]
    try:
        data = json.loads(json.dumps(container, default=str))
    except (ValueError, TypeError) as error:  # a key that is no text
        return None, [Problem("", f"is no plain data: {error}")]
    for _ in range(2):
        try:
            return model.model_validate_json(json.dumps(data)), []
        except ValidationError as error:
            problems = describe(error, data, model=model)
            if not _numbers_to_text(error, data):
                break
    return None, problems


def describe(error: ValidationError, data: Any, at: str = "", model: type[BaseModel] | None = None) -> list[Problem]:
    """One problem a path. Alternatives of a union are joined; what is wrong deeper inside is what counts."""
    by_path: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] in OBJECTS:
            continue
        by_path.setdefault(_path(detail, data), []).append(detail)
    deepest = [path for path in by_path if not any(path == other[: len(path)] != other for other in by_path)]
    return [_problem(path, by_path[path], at, model) for path in deepest]


def is_about_objects(error: ValidationError) -> bool:
    """Whether only an object will do, where YAML has numbers, text, lists and mappings."""
    return all(detail["type"] in OBJECTS for detail in error.errors(include_url=False))


def section(model: type[BaseModel], path: Path | list[str]) -> type[BaseModel] | None:
    """The model that rules the keys at `path`; None where keys are free (transforms, a target's keywords)."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = (field.annotation, *get_args(field.annotation)) if field else ()
        found = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model


def _path(detail: ErrorDetails, data: Any) -> Path:
    """Where in `data`; pydantic's location also names branches of unions, which no user has typed."""
    path: list[str | int] = []
    for step in detail["loc"]:
        inside = isinstance(data, list) and isinstance(step, int) and step < len(data)
        if inside or (isinstance(data, dict) and step in data):
            path.append(step)
            data = data[step]
    if detail["type"] == "missing" and isinstance(data, dict):  # of a list that is too short, the list is to blame
        path.append(detail["loc"][-1])
    return tuple(path)


def _problem(path: Path, details: list[ErrorDetails], at: str, model: type[BaseModel] | None) -> Problem:
    where = ".".join([at, *map(str, path)] if at else map(str, path))
    first = details[0]
    match first["type"]:
        case "missing" if isinstance(first["loc"][-1], int):
            length = len(first["input"]) + len(details)
            return Problem(where, f"needs a list of {length}, got {_shown(first['input'])}")
        case "missing":
            return Problem(where, "is needed", f"add  {where}=VALUE")
        case "extra_forbidden":
            siblings = section(model, path[:-1]) if model else None
            prefix = where[: len(where) - len(str(path[-1]))]
            hint = nearest(str(path[-1]), siblings.model_fields if siblings else (), prefix)
            return Problem(where, f"no such key; {hint}" if hint else "no such key")
        case "value_error":
            return Problem(where, first["msg"].removeprefix("Value error, "))
        case "json_invalid":
            return Problem(where, "holds text that is no Unicode")
    got = _shown(first["input"])
    choices = [word for detail in details for word in _choices(detail)]
    if len(choices) > 1 and len(details) == 1:
        hint = nearest(str(first["input"]), choices)
        return Problem(where, f"must be one of {', '.join(choices)}; got {got}", hint)
    wanted = list(dict.fromkeys([*choices, *(_wanted(d) for d in details if d["type"] != "literal_error")]))
    unquoted = first["type"] == "string_type" and isinstance(first["input"], float)
    return Problem(where, f"needs {' or '.join(wanted)}, got {got}", f"quote it:  \"{where}='…'\"" if unquoted else "")


def _wanted(detail: ErrorDetails) -> str:
    limit = LIMITS.get(detail["type"])
    if limit:
        return limit.format(**{name: _plain_number(value) for name, value in detail["ctx"].items()})
    return WANTED.get(detail["type"], detail["msg"].removeprefix("Input should be ").lower())


def _choices(detail: ErrorDetails) -> list[str]:
    """The words of a Literal, out of pydantic's "'auto', '32' or 'bf16'"."""
    if detail["type"] != "literal_error":
        return []
    return [word.strip("'") for word in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")]


def _plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbers_to_text(error: ValidationError, data: Any) -> bool:
    """Turn whole numbers and booleans that stand where text is wanted into text, in place. Was there any?

    Not fractions: 1.10 has already become 1.1, so the user has to quote it.
    """
    changed = False
    for detail in error.errors(include_url=False):
        value, path = detail["input"], _path(detail, data)
        text = json.dumps(value) if isinstance(value, int) else ""
        if path and text and (detail["type"] == "string_type" or text in _choices(detail)):
            holder = data
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = text
            changed = True
    return changed
