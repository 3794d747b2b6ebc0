"""RCAN: Very Deep Residual Channel Attention Networks (Zhang et al., ECCV 2018), with attention slots.

Fig. 2 of the paper: head, residual groups with a long skip (Eq. 4-5), sub-pixel tail. Position p of `attention_at` is
after p residual groups; with `attention=None` this is the published network. The authors' code takes a `res_scale` and
ignores it, so there is none here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparse_attn.backbones.entry import register_model
from sparse_attn.backbones.network import SlottedNetwork
from sparse_attn.backbones.slots import AttentionSpec, SlottedBody
from sparse_attn.errors import ConfigError
from sparse_attn.layers import MeanShift, ResChannelAttentionBlock, Upsampler


class ResidualGroup(nn.Module):
    """Channel attention blocks, a convolution, and a short skip around them (Eq. 6).

    Args:
        channels: C.
        n_resblocks: number of blocks.
        reduction: of their channel attention.
    """

    def __init__(self, channels: int, *, n_resblocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResChannelAttentionBlock(channels, reduction=reduction) for _ in range(n_resblocks))
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.conv(self.blocks(x))


class RCAN(SlottedNetwork):
    """Super-resolution by residual groups of channel attention blocks.

    Args:
        scale: s, the enlargement.
        n_resgroups: number of residual groups.
        n_resblocks: blocks in each group.
        n_feats: C, the width.
        reduction: the channel attention squeezes C to C // reduction.
        rgb_range: the value of white in input and output.
        in_chans: colour channels of input and output.
        attention: what goes into the slots: a registered name, a class or factory, or None.
        attention_at: slot positions (p = after p groups).
        attention_kwargs: keyword arguments of the attention.

    Raises:
        ConfigError: an unsupported scale, reduction, position, attention name or attention argument.
    """

    def __init__(
        self,
        *,
        scale: int,
        n_resgroups: int = 10,
        n_resblocks: int = 20,
        n_feats: int = 64,
        reduction: int = 16,
        rgb_range: float = 1.0,
        in_chans: int = 3,
        attention: AttentionSpec = None,
        attention_at: Sequence[int] = (),
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= reduction <= n_feats:
            raise ConfigError("bad reduction", expected=f"1 to n_feats = {n_feats}", got=reduction)
        self.scale, self.in_chans, self.rgb_range = scale, in_chans, rgb_range
        self.sub_mean = MeanShift(in_chans, rgb_range=rgb_range, sign=-1)
        self.head = nn.Conv2d(in_chans, n_feats, 3, padding=1)
        self.body = SlottedBody(
            (ResidualGroup(n_feats, n_resblocks=n_resblocks, reduction=reduction) for _ in range(n_resgroups)),
            n_feats,
            attention=attention,
            attention_at=attention_at,
            attention_kwargs=attention_kwargs,
        )
        self.body_conv = nn.Conv2d(n_feats, n_feats, 3, padding=1)
        self.upsampler = Upsampler(scale, n_feats)
        self.tail = nn.Conv2d(n_feats, in_chans, 3, padding=1)
        self.add_mean = MeanShift(in_chans, rgb_range=rgb_range, sign=1)


for _scale in (2, 3, 4):
    register_model(f"rcan_x{_scale}", RCAN, scale=_scale, n_resgroups=10, n_resblocks=20, n_feats=64, reduction=16)
