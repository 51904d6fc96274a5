"""`segkit share`: write a checkpoint as a folder for others, and push it to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from segkit.config.commands import Share
from segkit.models.hub import push, save
from segkit.system.files import check_writable
from segkit.system.progress import console
from segkit.system.shell import override


def command(cfg: Share) -> int:
    check_writable(Path(cfg.output), "choose another  output=FOLDER")
    folder = save(cfg.ckpt, cfg.output)
    console.print(f"written to {folder};   segkit predict {override('ckpt', str(folder))} input=IMAGES output=MASKS", markup=False)
    if cfg.push is not None:
        console.print(f"pushed to {push(folder, cfg.push, cfg.private)}", markup=False)
    return 0
