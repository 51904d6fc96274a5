"""What `ckpt`, `members` and `sweep` of a command mean, opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from segkit.config.schema import Evaluate, Hardware, InferenceOverride, Predict
from segkit.inference import predictor
from segkit.inference.ensemble import Combination, Ensemble, Member
from segkit.inference.predictor import Predictor
from segkit.models import checkpoint
from segkit.training.sweeps.folds import find_folds, one_of


def open_checkpoints(cfg: Evaluate | Predict) -> tuple[Predictor, list[Path]]:
    """One checkpoint, the ensemble of several or of the folds of a sweep, or a combination of members, and the files."""
    load = opener(cfg.hardware, cfg.allow_targets, cfg.inference)
    if cfg.members:
        found = {name: checkpoint.find(member.ckpt) for name, member in cfg.members.items()}
        loaded = {name: load([path]) for name, path in found.items()}
        members = [Member(name, one, tuple(cfg.members[name].labels or one.labels.classes)) for name, one in loaded.items()]
        return Combination(members, cfg.merge), list(found.values())
    if cfg.sweep is not None:
        paths = one_of(find_folds(cfg.sweep, cfg.where, cfg.partial)).ckpts
    else:
        paths = [checkpoint.find(ckpt) for ckpt in ([cfg.ckpt] if isinstance(cfg.ckpt, str) else cfg.ckpt or [])]
    return load(paths), paths


def opener(where: Hardware, allow: Sequence[str], inference: InferenceOverride | None = None) -> Callable[[Sequence[Path]], Predictor]:
    """What opens a checkpoint, or several as an ensemble, where and as a command says."""
    given = {} if inference is None else inference.model_dump(exclude_unset=True, exclude_none=True)

    def load(ckpts: Sequence[Path]) -> Predictor:
        loaded = [predictor.load(ckpt, where.accelerator, where.precision, where.threads, allow, given) for ckpt in ckpts]
        return loaded[0] if len(loaded) == 1 else Ensemble(loaded)

    return load
