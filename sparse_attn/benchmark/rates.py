"""The roof: what the machine's matrix products and copies reach at best, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
_CUDA_SIDES = (2048, 4096, 8192)
_CPU_SIDES = (256, 512, 1024, 2048)
_REPEATS = 5
# A dtype that the machine only imitates is not tried at larger sizes.
_LONGEST = 0.5


class Rates:
    """Measures a device.

    Args:
        device: which.
        sides: of the square matrices; None for those that suit the device.
    """

    def __init__(self, device: str, sides: tuple[int, ...] | None = None) -> None:
        self.device = torch.device(device)
        self.sides = sides or (_CUDA_SIDES if self.device.type == "cuda" else _CPU_SIDES)

    def _seconds(self, act: Callable[[], object]) -> float:
        """The best of a few calls, after one that warms up."""
        best = float("inf")
        for repeat in range(_REPEATS + 1):
            self._wait()
            began = time.perf_counter()
            act()
            self._wait()
            elapsed = time.perf_counter() - began
            best = min(best, elapsed) if repeat else best
            if elapsed > _LONGEST:
                return min(best, elapsed)
        return best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def matmul(self, dtype: torch.dtype) -> float:
        """Operations a second, the best of the sides; a multiplication and an addition are two."""
        best = 0.0
        for side in self.sides:
            a, b = torch.randn(2, side, side, device=self.device).to(dtype).unbind(0)
            out = torch.empty_like(a)
            seconds = self._seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
            best = max(best, 2 * side**3 / seconds)
            if seconds > _LONGEST:
                break
        return best

    def copy(self) -> float:
        """Bytes a second, read and written, of a copy far larger than the caches."""
        count = 2**28 if self.device.type == "cuda" else 2**24
        source, target = (torch.ones(count, device=self.device) for _ in range(2))
        return 2 * source.nbytes / self._seconds(lambda: target.copy_(source))

    def rates(self) -> dict[str, float]:
        """All of them by name."""
        return {**{name: self.matmul(dtype) for name, dtype in _DTYPES.items()}, "copy": self.copy()}
