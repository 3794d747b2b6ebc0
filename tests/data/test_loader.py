"""Batches on a device: the same however they are made, errors that arrive, and nothing left behind."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparse_attn.data import PatchLoader, PatchSampler, TileCache
from sparse_attn.data.storage import RESIDENT_FRACTION, fits
from sparse_attn.errors import DataError


@pytest.fixture
def sampler(cache: TileCache) -> PatchSampler:
    return PatchSampler(cache, patch=7, batch=5, seed=0)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Every test ends without threads or processes of a loader."""
    yield
    assert threads() == [] and children() == []


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sparse-attn-data"]


def children() -> list[object]:
    """Processes, once those that are ending have had a moment to."""
    for _ in range(100):
        if not multiprocessing.active_children():
            break
        time.sleep(0.05)
    return list(multiprocessing.active_children())


def take(loader: PatchLoader, start: int, count: int) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.islice(loader.batches(start), count))


class Failing(PatchSampler):
    """Fails at step 2."""

    def batch_at(self, step: int, storage: object = None) -> tuple[Tensor, Tensor]:
        if step == 2:
            raise DataError("the disk has gone")
        return super().batch_at(step)


WAYS = [{}, {"resident": True}, {"resident": False}, {"workers": 2}, {"workers": 1, "resident": True}]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_batches_are_the_samplers(sampler: PatchSampler, way: dict[str, int]) -> None:
    with PatchLoader(sampler, device="cpu", **way) as loader:
        assert loader.resident is way.get("resident", False)
        batches = take(loader, 3, 4)
        assert loader.waited > 0
    for step, (lr, hr) in enumerate(batches, 3):
        for got, stored in zip((lr, hr), sampler.batch_at(step), strict=True):
            assert got.dtype == torch.float32 and got.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(got, stored.float() / 255)


def test_a_resident_copy_is_one(cache: TileCache) -> None:
    copy = cache.storage.to(torch.device("cpu"))
    assert copy.lr.data_ptr() != cache.storage.lr.data_ptr()
    assert torch.equal(copy.hr, cache.storage.hr) and copy.nbytes == cache.storage.nbytes
    assert copy.nbytes == 3 * 5 * sum(h * w for h, w in cache.shapes)


def test_what_fits_a_gpu(cache: TileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    free = int(cache.storage.nbytes / RESIDENT_FRACTION) + 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    assert fits(cache.storage, torch.device("cuda", 0))
    free -= 10
    assert not fits(cache.storage, torch.device("cuda", 0))
    assert not fits(cache.storage, torch.device("cpu"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_reaches_the_consumer_in_its_turn(cache: TileCache, workers: int) -> None:
    loader = PatchLoader(Failing(cache, patch=7, batch=5, seed=0), device="cpu", workers=workers)
    batches = loader.batches(0)
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(DataError, match=r"^the disk has gone$"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_consumer_that_raises_leaves_nothing(sampler: PatchSampler, workers: int) -> None:
    def consume() -> None:
        for _ in PatchLoader(sampler, device="cpu", workers=workers).batches(0):
            assert threads() or multiprocessing.active_children()
            raise RuntimeError("of the consumer")

    with pytest.raises(RuntimeError, match="of the consumer"):
        consume()
    assert threads() == [] and children() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_ends_an_iteration_that_is_still_held(sampler: PatchSampler, workers: int) -> None:
    loader = PatchLoader(sampler, device="cpu", workers=workers)
    batches = loader.batches(0)
    next(batches)
    loader.close()
    loader.close()
    assert threads() == [] and children() == []
    with pytest.raises(StopIteration):
        next(batches)


def test_a_loader_that_is_lost_is_collected(sampler: PatchSampler) -> None:
    batches = PatchLoader(sampler, device="cpu").batches(0)
    next(batches)
    assert len(threads()) == 1
    del batches
    assert threads() == []


def test_waiting_is_counted_and_only_that(cache: TileCache) -> None:
    class Slow(PatchSampler):
        def batch_at(self, step: int, storage: object = None) -> tuple[Tensor, Tensor]:
            time.sleep(0.3)
            return super().batch_at(step)

    with PatchLoader(Slow(cache, patch=7, batch=5, seed=0), device="cpu") as loader:
        batches = loader.batches(0)
        next(batches)
        assert loader.waited >= 0.3
        before = loader.waited
        # Long enough for the thread to be ahead.
        time.sleep(1.0)
        next(batches)
        assert loader.waited - before < 0.3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_is_left_alone(sampler: PatchSampler, workers: int) -> None:
    before = torch.get_rng_state()
    with PatchLoader(sampler, device="cpu", workers=workers) as loader:
        take(loader, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cache_travels_as_its_path(cache: TileCache) -> None:
    sent = pickle.dumps(cache)
    assert len(sent) < 500
    assert torch.equal(pickle.loads(sent).storage.hr, cache.storage.hr)


def test_a_sampler_travels_to_other_processes(sampler: PatchSampler) -> None:
    lr, hr = sampler.batch_at(2)
    sent = pickle.loads(pickle.dumps(sampler)).batch_at(2)
    assert torch.equal(sent[0], lr) and torch.equal(sent[1], hr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("way", [{}, {"resident": False}, {"resident": False, "workers": 1}], ids=str)
def test_batches_on_a_gpu_are_those_of_the_cpu(sampler: PatchSampler, way: dict[str, int]) -> None:
    with PatchLoader(sampler, device="cuda", **way) as loader:
        assert loader.resident is way.get("resident", True)
        batches = take(loader, 3, 4)
    for step, pair in enumerate(batches, 3):
        for got, stored in zip(pair, sampler.batch_at(step), strict=True):
            assert got.device.type == "cuda" and got.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(got.cpu(), stored.float() / 255)
