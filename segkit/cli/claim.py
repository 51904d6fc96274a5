"""A folder of masks belongs to one checkpoint and one way to use it: what is there already is never silently stale."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.config.schema import Predict
from segkit.inference.ensemble import Combination, Together
from segkit.inference.predictor import Predictor
from segkit.system.errors import SegkitError
from segkit.system.files import read_json, sha256_of, write_text_atomic
from segkit.system.parts import write_text_if_new

CLAIM = ".checkpoint.json"
"""In a folder of masks: which checkpoint they are of."""


def claim(cfg: Predict, best: Predictor, ckpts: Sequence[Path]) -> dict[str, Any]:
    """Masks that are there already are skipped, so a folder belongs to one checkpoint, whose hash it keeps, and one way to use it."""
    sha256, files = " ".join(map(sha256_of, ckpts)), ", ".join(str(ckpt.absolute()) for ckpt in ckpts)
    mine = {"sha256": sha256, "ckpt": files, "settings": settings_of(cfg, best)}
    check_claim(cfg, mine)
    return mine


def check_claim(cfg: Predict, mine: Mapping[str, Any]) -> None:
    """SegkitError where the folder holds other masks, unless they are to be overwritten."""
    output = Path(cfg.output)
    theirs, settings = read_json(output / CLAIM), mine["settings"]
    fix = "name another  output=FOLDER,  or add  overwrite=true"
    if not theirs or cfg.overwrite:
        return
    if theirs.get("sha256") != mine["sha256"]:
        raise SegkitError(f"{output} holds masks of another checkpoint ({theirs.get('ckpt')});   {fix}")
    past = theirs.get("settings", {})  # older folders do not say
    if other := [f"{key}={past[key]}, not {settings[key]}" for key in settings if key in past and past[key] != settings[key]]:
        raise SegkitError(f"{output} holds masks made with {'; '.join(other)};   {fix}")


def occupy(cfg: Predict, mine: Mapping[str, Any]) -> None:
    """Several jobs may begin at once: the first one has the folder, and the others must agree with it."""
    text, path = json.dumps(mine, indent=1) + "\n", Path(cfg.output) / CLAIM
    if cfg.overwrite or not write_text_if_new(path, text):
        check_claim(cfg, mine)
        write_text_atomic(path, text)


def settings_of(cfg: Predict, best: Predictor) -> dict[str, Any]:
    """What besides the weights makes masks what they are, as JSON gives it back."""
    used = [one.config.inference.model_dump(mode="json") for one in (best.predictors if isinstance(best, Together) else [best])]
    for section in used:
        section["postprocess"] = [node for node in section["postprocess"].values() if node]  # their order counts, not their names
    alike = {key: [section[key] for section in used] for key in ("tta", "threshold", "window", "overlap", "postprocess")}
    combined = best if isinstance(best, Combination) else None
    return {
        **{f"inference.{key}": of[0] if all(one == of[0] for one in of) else of for key, of in alike.items()},
        "merge": combined and combined.merge,
        "members.labels": combined and [list(member.owned) for member in combined.members],
    }
