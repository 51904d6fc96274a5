"""A checkpoint as a folder for others: the same masks, no code, no names of patients; and the hub's own client takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segkit
from segkit import SegkitError
from segkit.models import checkpoint
from tests.conftest import Cli, run_segkit

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8)


@pytest.fixture(scope="module")
def shared(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segkit.save(trained, tmp_path_factory.mktemp("shared") / "net")


def test_the_folder_predicts_what_the_checkpoint_predicts(trained: Path, shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} == {"model.safetensors", "segkit.json", "README.md"}
    ours, theirs = segkit.load(trained).predict(IMAGE), segkit.load(shared).predict(IMAGE)
    assert np.array_equal(ours.probs, theirs.probs)


def test_neither_paths_nor_names_of_cases_are_reported(trained: Path, shared: Path) -> None:
    before = checkpoint.load_model(trained)[1]
    text = "".join(path.read_text() for path in shared.iterdir() if path.suffix != ".safetensors")
    assert before.split["train"]
    assert before.data_root not in text
    assert not any(f'"{case}"' in text for case in [*before.split["train"], *before.split["val"]])


@pytest.mark.slow
def test_every_command_takes_the_folder(trained: Path, shared: Path, segkit_in: Cli, tmp_path: Path) -> None:
    done = segkit_in("evaluate", f"ckpt={shared}", "data=phantom")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "outputs/small/evaluation").glob("*/cases.csv"))
    done = segkit_in("share", f"ckpt={shared}", "output=again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again/segkit.json").read_bytes() == (shared / "segkit.json").read_bytes()


def test_a_folder_of_other_things_is_not_written_into(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SegkitError, match=r"holds other files \(thesis\.tex\)"):
        segkit.save(trained, tmp_path)


@pytest.mark.parametrize(("file", "words"), [("model.safetensors", "damaged"), ("segkit.json", "damaged")])
def test_a_damaged_folder_is_one_clear_error(shared: Path, tmp_path: Path, file: str, words: str) -> None:
    for path in shared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes((shared / file).read_bytes()[:40])
    with pytest.raises(SegkitError, match=words):
        segkit.load(tmp_path)
    (tmp_path / "segkit.json").unlink()
    with pytest.raises(SegkitError, match="segkit import weights="):
        segkit.load(tmp_path)


def test_the_model_card_warns_of_phantoms_and_has_the_header_of_the_hub(shared: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(shared / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == "segkit"
    assert "synthetic phantom data" in card.text


@pytest.mark.slow
def test_a_folder_in_the_cache_of_the_hub_is_found_by_its_address(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--me--net/snapshots/0123456789012345678901234567890123456789"
    snapshot.mkdir(parents=True)
    for path in shared.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (tmp_path / "models--me--net/refs").mkdir()
    (tmp_path / "models--me--net/refs/main").write_text(snapshot.name)
    code = "import segkit; print(segkit.load('hf://me/net').card.config['name'])"
    import os
    import subprocess
    import sys

    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "small", done.stderr
    done = run_segkit(
        tmp_path, "predict", "ckpt=hf://me/absent", "input=x", "output=y", env={"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 2
    assert "hf://me/absent cannot be downloaded" in done.stderr


def test_push_sends_the_folder_and_says_when_nobody_is_logged_in(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the hub's client, whose requests end here: what would be sent is what is looked at."""
    import huggingface_hub
    from huggingface_hub.errors import LocalTokenNotFoundError

    sent: list[dict[str, Any]] = []
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(api, "create_repo", lambda self, name, **options: f"https://huggingface.co/{name}")
    monkeypatch.setattr(api, "upload_folder", lambda self, **options: sent.append(options))
    assert segkit.push(shared, "me/net") == "https://huggingface.co/me/net"
    assert sent[0]["folder_path"] == str(shared)
    assert set(sent[0]["allow_patterns"]) == {path.name for path in shared.iterdir()}

    def nobody(self: Any) -> None:
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(api, "whoami", nobody)
    with pytest.raises(SegkitError, match="hf auth login"):
        segkit.push(shared, "me/net")


def test_the_card_is_plain_json(shared: Path) -> None:
    card = json.loads((shared / "segkit.json").read_text())
    assert card["labels"]["values"]
    assert card["data_root"] == ""
