"""Residual blocks against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from sparse_attn.layers import ChannelAttention, ResBlock, ResChannelAttentionBlock


@pytest.mark.parametrize("res_scale", [1.0, 0.1])
def test_res_block(res_scale):
    block = ResBlock(7, res_scale=res_scale).double()
    x = torch.rand(2, 7, 5, 11, dtype=torch.float64)
    first, _, second = block.body
    branch = F.conv2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=1)), second.weight, second.bias, padding=1)
    torch.testing.assert_close(block(x), x + res_scale * branch)


def test_channel_attention_scales_each_channel_by_the_squeezed_means():
    layer = ChannelAttention(8, reduction=2).double()
    x = torch.rand(2, 8, 5, 7, dtype=torch.float64)
    down, _, up, _ = layer.conv_du
    squeezed = F.relu(x.mean((2, 3)) @ down.weight[:, :, 0, 0].T + down.bias)
    gate = torch.sigmoid(squeezed @ up.weight[:, :, 0, 0].T + up.bias)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])
    assert squeezed.shape == (2, 4)


def test_channel_attention_block_adds_the_gated_branch():
    block = ResChannelAttentionBlock(8, reduction=4).double()
    x = torch.rand(2, 8, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(block(x), x + block.body[3](block.body[2](F.relu(block.body[0](x)))))


@pytest.mark.parametrize("block", [ResBlock(4), ResChannelAttentionBlock(4, reduction=2)])
def test_the_input_is_not_overwritten(block):
    x = torch.randn(1, 4, 3, 5)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)
