"""What README tells a reader to type is what segkit takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from segkit.cli.commands import BY_NAME
from segkit.cli.main import as_keys
from segkit.config import compose
from segkit.config.folds import spelled_out
from segkit.config.schema import COMMANDS
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text()
LINES = [line.split("    #")[0].strip() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
SEGKIT = [line for line in LINES if line.startswith("segkit ")]


def test_there_is_something_to_check() -> None:
    assert len(SEGKIT) > 10
    assert len(TEXT.splitlines()) <= 320


@pytest.mark.parametrize("line", SEGKIT)
def test_a_command_of_the_readme_passes_the_door(line: str, tmp_path: Path) -> None:
    """`mine` is the preset that the page has the reader write with `segkit plan`."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    _, command, *words = shlex.split(line)
    assert command in BY_NAME
    if not BY_NAME[command].has_config:
        return
    assert command in COMMANDS
    words = as_keys(BY_NAME[command], words, [word for word in words if not word.startswith("-")])
    words = spelled_out(words, words, [tmp_path]) if command == "train" else words
    multirun = "-m" in words
    compose.check(command, [word for word in words if word != "-m"], [tmp_path], multirun=multirun)


@pytest.mark.parametrize("script", re.findall(r"bash (scripts/\w+\.sh)", TEXT))
def test_scripts_named_in_the_readme_exist(script: str) -> None:
    assert (REPOSITORY / script).is_file()


@pytest.mark.parametrize("preset", sorted(path.stem for path in (compose.CONF / "experiment").glob("*.yaml")))
def test_every_preset_is_named(preset: str) -> None:
    assert f"`{preset}`" in TEXT


@pytest.mark.parametrize("row", re.findall(r"^\| `(\w+)` \| ([a-z0-9_ ]+) \| ", TEXT, re.M))
def test_the_table_of_groups_lists_the_options_that_exist(row: tuple[str, str]) -> None:
    group, options = row
    if (compose.CONF / group).is_dir():
        found = {file.stem for file in (compose.CONF / group).glob("*.yaml") if not file.name.startswith("_")}
        assert set(options.split()) == found
