"""The built-in synthetic ultrasound: needs no download, and is what every first run and every test trains on."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from segkit.data.sources.folder import Folder


class Phantom(Folder):
    """images/NNN_k.png and masks/NNN_k.png, 0 and 255; NNN is the exam, k the image of it."""

    default_labels: ClassVar[dict[int | str, str] | None] = {0: "background", 255: "head"}

    def __init__(self, root: Path) -> None:
        super().__init__(root, group=r"^(\d+)_")
