"""A toy of an ablation: pictures, a benchmark, and a recipe of three steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from sparse_attn.imaging import resize

TOY = {"n_resblocks": 2, "n_feats": 8, "attention_at": [1]}


def make_data(folder: Path) -> Path:
    """`train`, `val` and `eval/Set5/x2` of smooth noise."""
    rng = np.random.default_rng(0)
    for name, count, side in (("train", 2, 36), ("val", 1, 32), ("eval/Set5/x2/HR", 2, 64)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(folder / name / f"{i}.png")
    (folder / "eval/Set5/x2/LR").mkdir()
    for path in (folder / "eval/Set5/x2/HR").iterdir():
        Image.fromarray(resize(np.asarray(Image.open(path)), 1 / 2)).save(folder / "eval/Set5/x2/LR" / path.name)
    return folder


def make_recipe(path: Path, **changes: object) -> Path:
    """A scale of effort for tests."""
    stage = {"name": "full", "steps": 3, "batch": 2, "patch": 16, "lr": 3e-3}
    values = {
        "model": "edsr_baseline_x2",
        "model_config": TOY,
        "train": "train",
        "val": "val",
        "precision": "float32",
        "ema": 0.5,
        "stages": [stage],
    }
    path.write_text(yaml.safe_dump({**values, **changes}))
    return path
