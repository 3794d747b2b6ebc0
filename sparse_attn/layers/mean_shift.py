"""The fixed colour shift at both ends of EDSR-family networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)


class MeanShift(nn.Module):
    """Subtracts (`sign=-1`) or adds (`sign=+1`) the mean colour of DIV2K, as a frozen 1x1 convolution.

    Weight and bias are buffers, so they travel in the state dict (some released checkpoints trained them) and no
    optimizer touches them. The arithmetic stays out of autocast: bf16 would quantise the picture to 8 bits.

    Args:
        channels: C; 3 uses the DIV2K means, any other number their average in every channel.
        rgb_range: the value of white (1 or 255).
        sign: -1 before the network, +1 after it.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, *, rgb_range: float, sign: int) -> None:
        super().__init__()
        mean = torch.tensor(DIV2K_RGB_MEAN)
        if channels != 3:
            mean = mean.mean().expand(channels)
        self.register_buffer("weight", torch.eye(channels).reshape(channels, channels, 1, 1))
        self.register_buffer("bias", sign * rgb_range * mean.clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.to(self.weight.dtype), self.weight, self.bias)
