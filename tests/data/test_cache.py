"""The cache of training images, and the patches sampled from it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparse_attn.data import PatchSampler, build_cache, cache_root, dihedral
from sparse_attn.errors import DataError
from sparse_attn.imaging import resize


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


def test_pairs_are_the_images_and_their_bicubic_halves(folder: Path) -> None:
    cache = build_cache(folder, 2)
    assert cache.names == ["a.png", "b.png", "inner/c.png"]
    assert cache.shapes == [(23, 30), (14, 15), (20, 18)]
    hr = np.asarray(Image.open(folder / "a.png"))[:46, :60]
    assert np.array_equal(cache.pair(0)[1], hr)
    assert np.array_equal(cache.pair(0)[0], resize(hr, 1 / 2))


def test_a_cache_is_built_once_and_again_when_the_folder_changes(folder: Path) -> None:
    notes: list[str] = []
    build_cache(folder, 2)
    built = sorted(cache_root().iterdir())
    build_cache(folder, 2, progress=notes.append)
    assert sorted(cache_root().iterdir()) == built
    Image.new("RGB", (32, 32)).save(folder / "d.png")
    assert len(build_cache(folder, 2)) == 4


def test_a_bad_image_names_itself_and_leaves_nothing(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match=r"bad\.png"):
        build_cache(folder, 2)
    assert list(cache_root().iterdir()) == []


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training folder"):
        build_cache(tmp_path / "nowhere", 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        build_cache(tmp_path / "empty", 2)


def test_a_shard_that_is_none_is_named(folder: Path) -> None:
    (folder / "text.tar").write_text("no archive")
    with pytest.raises(DataError, match=r"cannot read shard .*text\.tar"):
        build_cache(folder, 2)
    assert list(cache_root().iterdir()) == []


def test_images_of_a_pixel_are_no_training_data(tmp_path: Path) -> None:
    (tmp_path / "dots").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "dots" / "dot.png")
    with pytest.raises(DataError, match=r"no image in .*dots has 2 pixels a side"):
        build_cache(tmp_path / "dots", 2)
    assert list(cache_root().iterdir()) == []


def test_two_processes_may_build_the_same_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finishes while the first is at work: the first finds its cache there, and uses it."""
    replace, calls = os.replace, []

    def racing(source: Path, target: Path) -> None:
        if not calls:
            calls.append(source)
            build_cache(folder, 2)
        replace(source, target)

    monkeypatch.setattr("sparse_attn.data.cache.os.replace", racing)
    assert len(build_cache(folder, 2)) == 3
    assert len(list(cache_root().iterdir())) == 1


def test_batches_depend_on_seed_and_step_alone(folder: Path) -> None:
    cache = build_cache(folder, 2)
    first, again, other = (PatchSampler(cache, patch=7, batch=3, seed=s).batch_at(5) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], PatchSampler(cache, patch=7, batch=3, seed=1).batch_at(6)[0])


def test_patches_are_aligned(folder: Path) -> None:
    """An HR patch made small again is the LR patch, away from the borders that the patch does not see."""
    lr, hr = PatchSampler(build_cache(folder, 2), patch=13, batch=5, seed=0).batch_at(0)
    assert (lr.shape, hr.shape) == ((5, 3, 13, 13), (5, 3, 26, 26))
    for low, high in zip(lr, hr, strict=True):
        image = (high.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        small = torch.from_numpy(resize(image, 1 / 2)).permute(2, 0, 1) / 255
        # A turned patch is resized with its axes in the other order: each of the two roundings may move by a level.
        assert float((small - low)[:, 3:-3, 3:-3].abs().max()) <= 2.01 / 255


def test_images_smaller_than_a_patch(folder: Path) -> None:
    with pytest.raises(DataError, match="at least 99 pixels"):
        PatchSampler(build_cache(folder, 2), patch=99, batch=1, seed=0)


def test_dihedral_group_has_eight_elements() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({dihedral(image, which).tobytes() for which in range(8)}) == 8
    assert np.array_equal(dihedral(image, 0), image)
