"""Tiny networks whose attention matters: sharp enough that another grouping gives another picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import Attention2d
from sparse_attn.backbones.edsr import EDSR
from sparse_attn.backbones.rcan import RCAN

SETTINGS: dict[str, dict[str, Any]] = {
    "nla": {},
    "local_window": {"bucket_size": 16},
    "random_bucket": {"bucket_size": 16, "rounds": 2},
    "nlsa": {"bucket_size": 16, "rounds": 2},
    # Of D = 2, keys would be so close together on a circle that roundings choose.
    "topk": {"bucket_size": 16, "reduction": 1},
}
# Of k = 16: one pixel, rows, less than a bucket, a row that a window holds, whole buckets, primes, a batch.
SIZES = [(1, 1, 1), (1, 1, 13), (2, 3, 4), (1, 2, 8), (1, 5, 7), (1, 12, 16), (2, 13, 29), (1, 31, 37)]


def sharpen(network: nn.Module) -> nn.Module:
    """Makes attention a choice of few keys, and its values as large as its input."""
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, Attention2d):
                block.embed.weight.mul_(40)
                block.value.weight.mul_(3)
    return network.eval()


def tiny(attention: str | None = None, *, seed: int = 0, **settings: Any) -> nn.Module:
    """An EDSR with one block and one attention."""
    torch.manual_seed(seed)
    kwargs = {**SETTINGS[attention], **settings} if attention else None
    network = EDSR(
        scale=2,
        n_resblocks=1,
        n_feats=8,
        attention=attention,
        attention_at=[0] if attention else [],
        attention_kwargs=kwargs,
    )
    return sharpen(network)


def tiny_rcan() -> nn.Module:
    """An RCAN with two groups of one block."""
    torch.manual_seed(0)
    network = RCAN(scale=3, n_resgroups=2, n_resblocks=1, n_feats=8, reduction=4, attention="nlsa", attention_at=[1],
                   attention_kwargs=SETTINGS["nlsa"])  # fmt: skip
    return sharpen(network)


def run_onnx(file: Path, x: Tensor) -> Tensor:
    """Runs a file as its user would, by onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


def picture(size: Sequence[int], *, seed: int = 0, channels: int = 3) -> Tensor:
    """(B, C, H, W) in 0..1 for (B, H, W)."""
    batch, height, width = size
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def left_in(folder: Path) -> set[str]:
    """Names of everything in a folder."""
    return {path.name for path in folder.iterdir()}
