"""A folder of small images, and a cache folder of the test's own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_attn.data import TileCache, build_cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images and a shard with one more."""
    folder = tmp_path / "train"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (47, 61), "b.png": (29, 31), "c.png": (41, 37)}.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    with tarfile.open(folder / "shard.tar", "w") as shard:
        shard.add(folder / "c.png", "inner/c.png")
        shard.add(folder / "c.png", "notes.txt")
    (folder / "c.png").unlink()
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def cache(folder: Path) -> TileCache:
    """At x2: LR images of 23x30, 14x15 and 20x18."""
    return build_cache(folder, 2)
