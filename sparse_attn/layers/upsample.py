"""Sub-pixel enlargement (Shi et al., CVPR 2016, "Real-Time Single Image and Video Super-Resolution")."""

from __future__ import annotations

from torch import nn

from sparse_attn.errors import ConfigError


class Upsampler(nn.Sequential):
    """(B, C, H, W) -> (B, C, s*H, s*W): 3x3 convolutions and pixel shuffles, x2 stages for powers of two.

    Args:
        scale: 1, 3 or a power of two.
        channels: C.

    Raises:
        ConfigError: any other scale.
    """

    def __init__(self, scale: int, channels: int) -> None:
        whole = isinstance(scale, int) and not isinstance(scale, bool)
        if whole and scale == 3:
            factors = [3]
        elif whole and scale >= 1 and scale & (scale - 1) == 0:
            factors = [2] * (scale.bit_length() - 1)
        else:
            raise ConfigError(
                "unsupported scale", expected="1, 3 or a power of two", got=repr(scale), remedy="use 2, 3 or 4"
            )
        stages: list[nn.Module] = []
        for factor in factors:
            stages += [nn.Conv2d(channels, factor * factor * channels, 3, padding=1), nn.PixelShuffle(factor)]
        super().__init__(*stages)
