"""What a launch of the Triton kernels needs to be told: sizes, widths, grids, and how products are computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_KEY_WIDTH = 128
MAX_VALUE_WIDTH = 512
# Columns of values that one program accumulates.
MAX_SLICE = 256


def block(width: int) -> int:
    """The power of two that holds this many columns; a product of matrices takes 16 at least."""
    return max(16, 1 << (width - 1).bit_length())


def depth(wide: int, *, exact: bool) -> int:
    """Columns of values that one product of score_grad_kernel sums over: float32 operands stay in registers."""
    return min(block(wide), 64 if exact else MAX_VALUE_WIDTH)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _precision(dtype: torch.dtype) -> str:
    """How the products of a call are computed; tf32 for float32 where PyTorch's own products may use it."""
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    # Reading the older switch raises where the newer one was set, which PyTorch 2.8 does not have.
    newer = getattr(matmul, "fp32_precision", None)
    return "tf32" if newer == "tf32" or (newer is None and matmul.allow_tf32) else "ieee"


class Launch:
    """What the kernels of one call share: sizes, widths, and how products are computed.

    Args:
        q: (B, N, D) queries.
        v: (B, N, C) values.
        order: (B or 1, R, N).
        bucket_size: k.
        neighbors: 0, 1 or 2.
    """

    def __init__(self, q: Tensor, v: Tensor, order: Tensor, bucket_size: int, neighbors: int) -> None:
        self.batch, self.tokens, self.width = q.shape
        self.wide = v.shape[2]
        self.rounds = order.shape[1]
        self.slice = min(block(self.wide), MAX_SLICE)
        self.parts = -(-self.wide // self.slice)
        self.options: dict[str, Any] = {
            "tokens": self.tokens,
            "size": bucket_size,
            "circle": -(-self.tokens // bucket_size) * bucket_size,
            "rounds": self.rounds,
            "orders": order.shape[0],
            # What tuning tells apart: about how large buckets are, and whether there is work enough to fill a GPU.
            # Not N, or each size of image would be tuned for.
            "case": 2 * min(bucket_size, 512).bit_length() + (self.batch * self.rounds * self.tokens >= 2**15),
            "D": self.width,
            "C": self.wide,
            "BLOCK_D": block(self.width),
            "NEIGHBORS": neighbors,
            "PRECISION": _precision(v.dtype),
            # The interpreter's product of bfloat16 matrices is wrong in Triton 3.9.
            "UPCAST": interpreted(),
            # Given because Triton 3.9 warns where it is not.
            "enable_fp_fusion": True,
        }

    def grid(self, parts: int = 1) -> Callable[[dict[str, int]], tuple[int]]:
        """The number of programs, given a configuration."""
        programs = self.batch * self.rounds * parts
        return lambda chosen: (-(-self.tokens // chosen["BLOCK_M"]) * programs,)

    def by_row(self, kernel: Any, *tensors: Tensor, **options: int) -> None:
        """Launches one of the kernels that walk whole rows of values."""
        rows, width = self.batch * self.tokens, block(self.wide)
        height = 4096 // width
        kernel[(-(-rows // height),)](
            *tensors, rows=rows, C=self.wide, BLOCK_C=width, BLOCK_M=height, enable_fp_fusion=True, **options
        )
