"""Batches on the device, made before they are needed."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext

import torch
from torch import Tensor

from sparse_attn.data.patches import PatchSampler
from sparse_attn.data.storage import Storage, fits
from sparse_attn.data.workers import in_processes, in_thread

Pair = tuple[Tensor, Tensor]


class PatchLoader:
    """A sampler's batches as float32 in [0, 1] on a device, channels_last.

    What they hold depends on the sampler only, never on how they are made. Where all pixels fit into
    RESIDENT_FRACTION of a GPU's free memory they are copied there once, and patches are cut, turned and mirrored
    there. Otherwise a thread, or worker processes, cut them on the CPU a few batches ahead, and they travel as uint8.

    Closing it, which `with` does, ends threads and processes and frees the GPU's copy.

    Args:
        sampler: what is in the batches.
        device: where they are wanted.
        workers: processes that make them; 0 for a thread of this one.
        resident: whether the pixels are copied to the device; None for where they fit.

    Attributes:
        resident: whether they were.
        waited: seconds that consumers have spent waiting for data, all together.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        *,
        device: torch.device | str,
        workers: int = 0,
        resident: bool | None = None,
    ) -> None:
        self.sampler, self.device, self.workers = sampler, torch.device(device), workers
        stored = sampler.cache.storage
        self.resident = fits(stored, self.device) if resident is None else resident
        self._storage: Storage | None = stored.to(self.device) if self.resident else None
        self._pin = self.device.type == "cuda"
        self._open: weakref.WeakSet[Generator[Pair, None, None]] = weakref.WeakSet()
        self.waited = 0.0

    def __enter__(self) -> PatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every iteration, and with it its thread or processes, and frees the device's copy."""
        for batches in list(self._open):
            batches.close()
        self._storage = None

    def batches(self, start: int = 0) -> Iterator[Pair]:
        """(B, 3, p, p) LR and (B, 3, s*p, s*p) HR of the micro-steps from `start` on, without end."""
        batches = self._converted(start)
        self._open.add(batches)
        return batches

    def _converted(self, start: int) -> Generator[Pair, None, None]:
        with closing(self._made(start)) as made:
            while True:
                began = time.perf_counter()
                with self._current():
                    lr, hr = (self._convert(part) for part in next(made))
                self.waited += time.perf_counter() - began
                yield lr, hr

    def _convert(self, patches: Tensor) -> Tensor:
        moved = patches.to(self.device, non_blocking=True)
        return moved.to(torch.float32, memory_format=torch.channels_last).div_(255.0)

    def _made(self, start: int) -> Generator[Pair, None, None]:
        """uint8 batches, on the device if the pixels are there."""
        steps = itertools.count(start)
        if self._storage is not None:
            return (self.sampler.batch_at(step, self._storage) for step in steps)
        if self.workers > 0:
            return in_processes(_Steps(self.sampler), steps, workers=self.workers, pin_memory=self._pin)
        return in_thread(self._pinned, start)

    def _pinned(self, step: int) -> Pair:
        lr, hr = self.sampler.batch_at(step)
        if not self._pin:
            return lr, hr
        with self._current():
            return lr.pin_memory(), hr.pin_memory()

    def _current(self) -> torch.cuda.device | nullcontext[None]:
        # Pinning memory belongs to the current device, and would wake the first one up.
        return torch.cuda.device(self.device) if self._pin else nullcontext()


class _Steps:
    """Item t is the batch of micro-step t."""

    def __init__(self, sampler: PatchSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, step: int) -> Pair:
        return self.sampler.batch_at(step)
