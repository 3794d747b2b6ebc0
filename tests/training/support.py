"""Pictures to train toys with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_pictures(folder: Path, *, train: int = 3, val: int = 2, side: int = 36) -> None:
    """Smooth noise in `folder`/train and `folder`/val."""
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("val", val)):
        (folder / name).mkdir()
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
