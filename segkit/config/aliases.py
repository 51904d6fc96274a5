"""Old dotted names of building blocks, as checkpoints and run folders written before 0.2 name them in `_target_`."""

from __future__ import annotations

ALIASES: dict[str, str] = {
    "segkit.metrics.rand.CellScores": "segkit.metrics.topology.CellScores",
    "segkit.metrics.ellipse.HeadCircumference": "segkit.metrics.head_circumference.HeadCircumference",
    "segkit.losses.region.tversky_loss": "segkit.losses.overlap.tversky_loss",
    "segkit.losses.region.jaccard_loss": "segkit.losses.overlap.jaccard_loss",
    "segkit.losses.region.mcc_loss": "segkit.losses.overlap.mcc_loss",
    "segkit.losses.boundary.boundary_loss": "segkit.losses.distance.boundary_loss",
    "segkit.losses.boundary.hausdorff_loss": "segkit.losses.distance.hausdorff_loss",
}
"""Old name -> present public name."""

KEYWORDS: dict[str, dict[str, str]] = {}
"""Present public name -> {old keyword: present keyword}."""


def renamed(node: object) -> object:
    """A config node, at any depth, with old names of targets and their keywords replaced by the present ones."""
    if isinstance(node, list | tuple):
        return [renamed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {key: renamed(value) for key, value in node.items()}
    if isinstance(target := out.get("_target_"), str):
        out["_target_"] = target = ALIASES.get(target, target)
        keywords = KEYWORDS.get(target, {})
        out = {keywords.get(key, key): value for key, value in out.items()}
    return out
