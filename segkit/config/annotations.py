"""Annotations in source code as types that pydantic can check a YAML value against."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, Never, TypeVar

Scope = TypeVar("Scope")
LookUp = Callable[[ast.expr, Scope], tuple[ast.expr, Scope] | None]

SCALARS: dict[str, Any] = {
    **{"int": int, "float": float, "bool": bool, "str": str, "None": None, "Path": str, "PathLike": str},
    **{"list": list[Any], "tuple": list[Any], "dict": dict[str, Any], "set": list[Any]},
}
LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "set", "Set", "frozenset"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
TRANSPARENT = {"Annotated", "Final", "Required", "InitVar"}
NEVER_YAML = {"Tensor", "Module", "Parameter", "ndarray", "NDArray"}
DEEPEST = 12


def type_of(annotation: ast.expr, scope: Scope, look_up: LookUp[Scope], optional: bool = False, depth: int = 0) -> Any:
    """The type, with Any for what is unknown and Never for what no YAML value can be. `look_up` finds aliases."""
    if depth > DEEPEST:
        return Any

    def inner(expression: ast.expr) -> Any:
        return type_of(expression, scope, look_up, depth=depth + 1)

    found: Any = Any
    match annotation:
        case ast.Constant(value=None):
            found = None
        case ast.Constant(value=str() as text):
            found = inner(ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            found = union(inner(left), inner(right))
        case ast.Subscript(value=ast.Name(id=head) | ast.Attribute(attr=head), slice=arguments):
            found = _generic(head, arguments.elts if isinstance(arguments, ast.Tuple) else [arguments], inner)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            found = _named(name, annotation, scope, look_up, depth)
    return union(found, None) if optional else found


def _named(name: str, annotation: ast.expr, scope: Scope, look_up: LookUp[Scope], depth: int) -> Any:
    if name in SCALARS:
        return SCALARS[name]
    if name in NEVER_YAML:
        return Never
    if name in LISTS:
        return list[Any]
    if name in MAPPINGS:
        return dict[str, Any]
    alias = look_up(annotation, scope)
    return type_of(*alias, look_up, depth=depth + 1) if alias else Any


def _generic(head: str, arguments: list[ast.expr], inner: Callable[[ast.expr], Any]) -> Any:
    if head == "Literal":
        values = tuple(argument.value for argument in arguments if isinstance(argument, ast.Constant))
        return Literal[values] if values else Any
    if head == "Union":
        return union(*map(inner, arguments))
    if head == "Optional":
        return union(inner(arguments[0]), None)
    if head in TRANSPARENT:
        return inner(arguments[0])
    if head in NEVER_YAML:
        return Never
    if head in LISTS:
        return list[inner(arguments[0])]  # type: ignore[misc]
    if head in MAPPINGS and len(arguments) == 2:
        return dict[inner(arguments[0]), inner(arguments[1])]  # type: ignore[misc]
    if head in ("tuple", "Tuple"):
        items = [... if isinstance(a, ast.Constant) and a.value is ... else inner(a) for a in arguments]
        return tuple[tuple(items)]  # type: ignore[misc]
    return Any


def union(*types: Any) -> Any:
    """Any swallows the rest: if one alternative is unknown, every value may be right."""
    possible = [t for t in types if t is not Never]
    if any(t is Any for t in possible):
        return Any
    if not possible:
        return Never
    wrapped = [type(None) if t is None else t for t in possible]
    return functools.reduce(operator.or_, wrapped)


def type_of_default(default: ast.expr | None) -> Any:
    """A loose type for a parameter without annotation: that of its scalar default."""
    value = default.value if isinstance(default, ast.Constant) else None
    if isinstance(value, bool):
        return bool | None
    if isinstance(value, int | float):
        return float | None
    return str | None if isinstance(value, str) else Any
