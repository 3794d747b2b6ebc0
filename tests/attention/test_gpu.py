"""On a CUDA device: what the CPU computes, in float32 and under autocast, outputs and gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from sparse_attn.attention import list_attention
from tests.attention.support import assert_close, make, outputs_and_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.parametrize("name", list_attention()),
]


def test_float64_equals_the_cpu(name: str) -> None:
    block = make(name, bucket_size=9, rounds=2).double().eval()
    x, cotangent = torch.randn(2, 2, 6, 23, 29, dtype=torch.float64).unbind(0)
    expected = outputs_and_gradients(block, x, cotangent)
    got = outputs_and_gradients(copy.deepcopy(block).cuda(), x.cuda(), cotangent.cuda())
    for what, value in expected.items():
        assert_close(got[what].cpu(), value, "float64", floor=1.0)


def test_fresh_groups_are_those_of_the_cpu(name: str) -> None:
    block = make(name, bucket_size=9, rounds=2).double().train()
    on_gpu = copy.deepcopy(block).cuda()
    x = torch.randn(1, 6, 23, 29, dtype=torch.float64)
    for _ in range(2):
        assert_close(on_gpu(x.cuda()).cpu(), block(x), "float64", floor=1.0)


def test_autocast(name: str) -> None:
    block = make(name, bucket_size=16, rounds=2, channels=8).cuda().eval()
    x = torch.randn(2, 8, 23, 29, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        out = block(x)
    assert_close(out.float(), block(x), "bf16")
