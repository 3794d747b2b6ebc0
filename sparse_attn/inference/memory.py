"""How much memory is free, how much a forward pass takes, and so how large a tile may be."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBE_SIDES = (24, 48)
# For what counting tensors cannot see: a convolution's workspace, the allocator's slack.
_SLACK = 1.5
# Where the system tells nothing.
_UNKNOWN = 2 * 2**30


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the context: `live` now, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Hiding the counter from a compiler that is not running would import all of it: two seconds.
        return False

    def _release(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operator; storages in its result that none of its arguments has are new."""
        out = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in known:
                storage = leaf.untyped_storage()
                known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out


@dataclass(frozen=True)
class PeakModel:
    """Peak bytes of a forward pass on N LR pixels, as linear * N + square * N^2."""

    linear: float
    square: float

    @classmethod
    def fit(cls, forward: Callable[[int], object]) -> PeakModel:
        """Measures `forward(side)` on square pictures of two sides, without gradients."""
        small, large = (side * side for side in PROBE_SIDES)
        density = []
        for side in PROBE_SIDES:
            # Not inference_mode, in which composite operators reach the counter whole, their insides unseen.
            with torch.no_grad(), LiveBytes() as live:
                forward(side)
            density.append(_SLACK * live.peak / (side * side))
        square = (density[1] - density[0]) / (large - small)
        if square <= 0 or square * small >= density[0]:
            return cls(linear=max(*density, 1.0), square=0.0)
        return cls(linear=density[0] - square * small, square=square)

    def peak(self, pixels: int) -> float:
        """Bytes for `pixels` LR pixels."""
        return self.linear * pixels + self.square * pixels * pixels

    def pixels(self, limit: float) -> int:
        """The most LR pixels whose peak is within `limit` bytes."""
        if self.square == 0.0:
            return int(limit / self.linear)
        root = math.sqrt(self.linear * self.linear + 4.0 * self.square * limit)
        return int((root - self.linear) / (2.0 * self.square))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device; on a CPU within the limit of the container, if there is one."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    known = [value for value in (_available(), _container()) if value is not None]
    return max(0, min(known)) if known else _UNKNOWN


def _available() -> int | None:
    """What Linux calls available; elsewhere a quarter of the memory, if it is known."""
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, ValueError, OSError):
        return None


def _container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group leaves: its limit less what processes hold, as cached files are given up on demand."""
    limit = _lines(root / "memory.max")
    held = [int(line.split()[1]) for line in _lines(root / "memory.stat") if line.startswith("anon ")]
    return int(limit[0]) - held[0] if limit and limit[0].isdigit() and held else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
