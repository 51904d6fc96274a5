"""README and guides: what they tell a reader to type is what segkit takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from segkit.cli.application import as_keys
from segkit.cli.main import BY_NAME
from segkit.config import compose
from segkit.config.commands import COMMANDS
from segkit.config.compose import spelled_out
from segkit.system.errors import SegkitError
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
GUIDES = sorted((REPOSITORY / "segkit" / "cli" / "guides").glob("*.md"))
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (README, *GUIDES)}
TEXT = "\n".join(PAGES.values())


def commands(text: str) -> list[str]:
    """The `segkit …` lines of the shell blocks, without their comments."""
    lines = [
        line.split("    #")[0].split("  # ")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("segkit ")]


def front_page_first(found: Callable[[str], Iterable[str]]) -> list[Any]:
    """What is found in README, and as slow cases what is found in guides alone."""
    first = set(found(PAGES["README"]))
    return [*sorted(first), *(pytest.param(one, marks=pytest.mark.slow) for one in sorted(set(found(TEXT)) - first))]


def test_the_front_page_is_short() -> None:
    assert len(commands(PAGES["README"])) > 10
    assert len(PAGES["README"].splitlines()) <= 200


@pytest.mark.parametrize("line", front_page_first(commands))
def test_a_documented_command_composes(line: str, tmp_path: Path) -> None:
    """`mine` and `heads` are presets that the pages have the reader write with `segkit plan`."""
    for name in ("mine", "heads"):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nname: {name}\n")
    _, command, *words = shlex.split(line)
    assert command in BY_NAME
    if not BY_NAME[command].has_config or "--help" in words or "allow_targets=" in line:
        return
    assert command in COMMANDS
    words = [word for word in words if word not in ("--cfg", "job")]
    words = as_keys(BY_NAME[command], words, [word for word in words if not word.startswith("-")])
    words = spelled_out(words, words, [tmp_path]) if command == "train" else words
    multirun = "-m" in words
    compose.check(command, [word for word in words if word != "-m"], [tmp_path], multirun=multirun)


def inline(text: str) -> list[str]:
    return re.findall(r"`'?((?:\w+=\w+ )?\+?[a-z]\w*(?:\.\w+)+=[^`]*?)'?`", text)


@pytest.mark.parametrize("override", front_page_first(inline))
def test_a_key_in_a_sentence_exists(override: str) -> None:
    """`split.path=FILE` and the like, which stand outside of the shell blocks."""
    words = shlex.split(override.replace("…", ""))
    order = sorted(COMMANDS, key=lambda command: (command != "train", command != "predict"))
    assert any("no such key" not in (refusal := refusal_of(command, words)) and "Could not" not in refusal for command in order)


def refusal_of(command: str, words: list[str]) -> str:
    try:
        compose.check(command, words)
    except SegkitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/\w+\.(?:sh|py)", TEXT))))
def test_scripts_named_in_the_documentation_exist(script: str) -> None:
    assert (REPOSITORY / script).is_file()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(segkit/[\w/]+(?:\.py|/))`", TEXT))))
def test_files_named_in_the_documentation_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_every_guide_is_listed_in_the_readme() -> None:
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGES["README"].partition("## Guides")[2], re.M)
    assert sorted(listed) == [page.stem for page in GUIDES]


@pytest.mark.parametrize("preset", sorted(path.stem for path in (compose.CONF / "experiment").glob("*.yaml")))
def test_every_preset_is_named(preset: str) -> None:
    assert f"`{preset}`" in PAGES["README"]
    assert f"`{preset}`" in PAGES["source_projects"]


@pytest.mark.parametrize("row", sorted(set(re.findall(r"^\| `(\w+)` \| ([a-z0-9_ ]+) \| ", TEXT, re.M))), ids=lambda row: row[0])
def test_the_tables_of_groups_list_the_options_that_exist(row: tuple[str, str]) -> None:
    group, options = row
    if (compose.CONF / group).is_dir():
        found = {file.stem for file in (compose.CONF / group).glob("*.yaml") if not file.name.startswith("_")}
        assert set(options.split()) == found


@pytest.mark.parametrize(
    "group",
    [
        "data",
        "split",
        "preprocess",
        "sampling",
        "augment",
        "model",
        "loss",
        "metric",
        "optimizer",
        "scheduler",
        "trainer",
        "callbacks",
        "logger",
    ],
)
def test_every_group_has_its_row(group: str) -> None:
    assert re.search(rf"^\| `{group}` \| [a-z0-9_ ]+ \| ", TEXT, re.M)


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGES["extending"], re.S))
def test_configs_of_the_guide_on_extending_are_yaml(block: str) -> None:
    import yaml

    assert yaml.safe_load(block)
