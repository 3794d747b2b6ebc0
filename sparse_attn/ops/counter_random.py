"""Random numbers as a pure function of (seed, draw, index): a counter-based generator in plain tensor operations.

No generator object, so nothing touches the global state, `torch.compile` and `torch.export` trace straight through,
every device draws the same bits, and a resumed run needs one integer to go on. The mixing function is Wellons'
`lowbias32` 32-bit finaliser, applied once for the index, once for the draw and once for the seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparse_attn.ops.grouping import at_least, stable_order

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words, held in int64; the product may wrap, its low 32 bits stay right."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def random_bits(count: int, *, seed: int, draw: Tensor | int, device: torch.device) -> Tensor:
    """(count,) int64 words, uniform on [0, 2**32).

    Args:
        count: how many.
        seed: any integer.
        draw: which of the seed's streams; a 0-d tensor keeps it out of the compiled graph's guards.
        device: where.
    """
    if isinstance(draw, Tensor):
        draw = draw.to(device)
    words = _mix((torch.arange(1, count + 1, device=device) * _GOLDEN) & _MASK)
    words = _mix(words ^ ((draw * 0x85EBCA6B + 1) & _MASK))
    return _mix(words ^ ((seed * 0xC2B2AE35 + 2) & _MASK))


def random_normal(shape: tuple[int, ...], *, seed: int, draw: Tensor | int, device: torch.device) -> Tensor:
    """Standard normal float32 numbers of the given shape, by Box and Muller."""
    count = math.prod(shape)
    # MPS has no float64.
    where = torch.device("cpu") if device.type == "mps" else device
    bits = random_bits(2 * count, seed=seed, draw=draw, device=where).to(torch.float64)
    uniform = (bits + 0.5) / 2.0**32
    radius = torch.sqrt(-2.0 * torch.log(uniform[:count]))
    return (radius * torch.cos(2.0 * math.pi * uniform[count:])).to(torch.float32).reshape(shape).to(device)


def symbolic_normal(shape: tuple[int, int, int], *, seed: int, draw: Tensor | int, device: torch.device) -> Tensor:
    """`random_normal`, for a graph that is exported for every last size, and at least two wide.

    Where the last size is one, its column is there twice: to a tracer a size that may be one is a branch.
    """
    rows, width = shape[0] * shape[1], shape[2]
    numbers = random_normal((rows * width,), seed=seed, draw=draw, device=device)
    column = torch.arange(at_least(2, width), device=device).clamp(max=width - 1)
    places = torch.arange(rows, device=device).unsqueeze(1) * width + column
    return numbers[places].reshape(shape[0], shape[1], -1)


def random_order(tokens: int, rounds: int, *, seed: int, draw: Tensor | int, device: torch.device) -> Tensor:
    """(rounds, tokens) int64: an independent random permutation a round."""
    bits = random_bits(rounds * tokens, seed=seed, draw=draw, device=device).reshape(rounds, tokens)
    return stable_order(bits)
