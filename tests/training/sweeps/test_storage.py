"""Addresses of a study: where they lead, and what of them is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from segkit.system.environment import absolute, session, without_password
from segkit.system.errors import SegkitError
from segkit.training.sweeps.storage import open_storage
from tests.training.sweeps.conftest import settings


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql://u:secret@secret@h", "postgresql://u:***@h"),
        ("postgresql://u:sec/ret@h/db", "postgresql://u:***@h/db"),
        ("redis://:secret@h", "redis://:***@h"),
        ("postgresql://h/db?user=u&password=secret", "postgresql://h/db?user=u&password=***"),
        ("mysql://h/db?PASSWD=secret&a=1", "mysql://h/db?PASSWD=***&a=1"),
        ("postgresql://h/db?pwd=secret&sslpassword=secret", "postgresql://h/db?pwd=***&sslpassword=***"),
        ("hydra.sweeper.storage='mysql+pymysql://u:secret@h/db'", "hydra.sweeper.storage='mysql+pymysql://u:***@h/db'"),
    ],
)
def test_a_password_is_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize("text", ["postgresql://u@h:5432/db?sslmode=off", "sqlite:////a/b:c@d.db", "a/study.log", "optimizer.lr=1e-3"])
def test_what_has_no_password_stays(text: str) -> None:
    assert without_password(text) == text


def test_a_run_does_not_keep_the_password_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["segkit", "train", "-m", "hydra.sweeper.storage=postgresql://u:secret@h/db?password=secret", "optimizer.lr=1e-3,1e-4"]
    monkeypatch.setattr(sys, "argv", words)
    kept = json.dumps(session())
    assert "secret" not in kept
    assert "optimizer.lr=1e-3,1e-4" in kept


def test_an_address_that_is_none_is_reported_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(SegkitError) as error:
        open_storage("x y://u:secret@h", tmp_path)
    assert "secret" not in str(error.value)


def test_a_file_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("study.log") == str(tmp_path / "study.log")
    assert absolute("~/study.log") == str(tmp_path / "home/study.log")
    assert absolute("sqlite:///a/study.db") == f"sqlite:///{tmp_path}/a/study.db"
    assert settings(storage="study.log").storage == str(tmp_path / "study.log")
    open_storage("~/study.log", tmp_path)
    assert (tmp_path / "home/study.log").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("address", [None, "/a/study.log", "sqlite:////a/study.db", "sqlite:///:memory:", "sqlite://", "mysql://h/db"])
def test_an_address_that_is_the_same_from_everywhere_stays(address: str | None) -> None:
    assert absolute(address) == address
