"""MATLAB-compatible bicubic `imresize`: the way the low-resolution images of the field's benchmarks were made.

Two forms. Float input: one rounding-free pass per axis with a symmetric border, as the widely used re-implementations
do it. uint8 input: MATLAB's own behaviour, which rounds to uint8 after each of the two passes and replicates the
border; it reproduces the published LR files bit for bit.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import ConfigError

Pixel = TypeVar("Pixel", bound=np.generic)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel, a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))


@lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int, scale: float, border: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which inputs each output of one axis is made of, and their weights: both (taps, size_out)."""
    stretch = min(scale, 1.0)
    count = math.ceil(4.0 / stretch) + 2
    centre = (np.arange(1, size_out + 1) / scale) + 0.5 * (1.0 - 1.0 / scale)
    index = np.floor(centre - 2.0 / stretch) + np.arange(count)[:, None]
    weight = _cubic(stretch * (centre - index))
    weight /= weight.sum(axis=0)
    used = weight.any(axis=1)
    index, weight = index[used].astype(np.int64) - 1, weight[used]
    if border == "symmetric":
        index = np.mod(index, 2 * size_in)
        index = np.where(index >= size_in, 2 * size_in - 1 - index, index)
    else:
        index = np.clip(index, 0, size_in - 1)
    return index, weight


def _along(axis: int, image: NDArray[np.float64], size: int, scale: float, border: str) -> NDArray[np.float64]:
    """(H, W, ...) resized along one axis."""
    index, weight = _taps(image.shape[axis], size, scale, border)
    column = [1] * image.ndim
    column[axis] = size
    result = np.zeros((*image.shape[:axis], size, *image.shape[axis + 1 :]))
    for i in range(len(index)):
        result += weight[i].reshape(column) * np.take(image, index[i], axis=axis)
    return result


def _target(
    old: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[float, float]]:
    """The new (H, W) and the factor on each axis."""
    height, width = old
    if scale is not None and size is None:
        if not (scale > 0 and math.isfinite(scale)):
            raise ConfigError("bad scale", expected="a positive number", got=scale)
        new, factors = (math.ceil(height * scale), math.ceil(width * scale)), (scale, scale)
    elif size is not None and scale is None:
        new, factors = size, (size[0] / max(height, 1), size[1] / max(width, 1))
    else:
        got = "neither" if scale is None else "both"
        raise ConfigError("resize needs one target", expected="scale or size", got=got)
    if min(*new, *old) < 1:
        raise ConfigError("bad size", expected="at least 1x1", got=f"{height}x{width} -> {new[0]}x{new[1]}")
    return new, factors


def resize(image: NDArray[Pixel], scale: float | None = None, *, size: tuple[int, int] | None = None) -> NDArray[Pixel]:
    """Resizes an image by MATLAB's antialiased bicubic interpolation.

    Args:
        image: (H, W) or (H, W, C); uint8 (rounded after each pass, replicated border, as MATLAB does it) or
            floating point (not clipped, not rounded, symmetric border, computed in float64).
        scale: factor on both axes; the new size is ceil(scale * size).
        size: the new (H, W) instead.

    Returns:
        The resized image, of the input's dtype.

    Raises:
        ConfigError: not exactly one of `scale` and `size`, not positive, or an image of another shape or dtype.
    """
    if image.ndim not in (2, 3) or not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        raise ConfigError(
            "cannot resize this array",
            expected="(H, W) or (H, W, C), uint8 or floating",
            got=f"{image.shape} {image.dtype}",
            remedy="convert it first",
        )
    out, factors = _target(image.shape[:2], scale, size)
    exact = image.dtype == np.uint8
    border = "replicate" if exact else "symmetric"
    result = image.astype(np.float64)
    for axis in sorted((0, 1), key=lambda a: factors[a]):
        result = _along(axis, result, out[axis], factors[axis], border)
        if exact:
            result = np.clip(np.floor(result + 0.5), 0.0, 255.0)
    return result.astype(image.dtype)
