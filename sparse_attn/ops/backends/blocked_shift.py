"""What the CPU backend subtracts from a query's scores before it takes powers, and how gradients account for it.

Softmax is the same for any per-query constant m_i: out_i = sum E V / sum E, with E = 2^(s - m_i). So tiles of keys, and
all rounds (Eq. 11), merge by plain addition, without a running maximum. Where no score can be large m_i is 0. Else it
is the query's score with itself: where keys are normalised queries that is ||q_i||, the maximum. Only where E could
overflow even so, as keys are not normalised or scores are so large that rounding alone is a factor of 2^16, m_i is the
true maximum, at one more pass over the scores.

Powers are of two, which PyTorch computes three times as fast as those of e: queries are multiplied by log2(e), and
scores, m_i and the logarithms of sums are to base 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)

# Scores up to which m_i = 0 is good: those of bf16 are rounded, by 2^-9 of their size.
_SMALL = {torch.bfloat16: 2.0}
_SMALL_ELSE = 32.0
# 2^80 times the values, summed over all keys, stays in the range of float32.
_SAFE = 80.0
# The bits by which rounded scores may be off before they are the same number each time they are computed.
_SLACK = 16.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in."""
    return torch.promote_types(dtype, torch.float32)


def _bound(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """(..., N, 1): no score of the query is larger."""
    dtype = wide(q.dtype)
    longest = k.norm(dim=-1, keepdim=True, dtype=dtype).amax(-2, True)
    return q.norm(dim=-1, keepdim=True, dtype=dtype).mul_(longest).mul_(scale)


def _sizes(bound: Tensor, dtype: torch.dtype) -> tuple[bool, bool]:
    largest = float(bound.max())
    return largest <= _SMALL.get(dtype, _SMALL_ELSE), largest > _SLACK / torch.finfo(dtype).eps


def size_of_scores(q: Tensor, k: Tensor, *, scale: float = 1.0) -> tuple[bool, bool]:
    """Whether no score is large, so that no shift is needed; and whether some are so large that rounding is.

    Queries are yet to be multiplied by `scale`.
    """
    return _sizes(_bound(q, k, scale), q.dtype)


def choose_shift(q: Tensor, k: Tensor, *, scale: float = 1.0) -> tuple[Tensor | None, bool, bool]:
    """m_i of queries (..., N, D), to base 2: None for 0, else (..., N, 1); whether it may be too small; rounding too.

    Queries are yet to be multiplied by `scale`.
    """
    dtype = wide(q.dtype)
    bound = _bound(q, k, scale)
    small, rounded = _sizes(bound, q.dtype)
    if small:
        return None, False, False
    own = (q.to(dtype) * k.to(dtype)).sum(-1, keepdim=True).mul_(scale)
    if rounded:
        # It would be rounded otherwise than the scores are, and may be larger than all of them.
        return own.fill_(-math.inf), True, True
    return own, not bool((bound - own).max() < _SAFE), False


class Scratch:
    """Memory that tiles use one after another: what an allocator hands out afresh costs a page fault each 4 KiB.

    Args:
        like: gives the dtype.

    Attributes:
        apart: products are rounded before something is subtracted from them, and so are always the same.
    """

    def __init__(self, like: Tensor) -> None:
        self._like, self.apart = like, False
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor; the last one of this name is overwritten."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = self._like.new_empty(size, dtype=dtype)
        return self._held[name][:size].view(shape)

    def product(self, name: str, left: Tensor, right: Tensor, subtract: Tensor | None = None) -> Tensor:
        """(b, M, K) (b, K, N) -> (b, M, N), less a (b, M, 1) tensor."""
        out = self.take(name, left.shape[0], left.shape[1], right.shape[2])
        if subtract is None:
            return torch.bmm(left, right, out=out)
        if self.apart:
            return torch.bmm(left, right, out=out).sub_(subtract)
        return torch.baddbmm(subtract, left, right, beta=-1, out=out)


def log_sums(shift: Tensor | None, total: Tensor) -> Tensor:
    """The log2-sum-exp2 of the scores, (..., N), from the sums of E, (..., N, 1)."""
    return (total.log2() if shift is None else shift + total.log2()).squeeze(-1)


def prepare_backward(
    mean: Tensor, log_sum: Tensor, *, like: Tensor, small: bool
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """What to subtract from scores in the backward pass, the factor on dO to go with it, and that times dO . O.

    P = 2^(s - log_sum), but cheaper, or all that is possible where log_sum is rounded to the products' dtype, is a
    power that is too large by 2^(log_sum - subtracted). Gradients contain P only in products with dO, which is made
    smaller by as much.

    Args:
        mean: dO . O, (..., N).
        log_sum: (..., N), to base 2.
        like: gives the dtype.
        small: whether no score is large, so that nothing need be subtracted.

    Returns:
        Each (..., N, 1); None subtracts nothing, and is the factor 1.
    """
    exact, mean = log_sum.unsqueeze(-1), mean.unsqueeze(-1)
    shift = None if small else exact.to(like.dtype)
    if shift is not None and shift.dtype == exact.dtype:
        return shift, None, mean
    factor = (-exact if shift is None else shift.to(exact.dtype) - exact).exp2_().to(like.dtype)
    # By the rounded factor: the two are subtracted from each other, and should be off alike.
    return shift, factor, (mean * factor).to(like.dtype)


def accumulate(total: Tensor, left: Tensor, right: Tensor, scratch: Scratch) -> None:
    """Adds left @ right to `total`, in its precision."""
    if total.dtype == left.dtype:
        total.baddbmm_(left, right)
    else:
        total += scratch.product("accumulate", left, right)
