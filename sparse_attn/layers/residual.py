"""Residual blocks: EDSR's plain one and RCAN's with channel attention."""

from __future__ import annotations

from torch import Tensor, nn


class ResBlock(nn.Module):
    """EDSR's block: conv, ReLU, conv, scaled and added (Lim et al., CVPRW 2017, Fig. 2c).

    Args:
        channels: C.
        res_scale: factor on the branch before it is added.
    """

    def __init__(self, channels: int, *, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        branch = self.body(x)
        return x + (branch if self.res_scale == 1.0 else branch * self.res_scale)


class ChannelAttention(nn.Module):
    """Squeeze and excitation over channels (Zhang et al., ECCV 2018, RCAN, Eq. 9-11).

    Args:
        channels: C.
        reduction: C is squeezed to C // reduction.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.conv_du(x.mean(dim=(2, 3), keepdim=True))


class ResChannelAttentionBlock(nn.Module):
    """RCAN's block (RCAB): conv, ReLU, conv, channel attention, added.

    Args:
        channels: C.
        reduction: of the channel attention.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelAttention(channels, reduction=reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.body(x)
