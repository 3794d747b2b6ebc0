"""The luminance on which super-resolution is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import ConfigError

_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0
_OFFSET = 16.0


def rgb_to_y(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """Luminance as MATLAB's `rgb2ycbcr` defines it: BT.601, studio range, black 16 and white 235.

    Args:
        image: (H, W, 3) RGB, uint8 or floating point in [0, 255].

    Returns:
        (H, W) float64 in [16, 235]. It is not rounded, as MATLAB's is for uint8; see "What the numbers mean" in
        docs/zoo.md.

    Raises:
        ConfigError: an array of another shape or dtype.
    """
    real = image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)
    if image.ndim != 3 or image.shape[2] != 3 or not real:
        raise ConfigError(
            "no luminance of this array", expected="(H, W, 3), uint8 or floating", got=f"{image.shape} {image.dtype}"
        )
    return image.astype(np.float64) @ _WEIGHTS + _OFFSET
