"""What a class or function takes, read from its source without importing it.

Importing torch costs seconds and importing a user's module runs it; a config mistake should cost neither. So the file is
found from the top-level package alone, parsed, and names are followed through re-exports. What cannot be read raises
`Unreadable`, and the caller stays silent: it is checked again when the object is built.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from segkit.config.annotations import type_of, type_of_default

Function = ast.FunctionDef | ast.AsyncFunctionDef
PLAIN_BASES = {"object", "ABC", "Protocol", "Generic", "NamedTuple"}


class Unreadable(Exception):
    """The source does not tell: compiled, generated or too clever."""


class Absent(Exception):
    """The source tells that there is no such name. `choices` are the names that are there."""

    def __init__(self, parent: str, name: str, choices: Sequence[str] = ()) -> None:
        self.parent, self.name, self.choices = parent, name, choices


@dataclass(frozen=True)
class Parameter:
    required: bool
    type: Any
    """For pydantic. Any: unknown; Never: no YAML value fits (a tensor, a module)."""


@dataclass(frozen=True)
class Signature:
    parameters: Mapping[str, Parameter]
    open: bool = False
    """Takes further keywords (**kwargs)."""
    is_function: bool = False


@dataclass(frozen=True)
class Import:
    module: str
    name: str | None = None


@dataclass(frozen=True)
class Module:
    """One parsed file and the names bound at its top level."""

    name: str
    folders: tuple[Path, ...]
    names: Mapping[str, ast.AST | Import] = field(default_factory=dict)
    stars: tuple[str, ...] = ()

    def submodules(self) -> list[str]:
        files = [path for folder in self.folders if folder.is_dir() for path in folder.iterdir()]
        return [path.name.split(".")[0] for path in files if path.suffix in (".py", ".so", ".pyd") or path.is_dir()]


@dataclass(frozen=True)
class Found:
    """A definition and the module it stands in; the module itself where `node` is None."""

    module: Module
    node: ast.AST | None


def signature(dotted: str) -> Signature:
    """Raises `Absent` and `Unreadable`."""
    *parents, name = dotted.split(".")
    for end in range(len(parents), 0, -1):
        module = read(".".join(parents[:end]))
        if module is not None:
            rest = [*parents[end:], name]
            found = find(rest[0], module)
            if len(rest) > 1:
                raise Unreadable
            return _signature_of(found)
    raise Absent("", parents[0] if parents else name)


def read(name: str) -> Module | None:
    """The module `name`, or None where there is none or it has no Python source."""
    file, folders = _locate(name)
    if file is None:
        return Module(name, folders) if folders else None
    return _parse(name, file, folders, file.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _parse(name: str, file: Path, folders: tuple[Path, ...], mtime: int) -> Module | None:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return None
    package = name if folders else name.rpartition(".")[0]
    names: dict[str, ast.AST | Import] = {}
    stars: list[str] = []
    for statement in _statements(tree.body):
        for bound, entry in _bindings(statement, package):
            if bound == "*" and isinstance(entry, Import):
                stars.append(entry.module)
            else:
                names[bound] = entry
    return Module(name, folders, names, tuple(stars))


def _locate(name: str) -> tuple[Path | None, tuple[Path, ...]]:
    """File of a module and, for packages, the folders of its submodules. Only the top level is asked of Python."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    file = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    folders = tuple(Path(folder) for folder in spec.submodule_search_locations or ())
    for part in rest:
        packages = tuple(folder / part for folder in folders if (folder / part).is_dir())
        files = [p / "__init__.py" for p in packages] + [folder / f"{part}.py" for folder in folders]
        file = next((path for path in files if path.is_file()), None)
        folders = packages if file is None or file.name == "__init__.py" else ()
    return file, folders


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if` and `try`."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from _statements([*statement.orelse, *statement.body])
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from _statements([*handlers, *statement.orelse, *statement.body])
        else:
            yield statement


def _bindings(statement: ast.stmt, package: str) -> Iterator[tuple[str, ast.AST | Import]]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name, statement
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case ast.Import(names=aliases):
            for alias in aliases:
                top = alias.name.split(".")[0]  # `import a.b` binds a
                yield alias.asname or top, Import(alias.name if alias.asname else top)
        case ast.ImportFrom(names=aliases):
            source = _absolute(statement, package)
            for alias in aliases:
                yield alias.asname or alias.name, Import(source, alias.name)


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parents = package.split(".")
    base = parents[: len(parents) - statement.level + 1]
    return ".".join([*base, statement.module] if statement.module else base)


def find(name: str, module: Module, seen: frozenset[tuple[str, str]] = frozenset()) -> Found:
    """The definition of `name` as seen in `module`, through re-exports."""
    if (module.name, name) in seen:
        raise Unreadable
    seen |= {(module.name, name)}
    entry = module.names.get(name)
    if isinstance(entry, Import):
        return _follow(entry, seen)
    if entry is not None:
        return Found(module, entry)
    certain = "__getattr__" not in module.names
    choices = [*module.names, *module.submodules()]
    for star in module.stars:
        try:
            return _follow(Import(star, name), seen)
        except Unreadable:
            certain = False
        except Absent as absent:
            choices += absent.choices
    submodule = read(f"{module.name}.{name}")
    if submodule is not None:
        return Found(submodule, None)
    if not certain or name in choices:
        raise Unreadable
    raise Absent(module.name, name, choices)


def _follow(entry: Import, seen: frozenset[tuple[str, str]]) -> Found:
    module = read(entry.module)
    if module is None:
        raise Unreadable
    return find(entry.name, module, seen) if entry.name else Found(module, None)


def resolve(expression: ast.AST, module: Module) -> Found:
    """What a name or a dotted name in the source stands for."""
    match expression:
        case ast.Name(id=name):
            return find(name, module)
        case ast.Attribute(value=value, attr=name):
            parent = resolve(value, module)
            if parent.node is None:
                return find(name, parent.module)
        case ast.Subscript(value=value):  # Generic[T]
            return resolve(value, module)
    raise Unreadable


def _signature_of(found: Found) -> Signature:
    match found.node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return replace(_of_function(found.node, found.module), is_function=True)
        case ast.ClassDef():
            return _of_class(found.node, found.module) or Signature({})
        case ast.Name() | ast.Attribute():
            return _signature_of(resolve(found.node, found.module))
    raise Unreadable


def _of_class(node: ast.ClassDef, module: Module, depth: int = 0) -> Signature | None:
    """Of the first `__init__` along the bases; None where all of them have nothing to say."""
    if depth > 12:
        raise Unreadable
    methods = {statement.name: statement for statement in node.body if isinstance(statement, Function)}
    if "__init__" in methods:
        return _of_function(methods["__init__"], module, bound=True)
    if "__new__" in methods:
        raise Unreadable
    inherited = [_of_base(base, module, depth) for base in node.bases if _last(base) not in PLAIN_BASES]
    decorators = [_last(decorator) for decorator in node.decorator_list]
    if "dataclass" in decorators or "NamedTuple" in map(_last, node.bases):
        parents = {k: p for signature in reversed(inherited) if signature for k, p in signature.parameters.items()}
        return Signature(parents | dict(_fields(node, module)))
    return next((signature for signature in inherited if signature), None)


def _of_base(base: ast.expr, module: Module, depth: int) -> Signature | None:
    try:
        found = resolve(base, module)
    except Absent as error:
        raise Unreadable from error
    if not isinstance(found.node, ast.ClassDef):
        raise Unreadable
    return _of_class(found.node, found.module, depth + 1)


def _fields(node: ast.ClassDef, module: Module) -> Iterator[tuple[str, Parameter]]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            options = _field_options(statement.value)
            hidden = options is not None and ast.unparse(options.get("init", ast.Constant(True))) == "False"
            if hidden or _last(statement.annotation) in ("ClassVar", "KW_ONLY"):
                continue
            given = statement.value if options is None else options.get("default") or options.get("default_factory")
            yield statement.target.id, Parameter(given is None, _type(statement.annotation, None, module))


def _field_options(value: ast.expr | None) -> dict[str | None, ast.expr] | None:
    if isinstance(value, ast.Call) and _last(value.func) == "field":
        return {keyword.arg: keyword.value for keyword in value.keywords}
    return None


def _of_function(node: Function, module: Module, bound: bool = False) -> Signature:
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + [*args.defaults]
    by_name = [*zip(positional, defaults, strict=True)][max(len(args.posonlyargs), int(bound)) :]
    by_name += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    parameters = {arg.arg: Parameter(default is None, _type(arg.annotation, default, module)) for arg, default in by_name}
    return Signature(parameters, open=args.kwarg is not None)


def _type(annotation: ast.expr | None, default: ast.expr | None, module: Module) -> Any:
    if annotation is None:
        return type_of_default(default)

    def look_up(expression: ast.expr, scope: Module) -> tuple[ast.expr, Module] | None:
        try:
            found = resolve(expression, scope)
        except (Absent, Unreadable):
            return None
        return (found.node, found.module) if isinstance(found.node, ast.expr) else None

    return type_of(annotation, module, look_up, optional=isinstance(default, ast.Constant) and default.value is None)


def _last(expression: ast.expr) -> str:
    """The last word of a dotted name, a call of it or a subscript of it."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _last(inner)
    return ""
