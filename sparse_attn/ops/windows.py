"""Cutting a feature map into windows and putting it together again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

Size = tuple[int, int]


def _pieces(length: int, window: int) -> list[tuple[int, int, int]]:
    """(start, count, window) of the whole windows, and of the shorter one at the end if there is one."""
    # Counts, and no division afterwards: compilers are slow to see that what a remainder leaves divides.
    count, rest = length // window, length % window
    pieces = [(0, count, window)] if count else []
    return [*pieces, (count * window, 1, rest)] if rest else pieces


def over_windows(
    attend: Callable[[Tensor, Tensor, Tensor, Size], Tensor], q: Tensor, k: Tensor, v: Tensor, window: Size
) -> Tensor:
    """Calls `attend` on windows of a feature map, laid out from the top left; those at the far edges may be smaller.

    Args:
        attend: takes (B', h*w, D) queries and keys, (B', h*w, C) values and (h, w), returns (B', h*w, C). It is called
            once for each size of window that occurs, at most four times, with all windows of that size as a batch.
        q: (B, D, H, W) queries.
        k: (B, D, H, W) keys.
        v: (B, C, H, W) values.
        window: (h, w).

    Returns:
        (B, C, H, W).
    """
    rows = []
    for top, down, h in _pieces(q.shape[2], window[0]):
        row = []
        for left, across, w in _pieces(q.shape[3], window[1]):
            tokens = [
                rearrange(
                    x[:, :, top : top + down * h, left : left + across * w],
                    "b c (i h) (j w) -> (b i j) (h w) c",
                    i=down,
                    h=h,
                    j=across,
                    w=w,
                )
                for x in (q, k, v)
            ]
            out = attend(tokens[0], tokens[1], tokens[2], (h, w))
            row.append(
                rearrange(
                    out,
                    "(b i j) (h w) c -> b c (i h) (j w)",
                    i=down,
                    j=across,
                    h=h,
                )
            )
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)
