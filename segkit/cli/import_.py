"""`segkit import`: make a network that another program trained a checkpoint that segkit predicts and evaluates with."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from segkit.config.commands import Import
from segkit.data.labels import LabelMap
from segkit.models.weights.importing import ForeignNetwork, Reference, check_config, find, labels_of, write
from segkit.models.weights.load import PLAIN, SCHEMAS, typed
from segkit.system.errors import SegkitError
from segkit.system.progress import console
from segkit.system.shell import override


def command(cfg: Import) -> int:
    found = find(cfg)
    check_config(cfg, found)
    labels = labels_of(cfg, found.shape["out_channels"])
    if labels.mode == "multiclass" and found.node.get("final") == "sigmoid":
        raise SegkitError(f"{found.schema} has {labels.n_outputs} sigmoid outputs, each by itself;   add  data.overlap=true")
    network = found.network(found.node, cfg.allow_targets)
    console.print(f"network    {found.schema}, {sum(p.numel() for p in network.parameters()):,} parameters", markup=False)
    compare(cfg, found)
    name = cfg.name or (found.schema if found.schema != PLAIN else Path(urlsplit(cfg.weights).path).stem)
    report(write(cfg, found, labels, name, network), found, labels)
    return 0


def compare(cfg: Import, found: ForeignNetwork) -> None:
    """Compare with what the foreign program computed, or print that nobody did."""
    if cfg.reference is None:
        console.print("meaning    rests on the schema alone;   reference=FILE.npz (input, output) would prove it", markup=False)
        return
    reference = Reference.read(Path(cfg.reference).expanduser())
    largest = reference.check(found, cfg.allow_targets)
    console.print(f"meaning    agrees with {cfg.reference}: largest difference {largest:.1g}", markup=False)


def report(folder: Path, found: ForeignNetwork, labels: LabelMap) -> None:
    """Print what the network is, which images it expects, and what can be done with it."""
    schema = SCHEMAS.get(found.schema)
    model = typed({key: value for key, value in found.node.items() if key not in ("_target_", "final")})
    lines = [
        *([f"images     {schema.images}", f"           {schema.preprocess}"] if schema else []),
        f"classes    {', '.join(labels.classes)}",
        f"checkpoint {folder}",
        f"  segkit predict {override('ckpt', str(folder))} input=DIR output=DIR",
        f"  segkit evaluate {override('ckpt', str(folder))} data=NAME data.root=DIR",
        f"  segkit train {override('init_from', str(folder))} data=NAME data.root=DIR {model}",
    ]
    console.print("\n".join(lines), markup=False)
