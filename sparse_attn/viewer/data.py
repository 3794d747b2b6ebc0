"""What a page needs to compute any pixel's attention by itself: queries, keys and groups, rounded and packed."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_attn.attention import Attention2d, Probe
from sparse_attn.attention.base import KEY_NORM_EPS
from sparse_attn.attention.probing import Region
from sparse_attn.attention.topk import TopKAttention
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets

# Hash codes are below 128, see `bucket_count`.
NO_CODE = 255
Packed = dict[str, Any]


@dataclass(frozen=True)
class _Packer:
    """Integers of a map to text, in as few bytes as the number of its tokens allows."""

    tokens: int

    def __call__(self, values: Tensor) -> str:
        kind = "<u2" if self.tokens <= 1 << 16 else "<u4"
        return _text(values.contiguous().numpy().astype(kind))


def pack(found: Probe, bits: int) -> Packed:
    """A probe of one picture as JSON-able data.

    Args:
        found: what an attention did.
        bits: 8 or 16, of each number of queries and keys; each token has a scale of its own.

    Raises:
        ConfigError: more than one picture, or numbers that are not finite.
    """
    if len(found.queries) != 1:
        raise ConfigError("cannot show this", expected="one picture", got=f"a batch of {len(found.queries)}")
    if not (found.queries.isfinite().all() and found.keys.isfinite().all()):
        raise ConfigError("cannot show this", expected="finite queries and keys", got="NaN or infinity")
    height, width = found.size
    indices = _Packer(height * width)
    block = found.attention
    return {
        "width": width,
        "height": height,
        "depth": found.queries.shape[2],
        "rounds": found.rounds,
        "bits": bits,
        "wide": height * width > 1 << 16,
        "queries": quantised(found.queries[0], bits),
        # Shared keys are the queries once more.
        "keys": quantised(found.keys[0], bits) if block.query is not None else None,
        "smallest": KEY_NORM_EPS if block.normalize_keys else None,
        "codes": _codes(found),
        "regions": [_region(region, block, indices) for region in found.regions],
    }


def quantised(tokens: Tensor, bits: int) -> Packed:
    """(N, D) as integers that reach from -(2^(bits - 1) - 1) up to its opposite in every token, and (N,) scales."""
    largest = 2 ** (bits - 1) - 1
    values = tokens.numpy()
    scales = (np.abs(values).max(axis=1) / largest).astype("<f4")
    whole = np.rint(values / np.where(scales > 0, scales, 1)[:, None]).clip(-largest, largest)
    return {"values": _text(whole.astype(f"<i{bits // 8}")), "scales": _text(scales)}


def _region(region: Region, block: Attention2d, indices: _Packer) -> Packed:
    windows, n = region.pixels.shape
    groups = region.groups
    if isinstance(groups, Buckets):
        order = torch.arange(n).expand(windows, 1, n) if groups.order is None else groups.order.expand(windows, -1, -1)
        return {
            "tokens": n,
            "rounds": order.shape[1],
            "order": indices(region.pixels.unsqueeze(1).expand(order.shape).gather(2, order)),
            "size": groups.bucket_size,
            "chunks": groups.chunks(n),
            "offsets": groups.offsets(n),
            "repeat": groups.boundary == "repeat",
        }
    k = groups.index.shape[2]
    plain: Packed = {"tokens": n, "rounds": 1, "pixels": indices(region.pixels), "keys": k}
    if isinstance(block, TopKAttention):
        # All lists together would be far larger than what they are made from.
        return plain
    flat = region.pixels.gather(1, groups.index.flatten(1))
    return {**plain, "lists": indices(flat)}


def _codes(found: Probe) -> str | None:
    """(R, N) hash codes, each window's in its own place."""
    if all(region.codes is None for region in found.regions):
        return None
    codes = torch.full((found.rounds, found.queries.shape[1]), NO_CODE, dtype=torch.uint8)
    for region in found.regions:
        if region.codes is not None:
            for pixels, own in zip(region.pixels, region.codes, strict=True):
                codes[: len(own), pixels] = own.to(torch.uint8)
    return _text(codes.numpy())


def _text(values: NDArray[Any]) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()
