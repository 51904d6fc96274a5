"""The cost of a search beside its trainings, whether it survives kills, and whether TPE with pruning pays.

    python scripts/bench_sweep.py [--trials 500] [--workers 2] [--kills 10]
    python scripts/bench_sweep.py --compare HC18_FOLDER [--epochs 8]

The first runs `segkit train -m` with a training of 10 ms in place of the real one, and prints the time a trial takes beyond these 10 ms
and how the parent's memory grows; then the same with `kill -9` of the parent and of trials in turn, restarted each time, and how often
each trial has finished. The second compares twelve trials of fetal_head by TPE with pruning with a grid of twelve, one after the other:
best Dice and time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

OBJECTIVE_SECONDS = 0.010
FAKE = (
    "name=fake",
    "sweep.name=bench",
    "optimizer.lr=tag(log,interval(1e-5,1e-1))",
    "optimizer.weight_decay=interval(0,1)",
)
SWEEP = Path("outputs/fake/sweeps/bench")


def fake_training(config: Any, overrides: list[str], run_dir: Path) -> None:
    """Leaves what the search reads of a run; `finished.log` has a line for every time that a trial came to its end."""
    from segkit.training.run_folder import RunFolder

    time.sleep(OBJECTIVE_SECONDS)
    score = 1 - abs(config.optimizer["lr"] - 1e-3) - 0.1 * config.optimizer["weight_decay"]
    (run_dir / "metrics.csv").write_text(f"epoch,seconds,val/dice\n0,{OBJECTIVE_SECONDS},{score}\n")
    RunFolder(run_dir).write_status("finished")
    with Path("finished.log").open("a") as log:
        log.write(f"{run_dir.name}\n")


def search(arguments: list[str]) -> int:
    """`segkit train …` with the fake training."""
    from dataclasses import replace

    from segkit.cli.main import BY_NAME, run

    return run(replace(BY_NAME["train"], runs="bench_sweep:fake_training"), arguments)


def start(cwd: Path, trials: int, workers: int) -> subprocess.Popen[bytes]:
    keys = [*FAKE, f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.n_jobs={workers}"]
    command = [sys.executable, str(Path(__file__).resolve()), "--search", "-m", *keys]
    with (cwd / "console.txt").open("a") as console:
        return subprocess.Popen(command, cwd=cwd, stdout=console, stderr=subprocess.STDOUT)


def n_finished(cwd: Path) -> int:
    log = cwd / "finished.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def overhead(cwd: Path, trials: int, workers: int) -> None:
    """From the end of the first trial on. Memory is the parent's own: libraries lie in files, which the system drops and reloads."""
    process = start(cwd, trials, workers)
    parent = psutil.Process(process.pid)
    points: list[tuple[int, float, float, float]] = []  # finished, seconds, processor seconds of all, MB
    while process.poll() is None:
        if n := n_finished(cwd):
            memory = parent.memory_info()
            points.append((n, time.perf_counter(), sum(parent.cpu_times()[:4]), (memory.rss - memory.shared) / 1e6))
        time.sleep(0.1)
    (n0, wall0, cpu0, memory0), (n1, wall1, cpu1, _) = points[0], points[-1]
    wall, cpu = (wall1 - wall0) / (n1 - n0), (cpu1 - cpu0) / (n1 - n0)
    beyond = 1000 * (wall - OBJECTIVE_SECONDS / workers)
    print(f"overhead   {beyond:.0f} ms a trial, {workers} at a time, {n1} trials; {1000 * cpu:.0f} ms of a core")
    print(f"memory     {memory0:.0f} MB at the first trial, {max(point[3] for point in points) - memory0:+.0f} MB at most after it")


def kills(cwd: Path, trials: int, workers: int, n: int) -> None:
    """In turn the parent and one of its trials; the next one once a good share of the rest has finished."""
    rng, begun, done, starts = random.Random(0), time.perf_counter(), 0, 0
    while starts < 2 * n + 2:
        process, starts = start(cwd, trials, workers), starts + 1
        while process.poll() is None and done < n:
            goal = n_finished(cwd) + rng.randint(1, max(2, trials // (2 * n)))
            while process.poll() is None and n_finished(cwd) < goal:
                time.sleep(0.01)
            done += kill(process, parent=done % 2 == 0)
        if process.wait() == 0:
            break
    finished = (cwd / "finished.log").read_text().split()
    states = study_states(cwd)
    print(f"kills      {done} of kill -9, {starts} starts, {time.perf_counter() - begun:.0f} s; {states}")
    print(f"counted    {len(finished)} came to their end, {len(set(finished))} different ones")


def kill(process: subprocess.Popen[bytes], parent: bool) -> bool:
    try:
        children = [process.pid] if parent else [child.pid for child in psutil.Process(process.pid).children()]
        os.kill(children[0], signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError, IndexError):
        return False
    return True


def study_states(cwd: Path) -> dict[str, int]:
    """Number of the attempts that count, by state."""
    import optuna

    from segkit.training.sweeps.storage import open_storage
    from segkit.training.sweeps.study import latest

    study = optuna.load_study(study_name="fake/bench", storage=open_storage(None, cwd / SWEEP))
    states = [trial.state.name for trial in latest(study.get_trials(deepcopy=False))]
    return {state: states.count(state) for state in sorted(set(states))}


def compare(root: str, epochs: int) -> None:
    """The grid has three rates, two weight decays two widths; TPE draws from the same ranges, those of hparams_search=fetal_head_tpe."""
    # a running mean of weights would lag behind by more than these epochs
    short = [f"trainer.max_epochs={epochs}", "callbacks.weight_averaging.decay=null"]
    common = ["experiment=fetal_head", f"data.root={Path(root).resolve()}", "name=both", *short]
    grid = ["optimizer.lr=1e-4,1e-3,1e-2", "optimizer.weight_decay=1e-4,1e-2", "model.widths=[8,16,32,64],[16,32,64,128]"]
    tpe = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "optimizer.weight_decay=tag(log,interval(1e-4,1e-2))", grid[2]]
    pruned = ["hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=4", f"hydra.sweeper.warmup_epochs={max(1, epochs // 4)}"]
    with tempfile.TemporaryDirectory() as folder:
        for name, keys in {"grid": grid, "tpe": [*tpe, *pruned, "hydra.sweeper.n_trials=12"]}.items():
            command = [sys.executable, "-m", "segkit", "train", "-m", *common, *keys, f"sweep.name={name}"]
            begun = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True)
            dice, seconds = best_dice(Path(folder, "outputs/both/sweeps", name)), time.perf_counter() - begun
            print(f"{name:<10} best Dice {dice:.4f} in {seconds:.0f} s")


def best_dice(sweep: Path) -> float:
    from segkit.training.sweeps.study import read_outcome

    outcomes = [read_outcome(path.parent, {"dice": "max"}) for path in sweep.glob("*/status.json")]
    return max(outcome.values[0] for outcome in outcomes if outcome and outcome.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--compare", metavar="HC18_FOLDER")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    if args.compare:
        return compare(args.compare, args.epochs)
    print(json.dumps({"cores": len(psutil.Process().cpu_affinity()), "load": os.getloadavg()[0]}))
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder), args.trials, args.workers)
    if args.kills:
        with tempfile.TemporaryDirectory() as folder:
            kills(Path(folder), args.trials, args.workers, args.kills)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--search"]:
        sys.exit(search(sys.argv[2:]))
    main()
