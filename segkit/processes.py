"""Several processes of one training on one machine (DDP): the first is the user's, it starts the others.

Lightning starts its children by repeating the command line, which in a Hydra multirun would start the whole sweep again.
So the command line is replaced by `segkit train resume=RUN`: the run folder holds the one job's whole config.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import segkit


def is_child() -> bool:
    """Whether this process was started by another one to share its training; it writes no files."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def replay_as(run: Path) -> None:
    """From here on, children of this process join the run in `run`."""
    sys.argv = [str(Path(segkit.__file__).with_name("__main__.py")), "train", f"resume={run.resolve()}"]
