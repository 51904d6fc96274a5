"""How a training ends: the exceptions that say so, and what status.json holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from segkit.system.errors import SegkitError


class Interrupted(Exception):
    """Training was stopped (Ctrl-C, SIGTERM) and has written its checkpoint."""


class Pruned(Exception):
    """The pruner of a sweep has stopped this training."""


class NonFinite(SegkitError):
    """A loss, gradient, weight, probability or score of a training is NaN or infinite. The same command would end the same."""

    exit_code = 1


class Status(BaseModel):
    """What is read of status.json."""

    model_config = ConfigDict(strict=True)

    state: Literal["running", "finished", "interrupted", "pruned", "failed"]
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    host: str
    process_started: float
    process: str = ""
    job: str | None = None
    traceback: str = ""
    diverged: str = ""
    ended_by: str = ""
