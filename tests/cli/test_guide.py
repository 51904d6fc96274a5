"""`segkit guide` lists and shows the guides that come with segkit."""

from __future__ import annotations

import pytest

from segkit.cli.guide import FOLDER, title
from segkit.cli.main import main


def test_topics_are_listed_with_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide"]) == 0
    printed = capsys.readouterr().out
    for path in FOLDER.glob("*.md"):
        assert f"segkit guide {path.stem}" in printed
        assert title(path) in printed


@pytest.mark.parametrize("topic", sorted(path.stem for path in FOLDER.glob("*.md")))
def test_a_guide_is_shown_as_text(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", topic]) == 0
    printed = capsys.readouterr().out
    assert title(FOLDER / f"{topic}.md") in printed
    assert "```" not in printed


def test_an_unknown_topic_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", "reproducability"]) == 2
    assert "did you mean segkit guide reproducibility?" in capsys.readouterr().err
