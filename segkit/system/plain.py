"""Plain data from JSON and YAML files that anybody may have written or damaged: read within limits, refused in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from segkit.system.errors import SegkitError, first_line

T = TypeVar("T")
MOST_VALUES, DEEPEST, MOST_BITS = 2_000_000, 64, 1024
"""Values in all, levels, and bits of a whole number."""
LARGEST_JSON, LARGEST_YAML = 2**28, 2**22
"""Bytes. YAML takes ten seconds a megabyte."""


class Loader(yaml.SafeLoader):
    """Without merge keys, which multiply what they merge."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("merge keys (<<) are not taken here")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty where there is no file. SegkitError where it is damaged."""
    return _mapping(path, _read(path, json.loads, LARGEST_JSON)) if path.exists() else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. SegkitError where it is missing or damaged."""
    return _mapping(path, _read(path, _from_yaml, LARGEST_YAML))


def read_lines(path: Path) -> list[str]:
    """Return the list of texts in a YAML file, such as overrides.yaml. SegkitError where it is missing or damaged."""
    return fitted(path, _read(path, _from_yaml, LARGEST_YAML), list[str])


def fitted(path: Path, content: Any, kind: type[T]) -> T:
    """Return `content` as a value of a type. SegkitError that names the file and the place where it is another."""
    try:
        return TypeAdapter(kind).validate_python(content, strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"]))
        raise SegkitError(f"{path} is damaged: {f'{place}: ' if place else ''}{detail['msg'][:1].lower()}{detail['msg'][1:]}") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged table does to a reader into a SegkitError that names the file."""
    try:
        yield
    except OSError as error:
        raise SegkitError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error) as error:
        raise SegkitError(f"{path} is damaged: {first_line(error)}") from error


def excess(content: Any, most: int = MOST_VALUES) -> str:
    """Return why plain data are too much to work with, as more than `most` values are; empty where they are not.

    A few bytes may stand for any amount, as parts of a pickle or of YAML can be used again and again.
    """
    n, level = 1, [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, int) and value.bit_length() > MOST_BITS:
                return f"holds a whole number of {value.bit_length():,} bits"
            parts = [*value, *value.values()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
            n += len(parts)
            if n > most:
                return f"holds more than {most:,} values"
            inner += parts
        if not inner:
            return ""
        level = inner
    return f"is nested deeper than {DEEPEST} levels"


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader)


def _read(path: Path, parse: Callable[[str], Any], most: int) -> Any:
    try:
        size = path.stat().st_size
        content = parse(path.read_text(encoding="utf-8")) if size <= most else None
    except OSError as error:
        raise SegkitError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    except RecursionError as error:
        raise SegkitError(f"{path} is damaged: it is nested too deep") from error
    except Exception as error:  # PyYAML raises whatever a wrong date, tag or number comes to
        raise SegkitError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if too_much := f"holds {size:,} bytes, more than such a file can need" if size > most else excess(content):
        raise SegkitError(f"{path} {too_much}; it is refused")
    return content


def _mapping(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SegkitError(f"{path} is damaged: it holds a {type(content).__name__}, not keys and values")
    return content
