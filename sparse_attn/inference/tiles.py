"""Cutting a picture into overlapping tiles, and the ramps that blend them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A network trained on patches sees mostly its own zero padding in a picture smaller than this.
MIN_SIDE = 16

Span = tuple[int, int]


def reflection(size: int) -> tuple[Tensor, int]:
    """Pixels that extend a side of `size` to MIN_SIDE by reflection, as often as it takes; a single one is repeated.

    Returns:
        (max(size, MIN_SIDE),) indices into the side, and how many of them come before pixel 0.
    """
    before = max(0, MIN_SIDE - size) // 2
    period = max(1, 2 * (size - 1))
    index = torch.remainder(torch.arange(max(size, MIN_SIDE)) - before, period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index), before


def spans(size: int, tile: int, overlap: int) -> list[Span]:
    """(start, stop) of equally long, evenly spread tiles that cover `size` and share at least `overlap`."""
    if tile >= size:
        return [(0, size)]
    count = math.ceil((size - overlap) / (tile - overlap))
    starts = [round(i * (size - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def ramps(along: list[Span], scale: int, *, like: Tensor) -> list[Tensor]:
    """Each tile's weight along one side of the enlarged picture: linear over an overlap, and summing to 1 everywhere.

    Returns:
        One (scale * (stop - start),) tensor a tile, of `like`'s dtype and device.
    """
    total = torch.zeros(scale * along[-1][1], dtype=torch.float64)
    weights = []
    for i, (start, stop) in enumerate(along):
        position = torch.arange(scale * (stop - start), dtype=torch.float64) + 0.5
        weight = torch.ones_like(position)
        if i > 0:
            weight = weight.minimum(position / (scale * (along[i - 1][1] - start)))
        if i + 1 < len(along):
            weight = weight.minimum((len(position) - position) / (scale * (stop - along[i + 1][0])))
        total[scale * start : scale * stop] += weight
        weights.append(weight)
    return [
        (weight / total[scale * start : scale * stop]).to(like.device, like.dtype)
        for weight, (start, stop) in zip(weights, along, strict=True)
    ]
