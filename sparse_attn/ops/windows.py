"""Cutting a feature map into windows and putting it together again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

Size = tuple[int, int]


def _pieces(length: int, window: int) -> list[tuple[int, int, int]]:
    """(start, stop, window) of the whole windows, and of the shorter one at the end if there is one."""
    whole = length - length % window
    pieces = [(0, whole, window)] if whole else []
    return [*pieces, (whole, length, length - whole)] if whole < length else pieces


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
    for top, bottom, h in _pieces(q.shape[2], window[0]):
        row = []
        for left, right, w in _pieces(q.shape[3], window[1]):
            tokens = [
                rearrange(x[:, :, top:bottom, left:right], "b c (i h) (j w) -> (b i j) (h w) c", h=h, w=w)
                for x in (q, k, v)
            ]
            out = attend(tokens[0], tokens[1], tokens[2], (h, w))
            row.append(
                rearrange(
                    out,
                    "(b i j) (h w) c -> b c (i h) (j w)",
                    i=(bottom - top) // h,
                    j=(right - left) // w,
                    h=h,
                )
            )
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)
