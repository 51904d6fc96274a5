"""The table of commands: their help, and where each begins. Imports nothing, so that `segkit --help` is instant.

A command is one entry here, `conf/NAME.yaml` (its keys, one comment each), a model of the same keys in `config/schema.py` (listed in
its COMMANDS), and a function that takes the checked model and returns None or an exit code. Every command is typed by the same rule,
`segkit NAME group=choice key=value`; bare words are the value of the key that `positional` names: with positional="runs",
`segkit compare A B` is `segkit compare runs=[A,B]`, and `segkit sweep show` is `segkit sweep words=show`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name: As typed; also the name of its YAML and of its entry in `commands.COMMANDS`.
        help: One line for `segkit --help`.
        runs: `module:function`, called with the checked config (without `has_config` with the words typed), imported only then.
        examples: Lines for `segkit NAME --help`.
        about: What else `segkit NAME --help` says, between the first line and the keys.
        positional: The key that bare words are the value of: one word as text, several as a list. Empty: the command takes none.
        has_config: False: takes words and no keys, works without Hydra.
    """

    name: str
    help: str
    runs: str
    examples: tuple[str, ...] = ()
    about: str = ""
    positional: str = ""
    has_config: bool = True


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
    Command(
        "tune",
        "learning rate and weight decay in five stages, each a few trials",
        "segkit.cli.tune:main",
        ("segkit tune experiment=NAME", "segkit tune experiment=NAME stages=[lr,final] lr.optimizer.lr=0.1,0.01"),
        """\
  OVERRIDE           as for segkit train; holds for every stage
  STAGE.OVERRIDE     for one stage alone:  final.trainer.max_epochs=100
                     what lr and lr_wd try:  lr.optimizer.lr=0.1,0.01  lr_wd.optimizer.weight_decay=0,1e-4
  stages=[lr,final]  some stages instead of all five: sanity, overfit, lr, lr_wd, final

conf/stage has the stages as they are without overrides. The same command again resumes where it was stopped.""",
        has_config=False,
    ),
    Command(
        "sweep",
        "the sweeps, or what one of them has found: table, importance, figures, page",
        "segkit.cli.sweep:command",
        ("segkit sweep", "segkit sweep show NAME", "segkit sweep show NAME all=true"),
        """\
NAME: of the sweep, EXPERIMENT/NAME, or its folder. Prints the table so far, best first, means over seeds and folds, the importance of
the keys, and failures with their reasons; writes figures (history, parallel, importance, curves, pareto), trials.csv and sweep.html
into its folder. Without a name all sweeps are listed.""",
        positional="words",
    ),
    Command(
        "tensorboard",
        "open TensorBoard on an experiment, a sweep, a run or all",
        "segkit.cli.tensorboard:command",
        ("segkit tensorboard", "segkit tensorboard NAME port=6007"),
        """\
NAME: an experiment, a sweep, a run (RUN or EXPERIMENT/RUN) or a folder; without it all runs in output_dir. Ctrl-C stops it.
The tab HPARAMS has a row for each run or trial that has ended; runs that start later appear by themselves.
On another machine:  ssh -L 6006:localhost:6006 MACHINE  and  segkit tensorboard  there; or  host=0.0.0.0, which everybody can reach.""",
        positional="name",
    ),
    Command(
        "evaluate",
        "per-case table and figures of a checkpoint, or of masks",
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
        "segkit.cli.predict:predict",
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
        "segkit.cli.calibrate:calibrate",
        ("segkit calibrate ckpt=RUN_OR_FILE", "segkit calibrate sweep=NAME"),
    ),
    Command(
        "compare",
        "paired differences of two runs, with interval and test",
        "segkit.cli.compare:command",
        ("segkit compare RUN_A RUN_B",),
        """\
RUN_A and RUN_B: run folders, folders of sweeps over folds (after  segkit evaluate sweep=NAME), folders that segkit evaluate wrote, or
case tables (cases.csv, volumes.csv). Shows for each class and metric the paired difference B - A with its 95 % interval and a
Wilcoxon signed-rank test, over the cases that both have.""",
        positional="runs",
    ),
    Command(
        "models",
        "networks and encoders, with parameters and operations",
        "segkit.cli.models:command",
        ("segkit models", "segkit models resnet", "segkit models 'tu-convnext*' arch=FPN"),
        """\
Without a pattern: segkit's presets (model=NAME), and the architectures of model=smp (model.arch=NAME).
With one: encoders of that name (model.encoder_name=NAME), with wildcards, or a part of it.
GFLOP: of one forward pass over one image of size x size, in 10^9 operations; a multiply-add counts as two.""",
        positional="pattern",
    ),
    Command(
        "import",
        "make a checkpoint of a network that another program trained",
        "segkit.cli.import_:command",
        ("segkit import weights=FILE schema=auto preprocess.normalize=unit", "segkit import weights=https://… sha256=… experiment=NAME"),
    ),
    Command(
        "share",
        "write a checkpoint as a folder for others, or for the Hugging Face hub",
        "segkit.cli.share:command",
        ("segkit share ckpt=RUN_OR_FILE output=DIR", "segkit share ckpt=RUN_OR_FILE output=DIR push=OWNER/NAME"),
    ),
    Command(
        "audit",
        "check a data set; each problem with its fix",
        "segkit.cli.audit:command",
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
        "segkit.cli.phantom:command",
        ("segkit phantom output=DIR n=40", "segkit phantom output=DIR data=hc18"),
    ),
    Command(
        "cache",
        "show what is cached, and free it",
        "segkit.cli.cache:command",
        ("segkit cache", "segkit cache clear=true"),
    ),
    Command(
        "guide",
        "read a guide: how to do what, step by step",
        "segkit.cli.guide:command",
        ("segkit guide", "segkit guide reproducibility"),
        "Without a topic: the list of guides.",
        has_config=False,
    ),
    Command(
        "doctor",
        "check this installation and machine",
        "segkit.cli.doctor:main",
        ("segkit doctor", "segkit doctor OUTPUT_DIR"),
        "Checks Python, libraries, processor, GPU, compiler, memory and disk.",
        has_config=False,
    ),
)
BY_NAME = {command.name: command for command in COMMANDS}
FLAGS = """\
  -m, --multirun          run every combination of   key=a,b   key=range(0,3)   key=choice(a,b)
  --cfg job|hydra|all     print the config instead of running; with --resolve, resolved
  --config-dir DIR        your own config folder (DIR/data/mine.yaml is  data=mine); ./conf is used without asking
  --info                  how Hydra puts the config together
  --shell-completion install=bash|zsh|fish"""


def usage() -> str:
    """What `segkit --help` prints."""
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
