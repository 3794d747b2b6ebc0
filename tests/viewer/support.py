"""Views of single attentions on random feature maps."""

from __future__ import annotations

from typing import Any

import torch

from sparse_attn.attention import Attention2d, Probe, create_attention
from sparse_attn.attention.probing import Region
from sparse_attn.ops import Buckets, KeyLists
from sparse_attn.viewer import View, inspect
from tests.attention.support import make

SIZE = (11, 13)
AT = (7, 4)


def view_of(name: str, *, at: tuple[int, int] = AT, size: tuple[int, int] = SIZE, **settings: Any) -> View:
    """An attention's own view of noise, with scores peaked enough to tell pixels apart."""
    block = make(name, **{"bucket_size": 16, "rounds": 3, **settings})
    x = 2 * torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(1))
    return inspect(block, x, at=at)


def large_view(name: str, depth: int, *, side: int = 128, **settings: Any) -> View:
    """A view of a side x side map with queries D wide, without the attention having been computed."""
    block: Attention2d = create_attention(name, depth, reduction=1, **settings)
    tokens = side * side
    random = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 1, tokens, depth, generator=random)
    groups: Buckets | KeyLists
    if name == "topk":
        groups = KeyLists(torch.arange(144).expand(1, tokens, 144))
    else:
        order = torch.stack([torch.randperm(tokens, generator=random) for _ in range(4)])
        groups = Buckets(order[None], 144, 2)
    codes = None if name == "topk" else torch.randint(112, (1, 4, tokens), generator=random)
    region = Region(torch.arange(tokens).view(1, -1), groups, codes)
    inputs = torch.zeros(1, depth, side, side)
    found = Probe(block, inputs, queries, keys, inputs.flatten(2).transpose(1, 2), (region,))
    noise = torch.randint(0, 256, (side, side, 3), generator=random, dtype=torch.uint8).numpy()
    return View(found, "body", ("body",), noise, (5, 7), (0, 0), (side, side), "noise")
