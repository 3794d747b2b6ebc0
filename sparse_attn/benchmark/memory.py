"""Peak memory of a pass: what the process, or the GPU's allocator, held more than before it."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def _kilobytes(field: str) -> int:
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"no {field} in {_PROCESS}/status")


def give_back() -> None:
    """Lets the C library hand its free memory back, so that the pass cannot hide in it; where it is not glibc, not."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident(run: Callable[[], object]) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    give_back()
    try:
        # 5 makes the peak start again from what is resident now.
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
        before = _kilobytes("VmRSS")
        run()
        return max(0, _kilobytes("VmHWM") - before) * 1024
    except OSError:
        return None


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The bytes a call adds at its peak; None where that cannot be measured.

    Args:
        run: the call.
        device: CUDA tells by its allocator, a CPU under Linux by the resident memory of the process.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return _resident(run) if device.type == "cpu" else None
