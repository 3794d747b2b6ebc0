"""Local window attention (Mei et al., CVPR 2021, section 4.4 and Table 2): groups by place."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.registration import register_attention
from sparse_attn.attention.settings import positive_int
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets
from sparse_attn.ops.windows import Size


def _square(value: Any) -> int:
    size = positive_int("bucket_size")(value)
    side = math.isqrt(size)
    if side * side != size:
        raise ConfigError(
            "bad bucket_size",
            expected="a square number, q*q tokens a window",
            got=size,
            remedy=f"use {side * side} or {(side + 1) ** 2}",
        )
    return size


@register_attention("local_window")
class LocalWindowAttention(Attention2d):
    """Attention inside square windows of q*q = bucket_size pixels, laid out from the top left; edge ones are smaller.

    Where a window holds as many tokens as the whole map has, attention is dense.

    Args:
        channels: C.
        bucket_size: q*q, tokens a window.

    Other arguments are those of `Attention2d`.
    """

    settings = {**Attention2d.settings, "bucket_size": _square}
    bucket_size: int

    def __init__(
        self,
        channels: int,
        *,
        bucket_size: int = 144,
        reduction: int = 4,
        embed_kernel: int = 3,
        shared_qk: bool = True,
        normalize_keys: bool = True,
        res_scale: float = 1.0,
        zero_init: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            channels,
            reduction=reduction,
            embed_kernel=embed_kernel,
            shared_qk=shared_qk,
            normalize_keys=normalize_keys,
            res_scale=res_scale,
            zero_init=zero_init,
            backend=backend,
        )
        self.configure(bucket_size=bucket_size)

    @property
    def window(self) -> Size:  # type: ignore[override]
        """(q, q)."""
        side = math.isqrt(self.bucket_size)
        return side, side

    def sees_all(self, tokens: int) -> bool:
        """Always."""
        return True

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Buckets:
        """One bucket a window."""
        return Buckets(order=None, bucket_size=size[0] * size[1])
