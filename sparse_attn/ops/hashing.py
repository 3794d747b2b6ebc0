"""Spherical locality-sensitive hashing (Mei et al., CVPR 2021, Eq. 7-8; Andoni et al., NeurIPS 2015).

A token's bucket is the vertex of a randomly rotated cross-polytope nearest to it: with x' = x R, the largest entry of
[x', -x']. Only the direction matters, so tokens need no normalising.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.ops.backends import native
from sparse_attn.ops.grouping import at_least, at_most, is_symbolic, stable_order

MAX_BUCKETS = 128
# Numbers that are projected at once: 16 MiB, as larger tensors come from the system page by page.
_PROJECTIONS = 2**22


def bucket_count(tokens: int, bucket_size: int) -> int:
    """m, the number of hash buckets: N // k made even, at least 2, at most 128."""
    even = tokens // bucket_size + (tokens // bucket_size) % 2
    return at_least(2, at_most(MAX_BUCKETS, even))


def hash_codes(x: Tensor, rotations: Tensor, *, backend: str = "eager") -> Tensor:
    """The bucket of every token in every round.

    Runs in float32 (float64 for float64 tokens) also under autocast: in bf16 one code in fifty is an exact tie.

    Args:
        x: (B, N, D) tokens.
        rotations: (D, R, m // 2) Gaussian matrices, one a round.
        backend: `native` and, where that is built, `auto` look for the largest entries in C++; the codes are the same.

    Returns:
        (B, R, N) int64 codes in [0, m); ties go to the lowest index.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        x, rotations = x.detach().to(dtype), rotations.to(dtype)
        together = 1
        if not is_symbolic(x.shape[1]):
            together = max(1, _PROJECTIONS // (x.shape[0] * x.shape[1] * rotations.shape[2]))
        return torch.cat([_nearest(x, some, backend) for some in rotations.split(together, dim=1)], dim=1)


def _nearest(x: Tensor, rotations: Tensor, backend: str) -> Tensor:
    """(B, N, D) tokens and (D, R, m // 2) rotations -> (B, R, N) indices of the largest of [x R, -x R]."""
    rotated = torch.einsum("bnd,drf->bnrf", x, rotations)
    if native.helps(backend, rotated):
        return native.nearest_vertices(rotated)
    (most, above), (least, below) = rotated.max(dim=-1), rotated.min(dim=-1)
    # Where both ends are equally far out the first index wins, and a NaN is an end.
    return torch.where(most < -least, below + rotated.shape[-1], above).transpose(1, 2)


def sort_by_code(codes: Tensor, *, backend: str = "eager") -> Tensor:
    """(B, R, N) codes -> (B, R, N) tokens in order of code; equal codes keep the order of place (stable).

    Args:
        codes: of `hash_codes`.
        backend: `native` and, where that is built, `auto` count them in C++.
    """
    if native.helps(backend, codes):
        return native.stable_order(codes)
    return stable_order(codes)
