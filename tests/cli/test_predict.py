"""A folder of masks belongs to one checkpoint and one way to use it: what is there already is never silently stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segkit.cli.predict import MARKER, check_output_folder
from segkit.config.commands import InferenceOverride
from segkit.config.compose import compose
from segkit.data.labels import LabelMap
from segkit.inference.ensemble import Combination, Ensemble, Member
from segkit.inference.postprocess import Decision
from segkit.inference.predictor import CheckpointPredictor, Predictor
from segkit.models.checkpoint import Metadata
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware
from tests.conftest import Cli

LARGEST, HOLES = ({"_target_": f"segkit.inference.{step}"} for step in ("LargestComponents", "FillHoles"))


class Opened(CheckpointPredictor):
    """A checkpoint of which only the metadata and the settings matter."""

    def __init__(self, classes: dict[int, str], **inference: Any) -> None:
        config: Any = compose("train", ["data=phantom", "name=x"])
        given = InferenceOverride(**inference).model_dump(exclude_unset=True)
        self.config = config.model_copy(update={"inference": config.inference.model_copy(update=given)})
        self.labels = LabelMap.of({0: "background", **classes})
        nobody: dict[str, Any] = {"train": [], "val": [], "test": []}
        self.metadata = Metadata(config.model_dump(), self.labels.as_dict(), 1, 255, [0.5], [0.5], nobody, "", "", True, "32", {})
        self.hardware, self.decide = Hardware.choose("cpu", "32", "auto"), Decision(self.labels, 0.5)


def settle(folder: Path, best: Predictor, *overrides: str) -> None:
    """Marks the folder as `segkit predict` does."""
    ckpt = folder.with_name("weights.ckpt")
    ckpt.write_bytes(b"the same everywhere")
    folder.mkdir(exist_ok=True)
    cfg: Any = compose("predict", [f"ckpt={ckpt}", "input=x", f"output={folder}", *overrides])
    (folder / MARKER).write_text(json.dumps(check_output_folder(cfg, best, [ckpt])))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tta": "flips"}, "inference.tta=none, not flips"),
        ({"threshold": 0.3}, "inference.threshold=0.5, not 0.3"),
        ({"threshold": {"head": 0.3}}, r"inference.threshold=0.5, not \{'head': 0.3\}"),
        ({"window": (64, 64)}, r"inference.window=auto, not \[64, 64\]"),
        ({"overlap": 0.75}, "inference.overlap=0.5, not 0.75"),
        ({"postprocess": {"largest": LARGEST}}, r"inference.postprocess=\[\], not \[\{'_target_': .*"),
    ],
)
def test_other_settings_need_another_folder(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    settle(tmp_path / "masks", Opened({1: "head"}))
    settle(tmp_path / "masks", Opened({1: "head"}, batch_size=3))  # which changes no mask
    with pytest.raises(SegkitError, match=f"masks made with {message};   name another  output=FOLDER,  or add  overwrite=true"):
        settle(tmp_path / "masks", Opened({1: "head"}, **changed))
    settle(tmp_path / "masks", Opened({1: "head"}, **changed), "overwrite=true")
    settle(tmp_path / "masks", Opened({1: "head"}, **changed))


def test_steps_in_another_order_are_other_steps(tmp_path: Path) -> None:
    settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"a": LARGEST, "b": HOLES}))
    settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"called otherwise": LARGEST, "b": HOLES, "switched off": None}))
    with pytest.raises(SegkitError, match=r"inference\.postprocess="):
        settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"b": HOLES, "a": LARGEST}))


def test_a_folder_that_names_a_step_as_segkit_0_1_did_is_no_other_folder(tmp_path: Path) -> None:
    settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"a": LARGEST}))
    note = tmp_path / "masks" / MARKER
    now = note.read_text()
    old = now.replace("segkit.inference.", "segkit.inference.postprocess.")
    assert old != now
    note.write_text(old)
    settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"a": LARGEST}))
    with pytest.raises(SegkitError, match=r"inference\.postprocess="):
        settle(tmp_path / "masks", Opened({1: "head"}, postprocess={"a": HOLES}))


def test_how_members_go_together_counts(tmp_path: Path) -> None:
    both = {1: "left", 2: "right"}

    def combined(left: str, right: str, merge: Any = "max_prob", **inference: Any) -> Combination:
        return Combination([Member("a", Opened(both, **inference), (left,)), Member("b", Opened(both), (right,))], merge)

    settle(tmp_path / "masks", combined("left", "right"))
    settle(tmp_path / "masks", combined("left", "right"))
    wanted = {
        "merge=max_prob, not priority": combined("left", "right", "priority"),
        r"members.labels=\[\['left'\], \['right'\]\], not \[\['right'\], \['left'\]\]": combined("right", "left"),
        r"inference.tta=none, not \['flips', 'none'\]": combined("left", "right", tta="flips"),
        "merge=max_prob, not None": Ensemble([Opened(both), Opened(both)]),
    }
    for message, other in wanted.items():
        with pytest.raises(SegkitError, match=message):
            settle(tmp_path / "masks", other)


def test_folders_of_an_older_segkit_know_the_checkpoint_alone(tmp_path: Path) -> None:
    settle(tmp_path / "masks", Opened({1: "head"}))
    note = tmp_path / "masks" / MARKER
    old = {key: value for key, value in json.loads(note.read_text()).items() if key != "settings"}
    note.write_text(json.dumps(old))
    settle(tmp_path / "masks", Opened({1: "head"}, tta="flips"))
    note.write_text(json.dumps({**old, "sha256": "of another"}))
    with pytest.raises(SegkitError, match="holds masks of another checkpoint"):
        settle(tmp_path / "masks", Opened({1: "head"}))


def test_a_changed_threshold_is_refused_at_the_command_line(trained: Path, segkit_in: Cli) -> None:
    assert segkit_in("phantom", "data=phantom", "output=images", "n=1").returncode == 0
    predict = ("predict", f"ckpt={trained}", "input=images/images", "output=masks")
    assert segkit_in(*predict).returncode == 0
    assert "1 there already" in segkit_in(*predict, "inference.threshold=0.5").stdout
    refused = segkit_in(*predict, "inference.threshold=0.4")
    assert refused.returncode == 2
    assert "inference.threshold=0.5, not 0.4" in refused.stdout + refused.stderr
