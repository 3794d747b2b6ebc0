"""Between pixels, as image files hold them, and tensors, as networks want them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_attn.errors import ConfigError


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 pixels to a float32 tensor in [0, 1].

    Args:
        pixels: (H, W) or (H, W, C), uint8.

    Returns:
        (1, C, H, W), C = 1 for (H, W); a copy.

    Raises:
        ConfigError: an array of another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ConfigError(
            "cannot make a tensor of this array",
            expected="(H, W) or (H, W, C), uint8",
            got=f"{pixels.shape} {pixels.dtype}",
        )
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return torch.from_numpy(planes[None].copy()).to(torch.float32) / 255.0


def from_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    """A tensor of one image to uint8 pixels: clamped to [0, 1], then `floor(255 x + 0.5)`; NaN becomes 0.

    Args:
        tensor: (1, C, H, W), floating point, on any device.

    Returns:
        (H, W) for C = 1, else (H, W, C).

    Raises:
        ConfigError: a tensor of another shape or dtype.
    """
    if tensor.ndim != 4 or tensor.shape[0] != 1 or not tensor.is_floating_point():
        raise ConfigError(
            "cannot make an image of this tensor",
            expected="(1, C, H, W), floating point",
            got=f"{tuple(tensor.shape)} {tensor.dtype}",
        )
    # Half precision cannot hold 255 x + 0.5 to the half: it would round twice.
    wide = tensor.detach()[0].to("cpu", torch.promote_types(tensor.dtype, torch.float32))
    levels = (wide.nan_to_num(nan=0.0).clamp(0.0, 1.0) * 255.0 + 0.5).floor().to(torch.uint8).numpy()
    return np.ascontiguousarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
