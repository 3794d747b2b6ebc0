"""Merging rounds (Eq. 11): one softmax over the union, with multiplicity, of what all rounds attend to."""

from __future__ import annotations

import torch
from torch import Tensor


def merge_rounds(outputs: list[Tensor], log_sums: list[Tensor]) -> Tensor:
    """Weighs each round by the share of the softmax's total mass that it saw.

    Args:
        outputs: R tensors (B, N, C), each round's attention output.
        log_sums: R tensors (B, N), each round's log-sum-exp of scores.

    Returns:
        (B, N, C), as if all rounds' scores had gone through one softmax.
    """
    if len(outputs) == 1:
        return outputs[0]
    weights = torch.stack(log_sums).softmax(dim=0)
    merged = outputs[0] * weights[0].unsqueeze(-1).to(outputs[0].dtype)
    for output, weight in zip(outputs[1:], weights[1:], strict=True):
        merged = merged + output * weight.unsqueeze(-1).to(output.dtype)
    return merged
