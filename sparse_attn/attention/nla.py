"""Dense non-local attention (Mei et al., CVPR 2021, Eq. 4; Wang et al., CVPR 2018): everyone attends to everyone."""

from __future__ import annotations

from torch import Tensor

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.registration import register_attention
from sparse_attn.attention.settings import window_size
from sparse_attn.ops import Buckets
from sparse_attn.ops.windows import Size


@register_attention("nla")
class NonLocalAttention(Attention2d):
    """Dense non-local attention: every pixel attends to every pixel. Cost grows with N squared.

    Differs from the NLSN authors' dense block, which has PReLU after its embeddings and scales the input instead of
    the attention: ours shares parameters with the other attentions here.

    Args:
        channels: C.
        window: confine attention to local windows of this side or (height, width), in pixels; None is the whole map.

    Other arguments are those of `Attention2d`.
    """

    settings = {**Attention2d.settings, "window": window_size}

    def __init__(
        self,
        channels: int,
        *,
        window: int | Size | None = None,
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
        self.configure(window=window)

    def sees_all(self, tokens: int) -> bool:
        """Always."""
        return True

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Buckets:
        """One bucket."""
        return Buckets(order=None, bucket_size=size[0] * size[1])
