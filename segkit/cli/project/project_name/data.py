"""The data set: which image and which mask are a case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from segkit import Case
from segkit.data.io import ImageFile, MaskFile
from segkit.data.sources import Source


class Discs(Source):
    """ROOT/images/NAME.png and ROOT/masks/NAME.png, in which 255 is the disc."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, labels={0: "background", 255: "disc"})

    def cases(self) -> Iterator[Case]:
        for image in sorted((self.root / "images").glob("*.png")):
            yield Case(id=image.stem, image=ImageFile(image), mask=MaskFile(self.root / "masks" / image.name), group=image.stem)

    def write_phantom(self, root: Path, n: int, seed: int) -> None:
        """Draw `n` discs in noise: what is trained on where data.root is null. Without this method data.root is needed."""
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            random = np.random.default_rng([seed, i])
            center, radius = random.integers(20, 44, 2), random.integers(8, 18)
            mask = cv2.circle(np.zeros((64, 64), np.uint8), tuple(map(int, center)), int(radius), 255, -1)
            noise = random.normal(90, 25, mask.shape)
            cv2.imwrite(str(root / "images" / f"{i:03d}.png"), np.clip(noise + 0.3 * mask, 0, 255).astype(np.uint8))
            cv2.imwrite(str(root / "masks" / f"{i:03d}.png"), mask)
