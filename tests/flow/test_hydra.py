"""What users of Hydra type: run folders of their own, keys of their own, their own primary config and script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import segkit
from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.system.environment import TRIAL
from segkit.system.errors import SegkitError
from segkit.training.run_folder import RunFolder
from tests.conftest import SMALL, Cli, run_segkit

TINY = (*SMALL, "data.phantom_n=6", "preprocess.size=[32,32]", "model.widths=[4,8]", "trainer.max_epochs=1")
SCRIPT = """
import hydra
import segkit


@hydra.main(version_base="1.3", config_path=str(segkit.CONF), config_name="train")
def main(cfg):
    print("FOLDER", segkit.train(cfg).folder)


main()
"""


def printed(segkit_in: Cli, *words: str) -> dict:
    done = segkit_in("train", *words, "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.slow
def test_the_grammar_of_hydra(segkit_in: Cli, tmp_path: Path) -> None:
    for name, text in {
        "conf/mygroup/a.yaml": "size: [32, 32]",
        "conf/mine.yaml": "defaults: [train, {override model: unet_light}, _self_]\npaths: {data: here}\nname: ${paths.data}",
        "other/train.yaml": "defaults: [{data: phantom}, _self_]\nname: there",
        "circle/train.yaml": "defaults: [train]",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = printed(segkit_in, "+mygroup=a", "preprocess.size=${mygroup.size}", "-m", "++optimizer.lr=0.3", "+optimizer@second=sgd")
    assert (found["preprocess"]["size"], found["optimizer"]["lr"], found["second"]["momentum"]) == ([32, 32], 0.3, 0.9)
    none = printed(segkit_in, "~logger", "~callbacks", "~augment", "experiment=quickstart")
    assert not any({**none["augment"], **none["logger"]}.values())
    assert printed(segkit_in, "--config-name=mine", "seed=3")["name"] == "here"
    assert printed(segkit_in, "--config-path", "other", "--config-dir", "conf")["name"] == "there", "its own train.yaml, asked for by name"
    assert printed(segkit_in)["name"] is None, "no other config takes the place of ours by itself"
    part = segkit_in("train", "--cfg", "job", "optimizer=sgd", "--package", "optimizer")
    assert part.stdout.startswith("# @package optimizer")
    assert "Config search path" in segkit_in("train", "--info", "all").stdout
    for words, refusal in {
        ("--config-name=evaluate",): "is the config of another command;   type  segkit evaluate",
        ("--config-name=nowhere",): "there is no nowhere.yaml in conf",
        ("--config-path=nowhere",): "is no folder",
        ("--config-path=circle",): "the defaults of a config lead back to itself",
        ("--multi",): "unrecognized arguments: --multi;   segkit train --help",
        ("+sede=3",): "no such key; did you mean seed?",
    }.items():
        done = segkit_in("train", *words)
        assert done.returncode == 2
        assert refusal in done.stderr


def test_own_folders_keys_and_callbacks(tmp_path: Path) -> None:
    (tmp_path / "mycb.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Hello(Callback):\n    def on_job_start(self, config, **more): print('HELLO', config.seed)\n"
    )
    own = ("+hydra.callbacks.hello._target_=mycb.Hello", "+note=x", "tags=[a,b]", "task_name=mine", "extras.print_config=true",
           "hydra.output_subdir=.hydra")  # fmt: skip
    done = run_segkit(tmp_path, "train", *TINY, "~logger", "hydra.run.dir=${task_name}/${hydra:runtime.choices.model}", *own)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "mine" / "unet" / "config.yaml").read_text())
    assert (config["own"], config["tags"], config["task_name"]) == ({"note": "x"}, ["a", "b"], "mine")
    assert "HELLO 0" in done.stdout
    assert "print_config: true" in done.stdout
    again = run_segkit(tmp_path, "train", *TINY, "hydra.run.dir=mine/unet")
    assert "holds a run already;   choose another  hydra.run.dir=FOLDER,  or continue it with  resume=" in again.stderr


@pytest.mark.slow
def test_what_is_in_a_folder_is_not_deleted(tmp_path: Path) -> None:
    there = [tmp_path / name for name in ("logs/x/.hydra/config.yaml", "logs/x/checkpoints/epoch_3.ckpt", "logs/x/checkpoints/sub/a.ckpt",
             "sweeps/a/0/config.yaml", "sweeps/a/0/checkpoints/best.ckpt", "sweeps/a/1/config.yaml", "sweeps/a/1/metrics.csv")]  # fmt: skip
    for path in there:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    done = run_segkit(tmp_path, "train", *TINY, "hydra.run.dir=logs/x")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "logs/x is not empty, it holds .hydra, checkpoints;   choose another  hydra.run.dir=FOLDER" in done.stderr
    done = run_segkit(tmp_path, "train", "-m", *TINY, "hydra/sweeper=basic", "hydra.sweep.dir=sweeps/a", "seed=0,1")
    assert done.returncode == 2
    assert done.stderr.count("holds a run already;   choose another  hydra.sweep.dir=FOLDER") == 2
    assert all(path.read_text() == "mine" for path in there)


def test_a_trial_alone_starts_anew_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose("train", [*TINY, f"output_dir={tmp_path}"])
    assert isinstance(cfg, Train)
    stale = [tmp_path / "a" / name for name in ("metrics.csv", "checkpoints/best.ckpt", "checkpoints/sharded/0.ckpt")]
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(SegkitError, match="holds a run already"):
        RunFolder.create(cfg, [], tmp_path / "a")
    assert all(path.exists() for path in stale)
    monkeypatch.setenv(TRIAL, "{}")
    run = RunFolder.create(cfg, [], tmp_path / "a")
    run.unlock()
    assert not any(path.exists() for path in stale)
    assert (run.path / "config.yaml").is_file()


def test_a_job_runs_in_its_own_folder_if_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "mycallback.py").write_text(
        "import lightning\nclass Writes(lightning.Callback):\n    def on_fit_end(self, *_): open('here.txt', 'w').write('x')\n"
    )
    own = ("+callbacks.writes._target_=mycallback.Writes", "allow_targets=[mycallback]")
    done = run_segkit(tmp_path, "train", *TINY, "hydra.job.chdir=true", "run=moved", *own)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "small" / "moved" / "here.txt").is_file()
    assert (tmp_path / "outputs" / "small" / "moved" / "cases.csv").is_file()


@pytest.mark.slow
def test_a_script_of_the_users_own_under_hydra_main(tmp_path: Path) -> None:
    (tmp_path / "mytrain.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "mytrain.py", *TINY, "run=first"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FOLDER outputs/small/first" in done.stdout
    assert (tmp_path / "outputs" / "small" / "first" / "cases.csv").is_file()


def test_composed_nodes_are_built_by_hydra() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(segkit.CONF), version_base="1.3"):
        cfg = hydra.compose("train", ["model.widths=[4,8]", "preprocess.size=[32,32]"])
        smp = hydra.compose("train", ["model=smp", "model.encoder_name=resnet18"])
    network = hydra.utils.instantiate(cfg.model, in_channels=1, out_channels=2)
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)
    assert hydra.utils.instantiate(smp.model, in_channels=1, out_channels=2)
    optimizer = hydra.utils.instantiate(cfg.optimizer, params=network.parameters())
    assert isinstance(optimizer, torch.optim.AdamW)
    for node in (*cfg.augment.transforms.values(), *cfg.metric.cases.values()):
        assert hydra.utils.instantiate(node) is not None
    assert hydra.utils.instantiate(cfg.loss.parts.dice, mode="binary")
