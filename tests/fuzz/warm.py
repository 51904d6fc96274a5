"""A process that has imported everything and forks: a segkit command as a process of its own, without the seconds of imports.

Each line of its input is a request in JSON, answered by a line: `start` with the id of a new process, `wait` with its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Warm:
    """The parent, as the test sees it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.warm"]
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def start(self, cwd: Path, *args: str) -> int:
        """The id of a process that runs `segkit ARGS` in `cwd`; what it prints is added to the file `log` there."""
        return int(self._ask({"cwd": str(cwd), "args": args}))

    def wait(self, pid: int) -> int:
        """The exit code; minus the signal that has killed it."""
        return int(self._ask({"pid": pid}))

    def run(self, cwd: Path, *args: str) -> None:
        code = self.wait(self.start(cwd, *args))
        assert code == 0, (cwd / "log").read_text()[-3000:]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, request: dict[str, Any]) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


def main() -> None:
    import segkit.training.sweeps.sweeper
    import segkit.training.train  # noqa: F401
    from segkit.cli import predict  # noqa: F401

    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        print(exit_code(request["pid"]) if "pid" in request else os.fork() or in_child(**request), flush=True)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(cwd: str, args: list[str]) -> int:
    from segkit.cli.main import main as segkit

    os.setsid()
    os.chdir(cwd)
    log = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    sys.argv = ["segkit", *args]
    sys.path.insert(0, cwd)
    code = 1
    try:
        code = segkit(args)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
