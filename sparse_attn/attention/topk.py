"""Top-k attention: what section 3.1 of Mei et al., CVPR 2021, calls the naive way to make attention sparse.

It ranks all similarities and keeps the k largest, so it shows the best any sparse attention with k keys could select;
it saves nothing, its cost stays quadratic in N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.registration import register_attention
from sparse_attn.attention.settings import positive_int
from sparse_attn.ops import Buckets, Groups, KeyLists
from sparse_attn.ops.grouping import at_most, is_symbolic
from sparse_attn.ops.windows import Size


@register_attention("topk")
class TopKAttention(Attention2d):
    """Each query attends to the k keys most similar to it: an exact upper bound, quadratic, for study.

    Args:
        channels: C.
        bucket_size: k, keys a query.

    Other arguments are those of `Attention2d`.
    """

    settings = {**Attention2d.settings, "bucket_size": positive_int("bucket_size")}
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

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Groups:
        """The k best keys of each query, or one bucket where k covers the map."""
        tokens = queries.shape[1]
        if not is_symbolic(tokens) and self.bucket_size >= tokens:
            return Buckets(order=None, bucket_size=tokens)
        # topk ranks NaN first: a bad key would be everyone's choice.
        scores = (queries.detach() @ keys.detach().transpose(1, 2)).nan_to_num(nan=-torch.inf)
        return KeyLists(scores.topk(at_most(self.bucket_size, tokens), dim=-1, sorted=False).indices)
