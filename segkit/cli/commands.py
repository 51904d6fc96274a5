"""The table of commands: what `segkit --help` shows, and where each begins. Imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    runs: str
    """module:function, called with the checked config (doctor: with its arguments)."""
    examples: tuple[str, ...] = ()


COMMANDS = (
    Command(
        "train",
        "train one experiment, or resume it",
        "segkit.training.train:train",
        (
            "segkit train experiment=quickstart",
            "segkit train data=folder data.root=DIR model=smp model.encoder_name=resnet34",
            "segkit train -m model=unet,unet_light seed=0,1,2",
            "segkit train experiment=NAME split=kfold folds=all",
            "segkit train -m hparams_search=fetal_head_tpe data.root=DIR",
            "segkit train resume=auto",
        ),
    ),
    Command("tune", "learning rate and weight decay in five stages, each a few trials", "segkit.cli.tune_command:main"),
    Command(
        "sweep", "what a sweep has found so far: table, importance, pictures, page", "segkit.cli.sweep:main", ("segkit sweep show NAME",)
    ),
    Command(
        "tensorboard",
        "open TensorBoard on an experiment, a sweep, a run or all",
        "segkit.cli.tensorboard:main",
        ("segkit tensorboard NAME",),
    ),
    Command(
        "evaluate",
        "per-case table and pictures of a checkpoint, or of masks",
        "segkit.cli.evaluate:evaluate",
        (
            "segkit evaluate ckpt=RUN_OR_FILE",
            "segkit evaluate ckpt=RUN_OR_FILE data=folder data.root=DIR",
            "segkit evaluate sweep=NAME",
            "segkit evaluate masks=DIR data=folder data.root=DIR metric=surface",
            "segkit evaluate experiment=pelvis_combination members.a.ckpt=RUN members.b.ckpt=RUN",
        ),
    ),
    Command(
        "predict",
        "masks for new images, on their own grid",
        "segkit.cli.evaluate:predict",
        (
            "segkit predict ckpt=RUN_OR_FILE input=DIR output=DIR",
            "segkit predict sweep=NAME input=DIR output=DIR",
            "segkit predict … overlays=true probabilities=true",
            "segkit predict … hardware.devices=2",
            "segkit predict … part=1/4",
        ),
    ),
    Command(
        "calibrate",
        "choose thresholds and post-processing on validation cases, where they help",
        "segkit.cli.calibrate:command",
        ("segkit calibrate ckpt=RUN_OR_FILE", "segkit calibrate sweep=NAME"),
    ),
    Command(
        "compare", "paired differences of two runs, with interval and test", "segkit.cli.compare:main", ("segkit compare RUN_A RUN_B",)
    ),
    Command("models", "networks and encoders, with parameters and operations", "segkit.cli.models:main"),
    Command(
        "import",
        "make a checkpoint of a network that another program trained",
        "segkit.models.weights.importing:command",
        ("segkit import weights=FILE schema=auto preprocess.normalize=unit", "segkit import weights=https://… sha256=… experiment=NAME"),
    ),
    Command(
        "share",
        "write a checkpoint as a folder for others, or for the Hugging Face hub",
        "segkit.models.hub:command",
        ("segkit share ckpt=RUN_OR_FILE output=DIR", "segkit share ckpt=RUN_OR_FILE output=DIR push=OWNER/NAME"),
    ),
    Command(
        "audit",
        "is the data what it seems? every fault with the line to type",
        "segkit.data.audit.audit:command",
        ("segkit audit data=folder data.root=DIR",),
    ),
    Command(
        "plan",
        "propose a preset for a data set, every choice with its reason",
        "segkit.cli.plan:command",
        ("segkit plan data=folder data.root=DIR name=mine", "segkit train experiment=mine"),
    ),
    Command(
        "phantom",
        "write a synthetic data set",
        "segkit.data.phantoms.base:command",
        ("segkit phantom output=DIR n=40", "segkit phantom output=DIR data=hc18"),
    ),
    Command(
        "cache",
        "what is kept for later, and how to free it",
        "segkit.data.cache:command",
        ("segkit cache", "segkit cache clear=true"),
    ),
    Command("doctor", "check this installation and machine", "segkit.cli.doctor:main"),
)
PLAIN = frozenset({"doctor", "models", "compare", "tune", "sweep", "tensorboard"})
"""Take arguments of their own, no config."""
BY_NAME = {command.name: command for command in COMMANDS}
FLAGS = """\
  -m, --multirun          run every combination of   key=a,b   key=range(0,3)   key=choice(a,b)
  --cfg job|hydra|all     print the config instead of running; with --resolve, resolved
  --config-dir DIR        your own config folder (DIR/data/mine.yaml is  data=mine); ./conf is used without asking
  --info                  how Hydra puts the config together
  --shell-completion install=bash|zsh|fish"""


def usage() -> str:
    lines = [f"  {command.name:<11} {command.help}" for command in COMMANDS]
    return "\n".join(
        [
            "segkit: medical image segmentation experiments",
            "",
            "  segkit COMMAND [group=choice …] [key=value …]",
            "",
            *lines,
            "",
            "  segkit COMMAND --help    groups, keys and examples of a command",
            '  eval "$(segkit --shell-completion install=bash)"    completes commands, keys and choices',
            "  segkit --version",
        ]
    )
