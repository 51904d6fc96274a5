"""Old dotted names of building blocks, as checkpoints and run folders written before 0.2 name them in `_target_`."""

from __future__ import annotations

_MOVED = {
    "data.sources": (
        "brats.BraTS coco.Coco csv.Csv decathlon.Decathlon dicom.Dicom folder.Folder hc18.HC18 isbi_em.IsbiEm labelme.LabelMe lgg.LGG "
        "nerve.Nerve nnunet.NnUNet pelvis.Pelvis pengwin.Pengwin phantom.Phantom uw_madison.UWMadison"
    ),
    "inference": "postprocess.FillHoles postprocess.FitEllipse postprocess.LargestComponents postprocess.MinimumSize postprocess.Smooth",
    "metrics": (
        "confusion.Confusion ellipse.HeadCircumference objects.ObjectScores overlap.Overlap rand.CellScores surface.Surface "
        "uw_madison.UWMadison volume_error.VolumeError volumes.VolumeDice"
    ),
    "models": "multitask.MultiTaskUNet unet.UNet",
}
"""Package -> what is named without its module now."""
ALIASES: dict[str, str] = {
    "segkit.losses.boundary.boundary_loss": "segkit.losses.BoundaryLoss",
    "segkit.losses.boundary.hausdorff_loss": "segkit.losses.HausdorffLoss",
    "segkit.losses.cross_entropy.cross_entropy_loss": "segkit.losses.CrossEntropyLoss",
    "segkit.losses.dice.dice_loss": "segkit.losses.DiceLoss",
    "segkit.losses.lovasz.lovasz_loss": "segkit.losses.LovaszLoss",
    "segkit.losses.pixelwise.focal_loss": "segkit.losses.FocalLoss",
    "segkit.losses.pixelwise.mse_loss": "segkit.losses.MSELoss",
    "segkit.losses.region.jaccard_loss": "segkit.losses.JaccardLoss",
    "segkit.losses.region.mcc_loss": "segkit.losses.MCCLoss",
    "segkit.losses.region.tversky_loss": "segkit.losses.TverskyLoss",
    "segkit.metrics.centreline.Centreline": "segkit.metrics.Centerline",
    "segkit.models.smp.smp_network": "segkit.models.SMP",
    **{f"segkit.{where}.{old}": f"segkit.{where}.{old.partition('.')[2]}" for where, names in _MOVED.items() for old in names.split()},
}
"""Old name -> present public name."""

_ABSENT = {"over": "absent_classes"}
KEYWORDS: dict[str, dict[str, str]] = {
    "segkit.losses.CrossEntropyLoss": {"hardest": "topk_fraction"},
    **{f"segkit.losses.{name}": _ABSENT for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "MCCLoss")},
}
"""Present public name -> {old keyword: present keyword}."""

VALUES: dict[str, dict[str, str]] = {"over": {"all": "zero", "present": "skip", "strict": "formula"}}
"""Old keyword -> {old value: present value}."""


def renamed(node: object, typed: bool = False) -> object:
    """A config node, at any depth, with old names of targets and their keywords replaced by the present ones.

    With `typed` a node that names a present target keeps its keywords: what is typed today must be spelled as today.
    """
    if isinstance(node, list | tuple):
        return [renamed(inner, typed) for inner in node]
    if not isinstance(node, dict):
        return node
    out = {key: renamed(value, typed) for key, value in node.items()}
    target = out.get("_target_")
    if not isinstance(target, str) or (typed and target not in ALIASES):
        return out
    present = ALIASES.get(target, target)
    keywords = KEYWORDS.get(present, {})
    values = {key: VALUES[key].get(str(value), value) if key in VALUES and key in keywords else value for key, value in out.items()}
    return {**{keywords.get(key, key): value for key, value in values.items()}, "_target_": present}


def keyword_hint(target: str, keyword: str, prefix: str = "") -> str:
    """'did you mean loss.parts.dice.absent_classes?' for a keyword that has another name by now, else ''."""
    new = KEYWORDS.get(target, {}).get(keyword)
    return f"did you mean {prefix}{new}?" if new else ""
