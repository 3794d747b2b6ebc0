"""What the fast paths are compared with, written as others write it; all take the parameters of our own blocks.

`authors` follows the released code of NLSN (Mei, Fan, Zhou, CVPR 2021) step by step, with its memory traffic: one sort
of all rounds' codes together, the tail repeated, keys normalised and tripled after padding, a tensor for each step of
the softmax, rounds put back in place and weighed. Only the sort is stable here, so that it can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.attention.base import KEY_NORM_EPS, Attention2d
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.ops import bucket_count


def _take(x: Tensor, index: Tensor) -> Tensor:
    """(B, M, C), (B, L) -> (B, L, C): rows by their numbers, gathered as the authors do."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))


def _repeat_tail(x: Tensor, size: int) -> Tensor:
    """(B, R, N, C) -> (B, R, J, k, C): the last rows once more where k does not divide N."""
    missing = -x.shape[2] % size
    if missing:
        x = torch.cat([x, x[:, :, -missing:]], dim=2)
    return rearrange(x, "b r (j k) c -> b r j k c", k=size)


def _with_neighbours(x: Tensor) -> Tensor:
    """(B, R, J, k, C) -> (B, R, J, 3k, C): each chunk, the one before it and the one after it, in a circle."""
    before = torch.cat([x[:, :, -1:], x[:, :, :-1]], dim=2)
    after = torch.cat([x[:, :, 1:], x[:, :, :1]], dim=2)
    return torch.cat([x, before, after], dim=3)


def authors(block: NonLocalSparseAttention, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W): NLSA as its authors wrote it. Needs N >= k and two neighbours.

    Args:
        block: whose parameters, rotations and settings it takes.
        x: the map.
    """
    tokens, rounds, size = x.shape[2] * x.shape[3], block.rounds, block.bucket_size
    embedded = rearrange(block.embed(x), "b d h w -> b (h w) d")
    values = rearrange(block.value(x), "b c h w -> b (h w) c")
    half = bucket_count(tokens, size) // 2
    rotations = block.rotations(embedded.shape[2], half, embedded)
    rotated = torch.einsum("bnd,drf->brnf", embedded, rotations.to(embedded.dtype))
    codes = torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)
    # Each round has codes of its own, so that one sort keeps the rounds apart.
    offsets = torch.arange(rounds, device=x.device).view(1, rounds, 1) * 2 * half
    order = (codes + offsets).flatten(1).argsort(dim=-1, stable=True)
    undo = order.argsort(dim=-1)
    place = order % tokens
    in_order = (rearrange(_take(t, place), "b (r n) c -> b r n c", r=rounds) for t in (embedded, values))
    queries, sorted_values = (_repeat_tail(t, size) for t in in_order)
    keys = _with_neighbours(F.normalize(queries, dim=-1, eps=KEY_NORM_EPS))
    scores = torch.einsum("brjid,brjed->brjie", queries, keys)
    log_sums = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = torch.exp(scores - log_sums)
    out = torch.einsum("brjie,brjec->brjic", weights, _with_neighbours(sorted_values))
    out = _take(out.flatten(2, 3)[:, :, :tokens].flatten(1, 2), undo)
    log_sums = log_sums.flatten(2)[:, :, :tokens].flatten(1).gather(1, undo)
    shares = rearrange(log_sums, "b (r n) -> b r n 1", r=rounds).softmax(dim=1)
    merged = (rearrange(out, "b (r n) c -> b r n c", r=rounds) * shares).sum(dim=1)
    return rearrange(merged, "b (h w) c -> b c h w", h=x.shape[2]) * block.res_scale + x


def _tokens(block: Attention2d, x: Tensor) -> list[Tensor]:
    return [rearrange(t, "b c h w -> b (h w) c").contiguous() for t in block.embed_tokens(x)]


def _residual(block: Attention2d, x: Tensor, out: Tensor) -> Tensor:
    return x + block.res_scale * rearrange(out, "b (h w) c -> b c h w", h=x.shape[2])


def dense_naive(block: Attention2d, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W): dense attention by the full (N, N) matrix of scores."""
    queries, keys, values = _tokens(block, x)
    return _residual(block, x, (queries @ keys.mT).softmax(dim=-1) @ values)


def dense_sdpa(block: Attention2d, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W): dense attention by PyTorch's `scaled_dot_product_attention`.

    Queries and keys get zeros up to the width of the values: with other widths PyTorch computes the full matrix.
    """
    queries, keys, values = _tokens(block, x)
    missing = values.shape[2] - queries.shape[2]
    queries, keys = F.pad(queries, (0, missing)), F.pad(keys, (0, missing))
    queries, keys, values = (t.unsqueeze(1) for t in (queries, keys, values))
    return _residual(block, x, F.scaled_dot_product_attention(queries, keys, values, scale=1.0).squeeze(1))


class Written(nn.Module):
    """A block whose attention is computed by another writing of it.

    Args:
        block: owns the parameters.
        write: computes it, as `write(block, x)`.
    """

    def __init__(self, block: Attention2d, write: Callable[..., Tensor]) -> None:
        super().__init__()
        self.block, self.write = block, write

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.write(self.block, x)
