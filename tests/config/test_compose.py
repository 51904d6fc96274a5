"""The door: every mistake before torch, all at once, each with the right name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from segkit.config import compose as composing
from segkit.config import validate
from segkit.config.commands import Evaluate
from segkit.config.schema import Train, TrainerPrecision
from segkit.system.errors import ProblemsFound


def complaints(command: str, *overrides: str, multirun: bool = False, dirs: tuple[Path, ...] = ()) -> dict[str, str]:
    with pytest.raises(ProblemsFound) as caught:
        composing.check(command, overrides, dirs, multirun)
    assert len({p.where for p in caught.value.problems}) == len(caught.value.problems), "a key is complained about once"
    return {p.where: f"{p.what};   {p.fix}" if p.fix else p.what for p in caught.value.problems}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with its own ./conf and module."""
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "experiment").mkdir()
    (tmp_path / "conf" / "data" / "mine.yaml").write_text("defaults: [_defaults]\nsource: {_target_: door_nets.Mine, pattern: '*.png'}\n")
    (tmp_path / "conf" / "experiment" / "typo.yaml").write_text("# @package _global_\ntrainer: {max_epoch: 3}\n")
    (tmp_path / "conf" / "experiment" / "lost.yaml").write_text("# @package _global_\ndefaults: [{override /data: nowhere}]\n")
    (tmp_path / "conf" / "experiment" / "torn.yaml").write_text("# @package _global_\nname: [a\ntrainer: {\n")
    (tmp_path / "door_nets.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    root: str\n    pattern: str\n    deep: int = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_all_mistakes_are_reported_together() -> None:
    found = complaints("train", "modle=unet", "split=kfolds", "optimizer.lrr=1", "trainer.precision=fp8", "seed=x", "a b")
    assert found == {
        "a b": "has no value;   write  a b=VALUE",
        "modle": "no such key; did you mean model?",
        "split": "kfolds is not a valid option; did you mean kfold?;   available: auto, file, given, holdout, kfold, leave_one_out",
        "optimizer.lrr": "no such key; did you mean optimizer.lr?",
        "trainer.precision": f"must be one of {', '.join(get_args(TrainerPrecision))}; got 'fp8'",
        "seed": "needs a whole number, got 'x'",
    }


@pytest.mark.parametrize(
    ("override", "key", "complaint"),
    [
        ("optimizer.lr=abc", "optimizer.lr", "needs a number, got 'abc'"),
        ("optimzer.lr=1", "optimzer.lr", "no such key; did you mean optimizer.lr?"),
        ("max_epochs=3", "max_epochs", "no such key; did you mean trainer.max_epochs?"),
        ("ckpt_path=a.ckpt", "ckpt_path", "resume=RUN  continues a run,  init_from=RUN"),
        ("+ckpt_path=a.ckpt", "ckpt_path", "resume=RUN  continues a run,  init_from=RUN"),
        ("optimizer.amsgrad=true", "optimizer.amsgrad", "add it with  +optimizer.amsgrad=true"),
        ("optimizer._target_=torch.optim.AdamX", "optimizer", "did you mean torch.optim.Adam?"),
        ("model._target_=mynets.Net", "model", "add  allow_targets='[mynets]'"),
        ("model._target_=os.system", "model", "os.system is outside the allowed packages"),
        ("+model._partial_=1.5", "model._partial_", "must be true or false, got 1.5"),
        ("+model._recusive_=true", "model._recusive_", "is no key beside _target_"),
        ("+augment.transforms.brightness._partial_=true", "augment.transforms.brightness._partial_", "leave it out"),
        ("+optimizer.params=3", "optimizer.params", "leave it out"),
        ("augment.transforms.flip.p=often", "augment.transforms.flip.p", "needs a number, got 'often'"),
        ("augment.transforms.new={_target_: x}", "augment.transforms.new", "add it with  +augment.transforms.new="),
        ("data.labels.x=3", "data.labels.x", "data.labels has no keys: it is null;   set them together:  'data.labels={x: 3}'"),
        ("preprocess.size=[0,256]", "preprocess.size.0", "needs more than 0, got 0"),
        ("preprocess.size=[256]", "preprocess.size", "needs a list of at least 2, got [256]"),
        ("data.num_workers=-1", "data.num_workers", "needs auto or at least 0, got -1"),
        ("trainer.compile=maybe", "trainer.compile", "needs auto or true or false, got 'maybe'"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs", "a whole number, got 1.5"),
        ("+trainer.max_epoch=1", "trainer.max_epoch", "no such key; did you mean trainer.max_epochs?"),
        ("run=1.10", "run", "quote it"),
        ("run=../x", "run", "must name a folder below output_dir, got '../x'"),
        ("name=/x", "name", "must name a folder below output_dir, got '/x'"),
        ("name=${nope}", "name", "${nope} refers to nothing"),
        ("model=unet,smp", "model", "write  -m model=unet,smp"),
        ("data.root=/a(1)", "data.root", "quote the value:  \"data.root='/a(1)'\""),
        ("experiment=null", "experiment", "write  ~experiment"),
        ("hydra.run.dirr=x", "hydra.run.dirr", "did you mean hydra.run.dir?"),
    ],
)
def test_a_mistake_names_the_key_and_the_remedy(override: str, key: str, complaint: str) -> None:
    found = complaints("train", override)
    assert list(found) == [key]
    assert complaint in found[key]


def test_what_is_needed_is_asked_for() -> None:
    assert complaints("predict") == {
        "ckpt": "is needed;   add  ckpt=FILE",
        "input": "is needed;   add  input=FILE_OR_FOLDER,  or a data set in the training's layout  data.root=FOLDER",
        "output": "is needed;   add  output=FOLDER",
    }
    assert complaints("phantom", "output=x", "n=0") == {"n": "needs more than 0, got 0"}
    assert "no group model" in complaints("audit", "model=unet")["model"]


def test_a_preset_of_the_other_kind_is_one_mistake_however_much_it_sets() -> None:
    assert complaints("train", "experiment=pelvis_combination", "members.a.ckpt=x") == {
        "experiment": "pelvis_combination trains nothing;   "
        "segkit evaluate experiment=pelvis_combination members.a.ckpt=RUN members.b.ckpt=RUN"
    }
    for name in ("fetal_head", "pelvis_134", "quickstart"):
        for command in ("evaluate", "predict"):
            assert complaints(command, f"experiment={name}", "ckpt=x") == {
                "experiment": f"{name} is a preset of training;   leave it out: ckpt=RUN carries it already"
            }
    assert composing.groups("evaluate")["experiment"] == ("", ["pelvis_combination"])
    assert "pelvis_combination" not in composing.groups("train")["experiment"][1]


def test_own_presets_are_of_the_kind_that_they_set(user: Path) -> None:
    (user / "conf" / "experiment" / "flipped.yaml").write_text("# @package _global_\ninference: {tta: flips}\n")
    (user / "conf" / "experiment" / "five.yaml").write_text("# @package _global_\nckpt: [a, b, c, d, e]\n")
    composing.check("train", ["experiment=flipped"])
    composing.check("evaluate", ["experiment=flipped", "ckpt=x"])
    composing.check("evaluate", ["experiment=five"])
    assert complaints("train", "experiment=five") == {"experiment": "five trains nothing;   segkit evaluate experiment=five"}


def test_swept_values_are_tried_before_the_first_job() -> None:
    found = complaints("train", "model=unet,unet_light,smp,unett", "seed=1,abc", "data.batch_size=range(0,5)", multirun=True)
    assert set(found) == {"model", "seed", "data.batch_size"}
    assert set(complaints("train", "optimizer.lr=1e-3,-1e-3", "optimizer.weight_decay=interval(-1,0)", multirun=True)) == {
        "optimizer.lr",
        "optimizer.weight_decay",
    }
    assert set(complaints("train", "optimizer.lr=0.1,abc", "augment.transforms.flip.p=0.5,y", multirun=True)) == {
        "optimizer.lr",
        "augment.transforms.flip.p",
    }
    composing.check("train", ["experiment=glob(fetal_*,exclude=*_valid)", "seed=choice(0,1)", "trainer.precision=32,bf16"], multirun=True)


def test_numbers_stand_for_text_where_text_is_wanted() -> None:
    cfg = composing.compose("train", ["trainer.precision=32", "data.exclude=[12,012]", "data.labels={0: background, 255: 7}"])
    assert isinstance(cfg, Train)
    assert cfg.trainer.precision == "32"
    assert cfg.data.exclude == ["12", "012"]
    assert cfg.data.labels == {"0": "background", "255": "7"}


def test_an_experiment_is_named_by_its_preset_else_by_its_data() -> None:
    def name(*overrides: str) -> str | None:
        cfg = composing.compose("train", overrides)
        assert isinstance(cfg, Train)
        return cfg.name

    assert (name(), name("data=hc18"), name("name=mine")) == ("phantom", "hc18", "mine")
    assert name("experiment=quickstart") == "quickstart"


def test_seed_zero_is_a_seed_and_reaches_the_split() -> None:
    zero, seven = composing.compose("train", ["seed=0"]), composing.compose("train", ["seed=7"])
    assert isinstance(zero, Train)
    assert isinstance(seven, Train)
    assert (zero.seed, zero.split.seed, seven.split.seed) == (0, 0, 7)


def test_evaluate_knows_which_data_keys_were_given() -> None:
    moved = composing.compose("evaluate", ["ckpt=a", "data.root=/elsewhere"])
    other = composing.compose("evaluate", ["ckpt=a", "data=folder", "data.root=/elsewhere"])
    assert isinstance(moved, Evaluate)
    assert isinstance(other, Evaluate)
    assert moved.data.model_dump(exclude_unset=True) == {"root": "/elsewhere"}
    assert other.data.source is not None
    assert other.data.source["_target_"].endswith("Folder")


def test_own_configs_are_found_and_own_code_is_imported_only_where_it_is_allowed(user: Path) -> None:
    assert "add  allow_targets='[door_nets]'" in complaints("train", "data=mine")["data.source"]
    assert "door_nets" not in sys.modules
    allowed = ["data=mine", "allow_targets=[door_nets]"]
    composing.check("train", allowed)
    assert complaints("train", *allowed, "+data.source.deep=x") == {"data.source.deep": "needs a whole number, got 'x'"}
    assert "+data.source.deep=4" in complaints("train", *allowed, "data.source.deep=4")["data.source.deep"]
    assert "folder, hc18" in complaints("train", "data=mein")["data"]
    del sys.modules["door_nets"]


def test_mistakes_inside_own_configs_are_reported(user: Path) -> None:
    assert "did you mean trainer.max_epochs?" in complaints("train", "experiment=typo")["trainer.max_epoch"]
    assert "nowhere is not a valid option" in complaints("train", "experiment=lost")["data"]
    ((where, what),) = complaints("train", "experiment=torn").items()
    assert where.endswith("torn.yaml")
    assert "is no YAML" in what


def test_config_dirs_are_an_argument(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert "mine is not a valid option" in complaints("train", "data=mine")["data"]
    assert "data.source" in complaints("train", "data=mine", dirs=(user / "conf",))
    assert "is no folder" in complaints("train", dirs=(user / "nowhere",))["--config-dir"]


def test_a_saved_config_comes_back_the_same(tmp_path: Path) -> None:
    cfg = composing.compose("train", ["experiment=fetal_head", "data.labels={0: background, 255: head}"])
    saved = yaml.safe_load(yaml.safe_dump(cfg.model_dump(mode="json")))
    assert validate.validate("train", saved) == cfg
    saved["trainer"]["precison"] = "32"
    with pytest.raises(ProblemsFound, match=r"did you mean trainer\.precision\?"):
        validate.validate("train", saved)


def test_another_hydra_application_is_left_alone() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(composing.CONF), job_name="theirs", version_base="1.2"):
        theirs = GlobalHydra.instance().hydra
        composing.compose("train")
        assert GlobalHydra.instance().hydra is theirs
        assert compose("phantom", ["output=x"], return_hydra_config=True).hydra.job.name == "theirs"
    assert not GlobalHydra.instance().is_initialized()
    assert composing.compose("train") == composing.compose("train")


def test_no_mistake_in_segkits_own_keys_needs_torch() -> None:
    code = (
        "import sys; from segkit.config import compose as composing\n"
        "from segkit.system.errors import ProblemsFound\n"
        "for overrides in (['trainer.max_epochs=x', 'modle=unet'], ['trainer.max_epochs=0', 'optimizer._target_=os.system']):\n"
        "    try: composing.check('train', overrides)\n"
        "    except ProblemsFound as found: print(len(found.problems))\n"
        "print(sorted({'torch', 'lightning', 'albumentations', 'cv2'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2", "[]"]


def test_a_config_saved_by_another_version_is_completed_and_trimmed() -> None:
    saved = composing.compose("train", ["optimizer.lr=0.5", "loss=ce", "data.batch_size=3"]).model_dump(mode="json")
    del saved["data"]["shuffle"], saved["inference"]
    saved["trainer"]["gone"] = 1
    saved["allow_targets"] = ["os"]
    restored = validate.restore(saved, ["mynets"])
    assert restored.data.shuffle
    assert restored.inference.threshold == 0.5
    assert (restored.optimizer["lr"], restored.data.batch_size) == (0.5, 3)
    assert restored.loss.parts["dice"] is None
    assert restored.allow_targets == ["mynets"]
