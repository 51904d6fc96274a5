"""The command line as a user meets it: fast help, readable errors, exit codes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.cli.main import BY_NAME


def segkit(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segkit", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=120)


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",)])
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code = (
        "import sys; from segkit.cli.main import main\n"
        f"code = main({list(words)!r})\n"
        "heavy = sorted({'torch', 'hydra', 'numpy', 'pydantic', 'rich'} & set(sys.modules))\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("train", "doctor")) or "--version" in words


def test_help_of_a_command_shows_groups_and_examples() -> None:
    done = segkit("train", "--help")
    assert "[adamw]" in done.stdout
    assert "segkit train experiment=quickstart" in done.stdout
    assert "_defaults" not in done.stdout


def test_unknown_command() -> None:
    done = segkit("trian")
    assert done.returncode == 2
    assert done.stderr == "segkit: no such command trian; did you mean segkit train?\n"


def test_mistakes_end_in_one_plain_message_without_torch(tmp_path: Path) -> None:
    done = segkit("train", "modle=unet", "trainer.max_epochs=abc", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "segkit train: 2 problems to fix before training starts\n"
        "  modle                no such key; did you mean model?\n"
        "  trainer.max_epochs   needs a whole number, got 'abc'\n"
    )
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_typo_in_a_sweep_is_found_before_the_first_job(tmp_path: Path) -> None:
    done = segkit("train", "-m", "model=unet,unett", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert "unett is not a valid option; did you mean unet?" in done.stderr
    assert "job 0" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_hydra_grammar_is_all_there() -> None:
    shown = segkit("train", "experiment=quickstart", "seed=3", "--cfg", "job")
    assert shown.returncode == 0
    assert "seed: 3" in shown.stdout
    assert "Config search path" in segkit("train", "--info", "searchpath").stdout
    wrong = segkit("train", "--cfg", "job", "model=unett")
    assert wrong.returncode == 2
    assert "did you mean unet?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_phantoms_are_written_and_every_job_of_a_multirun_runs(tmp_path: Path) -> None:
    done = segkit("phantom", "-m", f"output={tmp_path}/a,{tmp_path}/b", "n=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("job ") == 2
    assert not done.stderr
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").is_dir()


def test_errors_of_a_job_are_ours_and_the_other_jobs_continue(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious.txt").write_text("mine")
    done = segkit("phantom", "-m", f"output={tmp_path}/taken,{tmp_path}/free", "n=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "1 of 2 jobs failed" in done.stderr
    assert (tmp_path / "free").is_dir()


def test_a_crash_shows_the_whole_traceback_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "crash.yaml").write_text("defaults: [_defaults]\nsource: {_target_: cli_crash.Crash}\n")
    (tmp_path / "cli_crash.py").write_text("class Crash:\n    def __init__(self, root): raise OSError('boom')\n")
    done = segkit("phantom", "data=crash", "allow_targets=[cli_crash]", "output=out", cwd=tmp_path)
    assert done.returncode == 1
    assert "cli_crash.py" in done.stderr
    assert "OSError: boom" in done.stderr


@pytest.mark.parametrize(
    ("raised", "told"), [("KeyboardInterrupt", "interrupted"), ("Interrupted('go on with  resume=x')", "go on with  resume=x")]
)
def test_ctrl_c_is_one_line_and_130(tmp_path: Path, raised: str, told: str) -> None:
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "stop.yaml").write_text("defaults: [_defaults]\nsource: {_target_: cli_stop.Stop}\n")
    (tmp_path / "cli_stop.py").write_text(
        f"from segkit.training.status import Interrupted\nclass Stop:\n    def __init__(self, root): raise {raised}\n"
    )
    done = segkit("phantom", "data=stop", "allow_targets=[cli_stop]", "output=out", cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr == f"segkit phantom: {told}\n"


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("segkit ", set(BY_NAME)),
        ("segkit ph", {"phantom"}),
        ("segkit train optimizer=a", {"optimizer=adam", "optimizer=adamw"}),
        ("segkit train optimizer.l", {"optimizer.lr="}),
        ("segkit predict har", {"hardware.", "hardware="}),
    ],
)
def test_completion_in_bash(line: str, answers: set[str], tmp_path: Path) -> None:
    program = tmp_path / "segkit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m segkit "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(segkit --shell-completion install=bash)"\n'
        'COMP_LINE="$LINE"; COMP_POINT=${#LINE}; COMP_WORDS=($LINE); [[ "$LINE" == *" " ]] && COMP_WORDS+=("")\n'
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        "$(complete -p segkit | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LINE": line}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert set(done.stdout.split()) == answers, done.stderr


def test_the_python_api_is_lazy() -> None:
    code = (
        "import sys, segkit\n"
        "assert segkit.SegkitError and segkit.compose('cache').clear is False and segkit.Manifest\n"
        "assert set(segkit.__all__) <= set(dir(segkit))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    import segkit

    for name in segkit.__all__:
        assert getattr(segkit, name)


def test_scripts_train_is_segkit_train() -> None:
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    done = subprocess.run([sys.executable, str(script), "modle=unet"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean model?" in done.stderr
