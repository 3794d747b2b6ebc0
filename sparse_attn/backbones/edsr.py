"""EDSR: Enhanced Deep Residual Networks (Lim et al., CVPRW 2017), with attention slots.

Fig. 3 of the paper: head, residual body with a long skip, sub-pixel tail. Position p of `attention_at` is after p
residual blocks; with `attention=None` this is the published network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from sparse_attn.backbones.entry import register_model
from sparse_attn.backbones.network import SlottedNetwork
from sparse_attn.backbones.slots import AttentionSpec, SlottedBody
from sparse_attn.layers import MeanShift, ResBlock, Upsampler


class EDSR(SlottedNetwork):
    """Super-resolution by residual blocks and sub-pixel convolution.

    Args:
        scale: s, the enlargement.
        n_resblocks: number of residual blocks.
        n_feats: C, the width.
        res_scale: factor on each residual branch, and on each attention that has one unless `attention_kwargs` says
            otherwise.
        rgb_range: the value of white in input and output.
        in_chans: colour channels of input and output.
        attention: what goes into the slots: a registered name, a class or factory, or None.
        attention_at: slot positions (p = after p blocks).
        attention_kwargs: keyword arguments of the attention.

    Raises:
        ConfigError: an unsupported scale, position, attention name or attention argument.
    """

    def __init__(
        self,
        *,
        scale: int,
        n_resblocks: int = 32,
        n_feats: int = 256,
        res_scale: float = 0.1,
        rgb_range: float = 1.0,
        in_chans: int = 3,
        attention: AttentionSpec = None,
        attention_at: Sequence[int] = (),
        attention_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.in_chans, self.rgb_range = scale, in_chans, rgb_range
        self.sub_mean = MeanShift(in_chans, rgb_range=rgb_range, sign=-1)
        self.head = nn.Conv2d(in_chans, n_feats, 3, padding=1)
        self.body = SlottedBody(
            (ResBlock(n_feats, res_scale=res_scale) for _ in range(n_resblocks)),
            n_feats,
            attention=attention,
            attention_at=attention_at,
            attention_kwargs=attention_kwargs,
            defaults={"res_scale": res_scale},
        )
        self.body_conv = nn.Conv2d(n_feats, n_feats, 3, padding=1)
        self.upsampler = Upsampler(scale, n_feats)
        self.tail = nn.Conv2d(n_feats, in_chans, 3, padding=1)
        self.add_mean = MeanShift(in_chans, rgb_range=rgb_range, sign=1)


for _scale in (2, 3, 4):
    register_model(f"edsr_x{_scale}", EDSR, scale=_scale, n_resblocks=32, n_feats=256, res_scale=0.1)
    register_model(f"edsr_baseline_x{_scale}", EDSR, scale=_scale, n_resblocks=16, n_feats=64, res_scale=1.0)
