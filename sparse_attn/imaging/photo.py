"""A picture in memory, with what its file says beside the colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture as it is in its file.

    Args:
        pixels: (H, W, 3) RGB or (H, W) grey, uint8.
        alpha: (H, W) uint8, 255 opaque, or None.
        icc: the embedded colour profile, or None.

    Raises:
        ConfigError: arrays of another shape or dtype, or without pixels.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    icc: bytes | None = None

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        picture = self.pixels.ndim == 2 or (self.pixels.ndim == 3 and shape[2] == 3)
        if not picture or self.pixels.dtype != np.uint8 or self.pixels.size == 0:
            raise ConfigError(
                "not a photo's pixels", expected="(H, W, 3) or (H, W), uint8", got=f"{shape} {self.pixels.dtype}"
            )
        if self.alpha is not None and (self.alpha.shape != self.size or self.alpha.dtype != np.uint8):
            raise ConfigError(
                "not this photo's alpha",
                expected=f"{self.size}, uint8",
                got=f"{self.alpha.shape} {self.alpha.dtype}",
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]
