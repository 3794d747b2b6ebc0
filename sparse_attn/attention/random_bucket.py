"""Random bucket attention (Mei et al., CVPR 2021, Table 2): groups by chance, NLSA's control experiment."""

from __future__ import annotations

from torch import Tensor

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.randomness import RANDOM_SETTINGS, DrawCounter
from sparse_attn.attention.registration import register_attention
from sparse_attn.attention.settings import positive_int
from sparse_attn.ops import Buckets, random_order
from sparse_attn.ops.windows import Size


@register_attention("random_bucket")
class RandomBucketAttention(Attention2d):
    """Attention inside random sets of k pixels; several rounds draw several partitions and merge by Eq. 11.

    Args:
        channels: C.
        bucket_size: k, tokens a bucket.
        rounds: R, independent partitions.
        seed: of the partitions.
        rehash: `train` draws fresh partitions in training and a fixed one in evaluation, `always` fresh ones on each
            call, `never` the fixed ones: needed where activations are checkpointed, as recomputation would draw anew.

    Other arguments are those of `Attention2d`.
    """

    settings = {
        **Attention2d.settings,
        **RANDOM_SETTINGS,
        "bucket_size": positive_int("bucket_size"),
        "rounds": positive_int("rounds"),
    }
    bucket_size: int
    rounds: int
    seed: int
    rehash: str

    def __init__(
        self,
        channels: int,
        *,
        bucket_size: int = 144,
        rounds: int = 1,
        seed: int = 0,
        rehash: str = "train",
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
        self.draw = DrawCounter()
        self.configure(bucket_size=bucket_size, rounds=rounds, seed=seed, rehash=rehash)

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Buckets:
        """R random partitions, the same for all images of a batch."""
        tokens = queries.shape[1]
        draw = self.draw.take(self.rehash, queries.device)
        order = random_order(tokens, self.rounds, seed=self.seed, draw=draw, device=queries.device)
        return Buckets(order.unsqueeze(0), self.bucket_size)
