"""Helpers of the attention tests: building any registered attention, comparing tensors by the table of tolerances."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from sparse_attn.attention import Attention2d, attentions, create_attention
from tests.tolerances import RELATIVE


def takes(name: str, argument: str) -> bool:
    """Whether an attention has this argument."""
    return argument in inspect.signature(attentions.get(name)).parameters


def make(name: str, channels: int = 6, **wanted: Any) -> Attention2d:
    """An attention with those of the wanted arguments that it has; weights large enough for peaked scores."""
    kwargs = {"reduction": 2, **wanted}
    block = create_attention(name, channels, **{k: v for k, v in kwargs.items() if takes(name, k)})
    with torch.no_grad():
        block.embed.weight.mul_(3)
    return block


def assert_close(actual: Tensor, expected: Tensor, tolerance: str, *, floor: float = 0.0) -> None:
    """|actual - expected| <= tolerance * max(max |expected|, floor), elementwise."""
    assert actual.shape == expected.shape
    limit = RELATIVE[tolerance] * max(float(expected.detach().abs().max()), floor)
    error = float((actual.detach() - expected.detach()).abs().max())
    assert error <= limit, f"error {error:.3g} exceeds {limit:.3g} ({tolerance})"


def outputs_and_gradients(block: Attention2d, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """The output, the input's gradient and every parameter's, of sum(output * cotangent)."""
    block.zero_grad(set_to_none=True)
    x = x.detach().clone().requires_grad_()
    out = block(x)
    (out * cotangent).sum().backward()
    assert x.grad is not None
    grads = {f"grad.{n}": p.grad for n, p in block.named_parameters() if p.grad is not None}
    return {"output": out.detach(), "grad.input": x.grad, **grads}
