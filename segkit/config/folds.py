"""`folds=all`: one word for a multirun over all folds of a split. It is spelled out before Hydra starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from segkit.config.compose import compose
from segkit.config.schema import Split, Train
from segkit.config.sweeps import key_of
from segkit.system.errors import Problem, ProblemsFound

KEY, FOLD = "folds", "split.fold"


def spelled_out(argv: Sequence[str], overrides: Sequence[str], config_dirs: Sequence[Path | str] = ()) -> list[str]:
    """`argv`, with  -m split.fold=0,1,…  in place of  folds=all  or  folds=[0,1,…];  as it is where there is none of these."""
    given = [text for text in overrides if key_of(text) == KEY and not text.endswith("=null")]
    if not given:
        return list(argv)
    others = [text for text in overrides if text not in given]
    if any(key_of(text) == FOLD for text in others):
        raise ProblemsFound([Problem(KEY, f"and {FOLD} exclude each other", f"leave one out: {KEY} or {FOLD}")])
    if search := next((text for text in others if key_of(text) == "hparams_search" and not text.endswith("=null")), None):
        what = "of a search: each trial draws its own values, so no two folds would have the same"
        raise ProblemsFound([Problem(KEY, what, f"leave out {search}, and train the folds of its best values")])
    cfg = compose("train", [text for text in others if not is_swept(text)], config_dirs)
    assert isinstance(cfg, Train)
    folds = ",".join(map(str, numbers(given[-1].partition("=")[2], cfg.split)))
    return ["-m", *(word for word in argv if word not in (*given, "-m", "--multirun")), f"{FOLD}={folds}"]


def numbers(text: str, split: Split) -> list[int]:
    """Of the folds that are asked for. Raises `ProblemsFound` where the split has none."""
    if split.kind == "leave_one_out":
        what = "of split=leave_one_out are as many as the data have groups, which is not known yet"
        raise ProblemsFound([Problem(KEY, what, f"write  segkit train -m … '{FOLD}=range(0,N)'  with N groups (see segkit audit)")])
    if split.kind != "kfold":
        raise ProblemsFound([Problem(KEY, f"needs a split into folds, and split is {split.kind}", "add  split=kfold")])
    if text == "all":
        return list(range(split.n_folds))
    words = [word.strip() for word in text.strip("[]").split(",")]
    asked = [int(word) for word in words if word.isdecimal()]
    if len(asked) < len(words) or not text.startswith("["):
        raise ProblemsFound([Problem(KEY, f"needs all, or a list of folds, got {text!r}", f"write  {KEY}=all  or  {KEY}=[0,2]")])
    if len(set(asked)) < 2:
        raise ProblemsFound([Problem(KEY, "needs several folds", f"write  {FOLD}={asked[0]}  for one")])
    if beyond := [fold for fold in asked if fold >= split.n_folds]:
        what = f"has no fold {beyond[0]}: there are {split.n_folds}, counted from 0"
        raise ProblemsFound([Problem(KEY, what, f"{KEY}=all  or another  split.n_folds")])
    return sorted(set(asked))


def is_swept(text: str) -> bool:
    """What cannot be read is told with everything else that is wrong."""
    try:
        return OverridesParser.create().parse_override(text).is_sweep_override()
    except HydraException:
        return False
