"""PSNR and SSIM as the super-resolution field reports them, in float64.

SSIM follows Wang et al., IEEE TIP 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity":
an 11x11 Gaussian of sigma 1.5, only where the window fits, K = (0.01, 0.03), L = 255; colour images by the mean of
their channels. The `_y` forms measure luminance after cutting the border off.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import ConfigError
from sparse_attn.imaging.colour import rgb_to_y

_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_WINDOW, _SIGMA = 11, 1.5
_Level = TypeVar("_Level", bound=np.generic)


def psnr(a: NDArray[np.generic], b: NDArray[np.generic], *, border: int = 0) -> float:
    """Peak signal-to-noise ratio in dB, of all channels together; infinite for identical images.

    10 log10(255^2 / MSE), where MSE is the mean over all values.

    Args:
        a: (H, W) or (H, W, 3), values in [0, 255].
        b: the same shape.
        border: pixels cut off each side before measuring.

    Raises:
        ConfigError: shapes that differ or are of another kind, or a border that leaves nothing.
    """
    x, y = _pair(a, b, border=border)
    error = float(np.mean((x - y) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(_PEAK * _PEAK / error)


def ssim(a: NDArray[np.generic], b: NDArray[np.generic], *, border: int = 0) -> float:
    """Structural similarity, at most 1; the mean of the channels' values.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004: an 11x11 Gaussian window of standard deviation 1.5, placed only where
    it fits, K1 = 0.01, K2 = 0.03.

    Args:
        a: (H, W) or (H, W, 3), values in [0, 255], at least 11x11 inside the border.
        b: the same shape.
        border: pixels cut off each side before measuring.

    Raises:
        ConfigError: as `psnr`, and an image smaller than the window.
    """
    x, y = _pair(a, b, border=border)
    if min(x.shape[:2]) < _WINDOW:
        raise ConfigError(
            "image too small for SSIM",
            expected=f"at least {_WINDOW}x{_WINDOW} inside the border",
            got=f"{x.shape[0]}x{x.shape[1]}",
        )
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x * mean_x
    var_y = _blur(y * y) - mean_y * mean_y
    cov = _blur(x * y) - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    structure = (2.0 * cov + _C2) / (var_x + var_y + _C2)
    return float(np.mean(luminance * structure))


def psnr_y(a: NDArray[np.uint8], b: NDArray[np.uint8], *, border: int = 0) -> float:
    """PSNR of the luminance of two uint8 images; (H, W, 3) RGB is converted, (H, W) is luminance already.

    Raises:
        ConfigError: as `psnr`, and values that are not uint8.
    """
    return psnr(*_luminance_pair(a, b, border=border))


def ssim_y(a: NDArray[np.uint8], b: NDArray[np.uint8], *, border: int = 0) -> float:
    """SSIM of the luminance of two uint8 images; (H, W, 3) RGB is converted, (H, W) is luminance already.

    Raises:
        ConfigError: as `ssim`, and values that are not uint8.
    """
    return ssim(*_luminance_pair(a, b, border=border))


def _inside(a: NDArray[_Level], b: NDArray[_Level], *, border: int) -> tuple[NDArray[_Level], NDArray[_Level]]:
    """Both images without `border` pixels on each side."""
    if a.shape != b.shape:
        raise ConfigError("cannot compare these images", expected="equal shapes", got=f"{a.shape} and {b.shape}")
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] != 3):
        raise ConfigError("not an image", expected="(H, W) or (H, W, 3)", got=a.shape)
    height, width = a.shape[:2]
    if border < 0 or min(height, width) <= 2 * border:
        raise ConfigError("bad border", expected="at least 0, and pixels left", got=f"{border} of {height}x{width}")
    rows, columns = slice(border, height - border), slice(border, width - border)
    return a[rows, columns], b[rows, columns]


def _pair(
    a: NDArray[np.generic], b: NDArray[np.generic], *, border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both images inside the border, in float64."""
    x, y = _inside(a, b, border=border)
    return x.astype(np.float64), y.astype(np.float64)


def _luminance_pair(
    a: NDArray[np.uint8], b: NDArray[np.uint8], *, border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The luminance of both inside the border."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ConfigError(
            "luminance is measured on uint8 images",
            expected="uint8",
            got=f"{a.dtype} and {b.dtype}",
            remedy="round and clip first",
        )
    x, y = _inside(a, b, border=border)
    return (rgb_to_y(x), rgb_to_y(y)) if x.ndim == 3 else (x.astype(np.float64), y.astype(np.float64))


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W, ...) -> (H - 10, W - 10, ...): the Gaussian window, one axis at a time, where it fits."""
    taps = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2.0 * _SIGMA**2))
    taps /= taps.sum()
    rows, columns = image.shape[0] - _WINDOW + 1, image.shape[1] - _WINDOW + 1
    down = taps[0] * image[:rows]
    for i in range(1, _WINDOW):
        down += taps[i] * image[i : i + rows]
    across = taps[0] * down[:, :columns]
    for i in range(1, _WINDOW):
        across += taps[i] * down[:, i : i + columns]
    return across
