"""The built-in synthetic ultrasound."""

from __future__ import annotations

from pathlib import Path

from segkit.data.sources.folder import Folder


class Phantom(Folder):
    """Synthetic fetal heads: needs no download, and is what every first run and every test trains on.

        ROOT/images/NNN_K.png, ROOT/masks/NNN_K.png      0 and 255; NNN is the exam, K the image of it

    Args:
        root: folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, group=r"^(\d+)_")
        self.default_labels = {0: "background", 255: "head"}
