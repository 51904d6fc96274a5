"""A line to type works as typed: in a shell, and then in Hydra's grammar; no hint holds what either would misread."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import segkit
from segkit.system.shell import override

TEXTS = (r"^(\d+)_", "012", "1e3", "null", "True", "", "a b", "it's", "$x", "${x}", "a\\", "a\\'b", 'a"b', "*_4d*", "a=b", "ä", "x,y")
TEXTS += (r"volume-(?P<id>\d+)", "{a: 1}", "[a]", "~x", "!x", "a`b", "#x", "a\\\\b", "a;b", "a|b", "<id>", "/data/x_1.5/y-z")
BARE = re.compile(r"(?<!['\"\w.])(?<!['\"]\+)[a-z_]+(?:\.[a-z_]+)*=[\[{]")
"""A list or a table that a shell would take for a pattern."""


def read_back(line: str) -> object:
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    (one,) = OverridesParser.create().parse_overrides(words)
    return OmegaConf.to_container(OmegaConf.create({"value": one.value()}), resolve=True)["value"]  # type: ignore[index, call-overload]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_survives_the_shell_and_hydra(text: str) -> None:
    assert read_back(override("data.root", text)) == text


def test_lists_tables_and_numbers_do_too() -> None:
    for value in (["a", "b c", "012"], [0, 1.5], {"image": "img path", "mask": "label"}, None, True, False, 3):
        assert read_back(override("key", value)) == value  # type: ignore[arg-type]


def test_only_what_needs_quotes_has_them() -> None:
    assert override("data.root", "/data/set_1") == "data.root=/data/set_1"
    assert override("data.source.group", r"^(\d+)_") == r'''"data.source.group='^(\d+)_'"'''
    assert override("data.source.ignore", "*_4d*") == "data.source.ignore='*_4d*'"


def texts(file: Path) -> Iterator[str]:
    """Strings of a module as they are printed, with a gap for each value; no docstrings."""
    tree = ast.parse(file.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | plain:
            yield node.value


def test_hints_quote_lists_and_tables() -> None:
    package = Path(segkit.__file__).parent
    arguments = {"training/distributed.py"}  # of a process, which no shell reads
    found = [
        f"{file.relative_to(package)}: {text}"
        for file in package.rglob("*.py")
        if file.relative_to(package).as_posix() not in arguments
        for text in texts(file)
        if BARE.search(text)
    ]
    assert found == []


def test_guides_quote_lists_and_tables() -> None:
    guides = [*(Path(segkit.__file__).parent / "cli" / "guides").glob("*.md"), Path(segkit.__file__).parents[1] / "README.md"]
    commands = [line for guide in guides for line in guide.read_text().splitlines() if line.startswith("segkit ")]
    assert commands
    assert [line for line in commands if BARE.search(line.partition("    #")[0])] == []
