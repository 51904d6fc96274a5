"""Every line that a message tells to type is typed, as a shell would read it, and then nothing is wrong any more."""

from __future__ import annotations

import shlex

import pytest

from segkit.config.compose import check
from segkit.config.overrides import key_of
from segkit.system.errors import ProblemsFound

WHEN = """hydra.sweeper.when='{optimizer.momentum: "optimizer=sgd"}'"""
SWEEP = ("optimizer=adamw,sgd", "optimizer.momentum=0.8,0.9")
TYPED = [
    # overrides, whether they make a multirun, and the advice
    (("+hydra.sweeper.when={optimizer.momentum: optimizer=sgd}", *SWEEP), True, f"+{WHEN}"),
    (("hydra.sweeper.when='{optimizer.momentum: optimizer=sgd}'", *SWEEP), True, WHEN),
    (SWEEP, True, WHEN),
    (("seed=${oc.env:SEGKIT_SEED,7}",), False, """seed='"${oc.decode:${oc.env:SEGKIT_SEED,7}}"'"""),
    (("seed=${oc.decode:${oc.env:SEGKIT_SEED,7}}",), False, """seed='"${oc.decode:${oc.env:SEGKIT_SEED,7}}"'"""),
    (("augment.transforms={mirror: {_target_: albumentations.HorizontalFlip, p: 1}}",), False,
     "+augment.transforms.mirror='{_target_: albumentations.HorizontalFlip, p: 1}'"),
    (("seed=range(0,3)",), False, "-m seed='range(0,3)'"),
    (("seed=1,2",), False, "-m seed=1,2"),
    (("optimizer.amsgrad=true",), False, "+optimizer.amsgrad=true"),
    (("+optimizer.lr=0.1",), False, "optimizer.lr=VALUE"),
    (("colour=red",), False, "+colour=red"),
    (("extras.enforce_tags=true",), False, "tags=[dev]"),
    (("data.labels={0: a b, 255: c=d}",), False, """data.labels='{0: a b, 255: "c=d"}'"""),
    (("optimizer._target_=mynets.Mine",), False, "allow_targets='[mynets]'"),
    (("hparams_search=fetal_head_tpe",), False, "segkit train -m hparams_search=fetal_head_tpe …"),
    (("model=null",), False, "~model"),
]  # fmt: skip


def problems(words: list[str], multirun: bool) -> list[str]:
    try:
        check("train", words, multirun=multirun)
    except ProblemsFound as found:
        return [f"{problem.where} {problem.what};   {problem.fix}" for problem in found.problems]
    return []


@pytest.mark.parametrize(("overrides", "multirun", "advice"), TYPED, ids=[words[0] for words, _, _ in TYPED])
def test_what_a_message_tells_to_type_is_right(overrides: tuple[str, ...], multirun: bool, advice: str) -> None:
    found = problems(list(overrides), multirun)
    assert any(advice in line for line in found), found
    words = [word for word in shlex.split(advice.replace("VALUE", "0.1").replace("…", "")) if word not in ("segkit", "train")]
    again = [word for word in words if word != "-m"]
    rest = [word for word in overrides if not any(f"{key_of(new)}.".startswith(f"{key_of(word)}.") for new in again)]
    left = problems([*rest, *again], multirun or "-m" in words)
    if "mynets" in advice:  # which is not installed here
        assert [line for line in left if "there is no package mynets, neither installed nor in the working directory" in line] == left
    elif advice == "~model":
        assert "model is needed" in left[0], "a group may be left out, but no training does without this one"
    else:
        assert left == []
