"""Non-Local Sparse Attention (Mei, Fan, Zhou, CVPR 2021, Eq. 6-11): groups by content.

Tokens are hashed by direction (spherical LSH, Eq. 7-8), sorted by their code, cut into chunks of k, and attend to
their own chunk and its two neighbours; R rounds with other rotations are merged into one softmax (Eq. 9-11).

Differs from the authors' released code by default, which `boundary="repeat"` and injected rotations reproduce: the
sort is stable, padding is never attended to, no key counts twice within a round, N < k works, and evaluation is
deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.randomness import RANDOM_SETTINGS, DrawCounter
from sparse_attn.attention.registration import register_attention
from sparse_attn.attention.settings import one_of, positive_int, window_size, yes_or_no
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Boundary, Buckets, bucket_count, hash_codes, random_normal, sort_by_code
from sparse_attn.ops.counter_random import symbolic_normal
from sparse_attn.ops.grouping import check_neighbors, is_symbolic
from sparse_attn.ops.windows import Size


@register_attention("nlsa")
class NonLocalSparseAttention(Attention2d):
    """Attention among pixels with similar features, found by hashing. Cost grows linearly with N.

    Args:
        channels: C.
        bucket_size: k, tokens a chunk.
        rounds: R, independent hashings; more is nearer to dense attention.
        neighbors: 2 attends to the previous and the next chunk too, 1 to the previous, 0 to the own chunk only.
        boundary: `mask` (attended sets are sets) or `repeat` (as the authors' code); see `sparse_attn.ops.Buckets`.
        center: hash tokens less their mean over the map (or window). Trained embeddings may all point roughly one way;
            then most tokens share a code, and buckets are cut by place. Not in the paper.
        window: confine attention to local windows of this side or (height, width), in pixels (Figure 6).
        seed: of the rotations.
        rehash: `train` draws fresh rotations in training and fixed ones in evaluation, `always` fresh ones on each
            call, `never` the fixed ones: needed where activations are checkpointed, as recomputation would draw anew.

    Other arguments are those of `Attention2d`.
    """

    settings = {
        **Attention2d.settings,
        **RANDOM_SETTINGS,
        "bucket_size": positive_int("bucket_size"),
        "rounds": positive_int("rounds"),
        "neighbors": check_neighbors,
        "boundary": one_of("boundary", "mask", "repeat"),
        "center": yes_or_no("center"),
        "window": window_size,
    }
    bucket_size: int
    rounds: int
    neighbors: int
    boundary: Boundary
    center: bool
    seed: int
    rehash: str

    def __init__(
        self,
        channels: int,
        *,
        bucket_size: int = 144,
        rounds: int = 4,
        neighbors: int = 2,
        boundary: str = "mask",
        center: bool = False,
        window: int | Size | None = None,
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
        self.injected: Tensor | None = None
        self.configure(
            bucket_size=bucket_size,
            rounds=rounds,
            neighbors=neighbors,
            boundary=boundary,
            center=center,
            window=window,
            seed=seed,
            rehash=rehash,
        )

    def rotations(self, width: int, half: int, like: Tensor) -> Tensor:
        """(D, R, m // 2): those injected by `use_rotations`, else drawn by `seed` and `rehash`."""
        shape = (width, self.rounds, half)
        if self.injected is None:
            draw = self.draw.take(self.rehash, like.device)
            if is_symbolic(half):
                return symbolic_normal(shape, seed=self.seed, draw=draw, device=like.device)
            return random_normal(shape, seed=self.seed, draw=draw, device=like.device)
        if self.injected.shape != shape:
            raise ConfigError(
                "injected rotations do not fit",
                expected=f"(D, R, m // 2) = {shape}",
                got=tuple(self.injected.shape),
                remedy="draw them for this width, rounds, bucket_size and image size",
            )
        return self.injected.to(like.device)

    def codes(self, queries: Tensor, rotations: Tensor) -> Tensor:
        """(B, N, D) tokens and (D, R, m // 2) rotations -> (B, R, N) hash codes."""
        tokens = queries - queries.mean(1, keepdim=True) if self.center else queries
        return hash_codes(tokens, rotations, backend=cast(str, self.backend))

    def sees_all(self, tokens: int) -> bool:
        """Where a chunk and its neighbours are all there is."""
        return Buckets(None, self.bucket_size, self.neighbors, self.boundary).is_dense(tokens)

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Buckets:
        """Chunks of the tokens in order of their hash codes."""
        tokens = queries.shape[1]
        unsorted = Buckets(None, self.bucket_size, self.neighbors, self.boundary)
        if unsorted.is_dense(tokens):
            return unsorted
        half = bucket_count(tokens, self.bucket_size) // 2
        codes = self.codes(queries, self.rotations(queries.shape[2], half, queries))
        order = sort_by_code(codes, backend=cast(str, self.backend))
        return Buckets(order, self.bucket_size, self.neighbors, self.boundary)


@contextmanager
def use_rotations(model: nn.Module, rotations: Sequence[Tensor]) -> Iterator[None]:
    """Injects the rotations of every NLSA of a model, for comparison with another implementation.

    Args:
        model: an NLSA, or a module that contains some.
        rotations: one (D, R, m // 2) tensor for each NLSA, in module order.

    Raises:
        ConfigError: as many tensors as NLSA modules are needed; in the forward pass, a tensor of the wrong shape.
    """
    blocks = [m for m in model.modules() if isinstance(m, NonLocalSparseAttention)]
    if len(blocks) != len(rotations):
        raise ConfigError("rotations do not fit the model", expected=f"{len(blocks)} tensors", got=len(rotations))
    before = [block.injected for block in blocks]
    try:
        for block, rotation in zip(blocks, rotations, strict=True):
            block.injected = rotation
        yield
    finally:
        for block, previous in zip(blocks, before, strict=True):
            block.injected = previous
