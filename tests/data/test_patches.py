"""The stream of samples: what an epoch holds, how processes share it, and that patches are what slices would be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_attn.data import PatchSampler, TileCache, dihedral
from sparse_attn.data.storage import gather, gather_on_device, walk
from sparse_attn.errors import ConfigError, DataError
from sparse_attn.imaging import resize

Seen = tuple[int, int, int, int]


def seen(sampler: PatchSampler, step: int) -> list[Seen]:
    """Image, row, column and symmetry of each sample of a batch."""
    crops = sampler.crops_at(step)
    return list(zip(*(part.tolist() for part in (crops.image, crops.top, crops.left, crops.symmetry)), strict=True))


def slices(sampler: PatchSampler, step: int) -> tuple[Tensor, Tensor]:
    """The slow twin: each patch cut out of its image and turned by itself."""
    side, scale, lrs, hrs = sampler.patch, sampler.cache.scale, [], []
    for image, top, left, which in seen(sampler, step):
        lr, hr = sampler.cache.pair(image)
        lrs.append(dihedral(lr[top : top + side, left : left + side], which))
        hrs.append(dihedral(hr[top * scale :, left * scale :][: side * scale, : side * scale], which))
    lr, hr = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) for part in (lrs, hrs))
    return lr, hr


@pytest.mark.parametrize("patch", [1, 7, 14])
def test_patches_are_the_slices_turned(cache: TileCache, patch: int) -> None:
    sampler = PatchSampler(cache, patch=patch, batch=37, seed=0)
    lr, hr = sampler.batch_at(3)
    assert {which for *_, which in seen(sampler, 3)} == set(range(8))
    assert (lr.shape, hr.shape) == ((37, 3, patch, patch), (37, 3, 2 * patch, 2 * patch))
    assert lr.dtype == hr.dtype == torch.uint8
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in (lr, hr))
    assert all(torch.equal(part, slow) for part, slow in zip((lr, hr), slices(sampler, 3), strict=True))


def test_crops_reach_every_edge_and_no_further(cache: TileCache) -> None:
    sampler = PatchSampler(cache, patch=14, batch=997, seed=0)
    crops = sampler.crops_at(0)
    small = crops.image == 1
    assert (crops.top[small] == 0).all() and set(crops.left[small].tolist()) == {0, 1}
    large = crops.image == 0
    assert set(crops.top[large].tolist()) == set(range(10)) and set(crops.left[large].tolist()) == set(range(17))


def test_patches_are_aligned(cache: TileCache) -> None:
    """An HR patch made small again is the LR patch, away from the borders that the patch does not see."""
    for low, high in zip(*PatchSampler(cache, patch=13, batch=5, seed=0).batch_at(0), strict=True):
        small = torch.from_numpy(resize(high.permute(1, 2, 0).numpy(), 1 / 2)).permute(2, 0, 1)
        # A turned patch is resized with its axes in the other order: each of the two roundings may move by a level.
        assert int((small.int() - low.int())[:, 3:-3, 3:-3].abs().max()) <= 2


def test_an_epoch_holds_each_image_as_often_as_patches_fit(cache: TileCache) -> None:
    sampler = PatchSampler(cache, patch=7, batch=1, seed=0)
    expected = {0: round(23 * 30 / 49), 1: round(14 * 15 / 49), 2: round(20 * 18 / 49)}
    assert sampler.epoch_length == sum(expected.values())
    for epoch in range(3):
        steps = range(epoch * sampler.epoch_length, (epoch + 1) * sampler.epoch_length)
        assert Counter(int(sampler.crops_at(step).image[0]) for step in steps) == expected


def test_an_image_smaller_than_a_patch_is_left_out_and_one_that_just_fits_is_seen_once(cache: TileCache) -> None:
    sampler = PatchSampler(cache, patch=20, batch=1, seed=0)
    assert sampler.epoch_length == 2
    with pytest.raises(DataError, match="at least 99 pixels"):
        PatchSampler(cache, patch=99, batch=1, seed=0)


def test_batches_depend_on_seed_and_step_alone(cache: TileCache) -> None:
    first, again, other = (PatchSampler(cache, patch=7, batch=3, seed=s) for s in (1, 1, 2))
    wanted = [seen(first, step) for step in range(40)]
    assert [seen(again, step) for step in reversed(range(40))] == wanted[::-1]
    assert [seen(other, step) for step in range(40)] != wanted
    one_epoch = first.epoch_length // 3 + 1
    assert wanted[:5] != wanted[one_epoch : one_epoch + 5]


@pytest.mark.parametrize("batch", [3, 16, 61])
def test_two_processes_see_what_one_with_twice_the_batch_sees(cache: TileCache, batch: int) -> None:
    """Also over the end of an epoch, of 25 samples, and in batches longer than one."""
    one = PatchSampler(cache, patch=7, batch=2 * batch, seed=3)
    two = [PatchSampler(cache, patch=7, batch=batch, seed=3, shard=(index, 2)) for index in range(2)]
    for step in range(2 * one.epoch_length // batch + 2):
        assert seen(one, step) == seen(two[0], step) + seen(two[1], step)
        parts = zip(*(sampler.batch_at(step) for sampler in two), strict=True)
        assert all(torch.equal(a, torch.cat(b)) for a, b in zip(one.batch_at(step), parts, strict=True))


def test_every_sample_is_seen_once_an_epoch_across_processes(cache: TileCache) -> None:
    alone, epochs = PatchSampler(cache, patch=7, batch=1, seed=5), 6
    assert alone.epoch_length == 25
    wanted = [seen(alone, place)[0] for place in range(epochs * 25)]
    shards = [PatchSampler(cache, patch=7, batch=2, seed=5, shard=(index, 3)) for index in range(3)]
    together = [sample for step in range(25) for shard in shards for sample in seen(shard, step)]
    assert together == wanted
    for epoch in range(epochs):
        of_epoch = together[epoch * 25 : (epoch + 1) * 25]
        assert Counter(image for image, *_ in of_epoch) == Counter({0: 14, 1: 4, 2: 7})


def test_at_most_two_epochs_are_kept(cache: TileCache) -> None:
    sampler = PatchSampler(cache, patch=14, batch=5, seed=0)
    for step in (0, 1, 2, 7, 3):
        sampler.batch_at(step)
        assert len(sampler._epochs) <= 2


@pytest.mark.parametrize(
    "arguments", [{"patch": 0}, {"batch": 0}, {"seed": -1}, {"shard": (2, 2)}, {"shard": (-1, 1)}, {"shard": (0, 0)}]
)
def test_arguments_out_of_range(cache: TileCache, arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="bad"):
        PatchSampler(cache, **{"patch": 7, "batch": 2, "seed": 0, **arguments})


def test_dihedral_group_has_eight_elements() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({dihedral(image, which).tobytes() for which in range(8)}) == 8
    assert np.array_equal(dihedral(image, 0), image)


def test_both_ways_of_gathering_are_one(cache: TileCache) -> None:
    crops = PatchSampler(cache, patch=5, batch=64, seed=3).crops_at(0)
    widths = np.array(cache.shapes)[crops.image, 1]
    steps = walk(cache.offsets[crops.image], widths, crops.top, crops.left, crops.symmetry, side=5)
    pixels = cache.storage.lr
    assert torch.equal(gather(pixels, steps, side=5), gather_on_device(pixels, steps, 5))
