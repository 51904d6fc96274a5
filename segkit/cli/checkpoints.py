"""Load what `ckpt`, `members` and `sweep` of a command name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segkit.config.commands import Calibrate, Evaluate, Predict
from segkit.inference.ensemble import Combination, Ensemble, Member
from segkit.inference.predictor import CheckpointPredictor, Predictor, load
from segkit.models import checkpoint
from segkit.system.errors import SegkitError
from segkit.system.files import check_writable
from segkit.training.sweeps.folds import find_folds, one_of

ELSEWHERE = "choose another  output=FOLDER"


def check_output(folder: Path) -> None:
    """Raise SegkitError unless files can be made in `folder`, and it is no run folder, whose own tables they would replace."""
    if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
        raise SegkitError(f"output={folder} is a run folder, whose own tables and figures would be replaced;   {ELSEWHERE}")
    check_writable(folder, ELSEWHERE)


def load_predictor(cfg: Evaluate | Predict) -> tuple[Predictor, list[Path]]:
    """One checkpoint, the ensemble of several or of a sweep's folds, or a combination of members; and their files."""
    if cfg.members:
        found = {name: checkpoint.find(member.ckpt) for name, member in cfg.members.items()}
        loaded = {name: load_checkpoint(cfg, path) for name, path in found.items()}
        members = [Member(name, one, tuple(cfg.members[name].labels or one.labels.classes)) for name, one in loaded.items()]
        return Combination(members, cfg.merge), list(found.values())
    if cfg.sweep is not None:
        paths = one_of(find_folds(cfg.sweep, cfg.where, cfg.partial)).ckpts
    else:
        paths = [checkpoint.find(ckpt) for ckpt in ([cfg.ckpt] if isinstance(cfg.ckpt, str) else cfg.ckpt or [])]
    return load_checkpoints(cfg, paths), paths


def load_checkpoints(cfg: Evaluate | Predict | Calibrate, ckpts: Sequence[Path]) -> Predictor:
    """One checkpoint, or several as an ensemble."""
    loaded = [load_checkpoint(cfg, path) for path in ckpts]
    return loaded[0] if len(loaded) == 1 else Ensemble(loaded)


def load_checkpoint(cfg: Evaluate | Predict | Calibrate, path: Path) -> CheckpointPredictor:
    """On the hardware and with the inference settings that the command asks for."""
    if isinstance(cfg, Calibrate) and path.suffix in checkpoint.EXPORTED:
        raise SegkitError(f"{path} is an exported network;   calibrate the checkpoint that it was made of, then export that")
    settings = {} if isinstance(cfg, Calibrate) else cfg.inference.model_dump(exclude_unset=True, exclude_none=True)
    hardware = (cfg.hardware.accelerator, cfg.hardware.precision, cfg.hardware.threads)
    return load(path, *hardware, cfg.allow_targets, settings, cfg.data.channels)
