"""Attentions of this package where timm's networks take an attention layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import create_attention
from sparse_attn.errors import unknown_name
from sparse_attn.surgery.record import arguments_of


class TimmAttention(nn.Module):
    """An attention in the shape of timm's attention layers: what timm offers every layer is taken and left alone.

    Args:
        channels: C.
        attention: its registered name.
        settings: its arguments.
        device: where it is built.
        dtype: of its weights.
        rd_ratio: timm's reduction of squeeze-and-excitation, not used, as are the others below.
        rd_channels: as above.
        rd_divisor: as above.
        act_layer: as above.
        norm_layer: as above.
        gate_layer: as above.
    """

    def __init__(
        self,
        channels: int,
        *,
        attention: str,
        settings: dict[str, Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        rd_ratio: float | None = None,
        rd_channels: int | None = None,
        rd_divisor: int | None = None,
        act_layer: object = None,
        norm_layer: object = None,
        gate_layer: object = None,
    ) -> None:
        super().__init__()
        del rd_ratio, rd_channels, rd_divisor, act_layer, norm_layer, gate_layer
        self.attention = create_attention(attention, channels, **settings).to(device=device, dtype=dtype)
        self.zero = bool(settings.get("zero_init"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.attention(x)

    def zero_init_last(self) -> None:
        """Called by timm's ResNet after it has initialised every convolution in its own way."""
        self.init_weights()

    def init_weights(self, *, zero_init_last: bool = False) -> None:
        """Called by timm's EfficientNet and ByobNet after they have initialised every convolution in their own way."""
        del zero_init_last
        if self.zero:
            self.attention.zero_init_()


def timm_attn(attention: str = "nlsa", *, zero_init: bool = True, **settings: Any) -> Callable[..., nn.Module]:
    """An attention layer for timm's networks: `timm.create_model("resnet50", block_args=dict(attn_layer=...))`.

    What timm offers its attention layers (`rd_ratio`, `act_layer` and so on) is ignored. All layers of a model have the
    same `seed` unless it is set otherwise afterwards. timm stands behind its pretrained weights with
    `pretrained_strict=True`; those have no such layer, so pass `pretrained_strict=False`, or load the plain network and
    use `insert_attention`.

    Args:
        attention: one of `list_attention()`.
        zero_init: start as the identity, as timm's own non-local block does. timm's ResNet, EfficientNet and ByobNet
            initialise every convolution in their own way, and then let the layer make its last one zero again.
        settings: passed to the attention.

    Returns:
        What ResNet's `attn_layer`, EfficientNet's `se_layer` and ByobNet's `attn_layer` take: called with the
        channels, it gives the layer.

    Raises:
        UnknownNameError: no such attention, or no such setting of it.

    Examples:
        >>> import timm
        >>> layer = timm_attn("nlsa", rounds=2)
        >>> model = timm.create_model("resnet18", block_args=dict(attn_layer=layer))
        >>> type(model.layer1[0].se.attention).__name__
        'NonLocalSparseAttention'
    """
    known = arguments_of(attention)
    for name in settings:
        if name not in known:
            raise unknown_name(f"argument of attention {attention!r}", name, known)
    return partial(TimmAttention, attention=attention, settings={"zero_init": zero_init, **settings})
