"""`segkit tune experiment=NAME`: the five stages of source 003 one after the other, each with what the ones before have found.

sanity (loss of the untrained network), overfit (two images by heart), lr (learning rates), lr_wd (with weight decays), final (long).
Each trial is an ordinary training with the group `stage` (conf/stage) in a folder of its own below outputs/NAME/tuning, named by
what it tries and by its config: the same trial is never trained twice, and one that was interrupted goes on.
"""

from __future__ import annotations

import re
import shlex
import sys
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segkit.config import compose
from segkit.system.errors import Problem, ProblemsFound, SegkitError, nearest

STAGES = ("sanity", "overfit", "lr", "lr_wd", "final")
PREFIX = re.compile(rf"^([+~]*)({'|'.join(STAGES)})\.(.+)$", re.DOTALL)
HANDED_ON = ("optimizer.lr", "optimizer.weight_decay")
"""Typed for the whole tuning, they are where it begins, not what each trial has."""
OWN = {
    "stage": ("is what segkit tune sets", "choose with  stages=[lr,final]"),
    "run": ("is set by segkit tune: each trial has a folder of its own", "leave it out, or take another  name=NAME"),
    "resume": ("is set by segkit tune: what is finished is skipped, what was interrupted goes on", "leave it out"),
}
WHOLE = ("experiment", "name", "data", "output_dir")
"""The same in all stages."""

EPILOG = """\
  OVERRIDE          as for segkit train; holds for every stage
  STAGE.OVERRIDE    for one stage alone:  final.trainer.max_epochs=100
                    what lr and lr_wd try:  lr.optimizer.lr=0.1,0.01  lr_wd.optimizer.weight_decay=0,1e-4
  stages=[lr,final] some stages instead of all five: sanity, overfit, lr, lr_wd, final

A stage that the command line does not change is what conf/stage says. The same command again goes on where it was stopped."""


@dataclass(frozen=True)
class Request:
    """What was typed: for all stages, for single ones, and the values to begin with."""

    stages: tuple[str, ...]
    overrides: tuple[str, ...]
    of_stage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    start: Mapping[str, str] = field(default_factory=dict)
    config_dirs: tuple[str, ...] = ()

    def jobs(self, stage: str, chosen: Mapping[str, str]) -> list[list[str]]:
        """The overrides of each trial of a stage. The untrained network learns at no rate."""
        own = self.of_stage.get(stage, ())
        return compose.jobs("train", [*self.overrides, *self.handed(stage, chosen), f"stage={stage}"], own, self.config_dirs)

    def handed(self, stage: str, chosen: Mapping[str, str]) -> list[str]:
        return [] if stage == STAGES[0] else [f"{key}={value}" for key, value in chosen.items()]


def main(argv: Sequence[str] = ()) -> int:
    """Exit code 0; 1 where a stage has no trial that worked; 2 for mistakes of input; 130 when interrupted."""
    try:
        request = read(argv)
        check(request)
        from segkit.cli.tune import tune

        return tune(request)
    except SegkitError as error:
        print(f"segkit tune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"segkit tune: stopped; go on with   {shlex.join(['segkit', 'tune', *argv])}", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def read(argv: Sequence[str]) -> Request:
    """The command line, sorted."""
    parser = ArgumentParser("segkit tune", description=__doc__, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="OVERRIDE", help="experiment=NAME and anything else of segkit train")
    parser.add_argument("-m", "--multirun", action="store_true", help="not here: lr and lr_wd sweep by themselves")
    parser.add_argument("--config-dir", action="append", default=[], metavar="DIR", help="your own config folder")
    args = parser.parse_intermixed_args(list(argv))
    if args.multirun:
        raise SegkitError("leave out -m: the stages sweep by themselves;   say what one of them tries:  lr.optimizer.lr=0.1,0.01")
    stages: tuple[str, ...] = STAGES
    overrides: list[str] = []
    of_stage: dict[str, tuple[str, ...]] = {}
    start: dict[str, str] = {}
    for word in args.words:
        key, _, value = word.partition("=")
        if key == "stages":
            stages = chosen_stages(value)
        elif match := PREFIX.match(word):
            sign, stage, rest = match.groups()
            of_stage[stage] = (*of_stage.get(stage, ()), sign + rest)
        elif key in HANDED_ON:
            start[key] = value
        else:
            overrides.append(word)
    return Request(stages, tuple(overrides), of_stage, start, tuple(args.config_dir))


def chosen_stages(text: str) -> tuple[str, ...]:
    """In the order in which they build on each other, whatever order they are typed in."""
    names = [name.strip() for name in text.strip("[] ").split(",") if name.strip()]
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        hint = nearest(unknown[0], STAGES) if unknown else ""
        what = f"there is no stage {unknown[0]}; {hint}".rstrip("; ") if unknown else "names no stage"
        raise SegkitError(f"stages={text}: {what};   choose from  stages=[{','.join(STAGES)}]")
    return tuple(stage for stage in STAGES if stage in names)


def check(request: Request) -> None:
    """Everything that is wrong with any stage, before the first one starts."""
    common = [*request.overrides, *(f"{key}={value}" for key, value in request.start.items())]
    problems = [*misplaced(request), *swept_in_all(common, request.config_dirs)]
    for stage in () if problems else request.stages:
        own = request.of_stage.get(stage, ())
        rest = [text for text in common if key_of(text) not in {key_of(word) for word in own}]
        try:
            compose.check("train", [*rest, f"stage={stage}", *own], request.config_dirs, multirun=True)
        except ProblemsFound as found:
            problems += found.problems
    if problems:
        raise ProblemsFound(dict.fromkeys(problems), "tuning starts")


def misplaced(request: Request) -> list[Problem]:
    """Keys that are not the user's here, or not of a single stage; stages that are not run."""
    words = [*request.overrides, *(word for of_stage in request.of_stage.values() for word in of_stage)]
    problems = [Problem(key, *OWN[key]) for word in words if (key := key_of(word)) in OWN]
    for stage, of_stage in request.of_stage.items():
        if stage not in request.stages:
            problems.append(Problem(f"{stage}.{key_of(of_stage[0])}", f"stage {stage} is not run", f"add it to  stages=[…,{stage}]"))
        wrong = [key for word in of_stage if (key := key_of(word)) in WHOLE]
        problems += [Problem(f"{stage}.{key}", "is the same in all stages", f"write  {key}=VALUE") for key in wrong]
    return problems


def swept_in_all(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[Problem]:
    """Values to try that belong to no stage."""
    problems = []
    for text in overrides:
        try:
            several = ("," in text or "(" in text) and len(compose.jobs("train", [text], config_dirs=config_dirs)) > 1
        except SegkitError:
            continue  # what cannot be read is told by the door
        if several:
            fix = "tune one at a time" if key_of(text) in WHOLE else f"write  lr.{text}"
            problems.append(Problem(key_of(text), "holds several values; which stage is to try them?", fix))
    return problems


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
