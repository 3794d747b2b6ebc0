from __future__ import annotations

import pickle

import pytest
import timm
import torch
from torch import nn

from sparse_attn import Attention2d, configure_attention
from sparse_attn.errors import UnknownNameError
from sparse_attn.surgery import swap_attention, timm_attn
from sparse_attn.surgery.timm_hook import TimmAttention

PICTURES = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def build(name: str, layer: object) -> nn.Module:
    match name:
        case "resnet50" | "resnet18":
            return timm.create_model(name, block_args={"attn_layer": layer})
        case "efficientnet_b0":
            return timm.create_model(name, se_layer=layer)
    return timm.create_model(name, attn_layer=layer)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "seresnext26ts"])
def test_timm_networks_take_it_and_start_without_it(name: str) -> None:
    model = build(name, timm_attn("nlsa", bucket_size=16, rounds=2)).eval()
    blocks = [module for module in model.modules() if isinstance(module, Attention2d)]
    assert len(blocks) > 3
    assert not any(block.value.weight.any() for block in blocks)
    with torch.no_grad():
        first = model(PICTURES)
        configure_attention(model, rounds=1)
        assert torch.equal(model(PICTURES), first)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    # timm's own zeros, before or after the layer, pass nothing on in the first step.
    for _ in range(2):
        optimizer.zero_grad()
        model(PICTURES).square().mean().backward()
        optimizer.step()
    assert all(bool(block.value.weight.grad.any()) for block in blocks)


def test_zero_init_can_be_left_out_and_the_layer_exchanged() -> None:
    model = build("resnet18", timm_attn("nla", zero_init=False, reduction=8)).eval()
    blocks = [module for module in model.modules() if isinstance(module, Attention2d)]
    assert len(blocks) == 8 and all(bool(block.value.weight.any()) for block in blocks)
    assert blocks[0].embed.out_channels == 8
    assert len(swap_attention(model, "layer4", "nlsa")) == 2
    assert model(PICTURES).shape == (2, 1000)


def test_layer_is_a_plain_module() -> None:
    layer = pickle.loads(pickle.dumps(timm_attn("nlsa", rounds=2)))(12, rd_ratio=0.5, dtype=torch.float64)
    assert isinstance(layer, TimmAttention)
    x = torch.randn(1, 12, 5, 7, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    with pytest.raises(TypeError, match="stride"):
        timm_attn("nlsa")(12, stride=2)


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown attention 'nls'"):
        timm_attn("nls")
    with pytest.raises(UnknownNameError, match="did you mean rounds"):
        timm_attn("nlsa", round=2)
