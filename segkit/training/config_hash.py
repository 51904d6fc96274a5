"""The identity of a training: a hash of its config, without what says where it runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkit.config.schema import Train

PLACE_KEYS = (
    *(
        "resume",
        "run",
        "output_dir",
        "sweep",
        "folds",
        "allow_targets",
        "task_name",
        "tags",
        "extras",
        "report",
        "logger",
        "trainer.log_every_n_steps",
    ),
    *(f"callbacks.{name}" for name in ("model_checkpoint", "pictures", "lr_monitor", "rich_progress_bar", "model_summary", "device_stats")),
    *("callbacks.validation_curves", "callbacks.throughput"),
    *("data.num_workers", "data.cache_gb", "data.disk_cache_gb", "trainer.threads"),
)
"""Keys that say where a run lives and how it is watched, not what it is."""


def config_hash(cfg: Train) -> str:
    content = without_places(cfg.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def with_found(cfg: Train, own: Train) -> Train:
    """`cfg` with the number that a run has found, whose config is `own`, in place of  data.batch_size=auto."""
    if cfg.data.batch_size != "auto":
        return cfg
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"batch_size": own.data.batch_size})})


def without_places(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    kept = {key: value for key, value in node.items() if not is_below(f"{prefix}{key}", PLACE_KEYS)}
    return {key: without_places(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value for key, value in kept.items()}


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config by dotted key."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_below(key: str, others: Sequence[str]) -> bool:
    """Whether a dotted key is one of them, or in a section that is."""
    return any(key == other or key.startswith(f"{other}.") for other in others)
