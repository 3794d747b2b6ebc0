"""RCAN against the authors' code."""

import pytest
import torch

from sparse_attn.backbones import RCAN
from sparse_attn.errors import ConfigError
from sparse_attn.weights import load_checkpoint
from tests.backbones.originals import assert_same_network, read_original


def _like(original, **changes):
    hyper = original.hyper
    fields = ("n_resgroups", "n_resblocks", "n_feats", "reduction", "rgb_range")
    return RCAN(scale=hyper["scale"][0], **{field: hyper[field] for field in fields}, **changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["rcan_x2_g2b3_f16_r4", "rcan_x4_g3b2_f16_r4"])
def test_equals_the_original(reference_dir, name, dtype):
    original = read_original(reference_dir, name)
    model = _like(original)
    load_checkpoint(model, original.weights)
    assert_same_network(model, original, dtype)


def test_attention_goes_after_groups():
    model = RCAN(scale=2, n_resgroups=2, n_resblocks=1, n_feats=8, reduction=2, attention="nla", attention_at=(0, 2))
    order = []
    for name, module in [*model.body.attention.items(), *model.body.blocks.named_children()]:
        kind = type(module).__name__
        module.register_forward_hook(lambda *_, kind=kind, name=name: order.append((kind, name)))
    model(torch.rand(1, 3, 5, 7))
    groups = ("ResidualGroup", "0"), ("ResidualGroup", "1")
    assert order == [("NonLocalAttention", "0"), *groups, ("NonLocalAttention", "2")]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlarges(scale):
    model = RCAN(scale=scale, n_resgroups=1, n_resblocks=1, n_feats=8, reduction=4, in_chans=1)
    assert model(torch.rand(2, 1, 5, 7)).shape == (2, 1, 5 * scale, 7 * scale)
    assert (model.scale, model.in_chans, model.rgb_range) == (scale, 1, 1.0)


@pytest.mark.parametrize("reduction", [0, 9])
def test_bad_reduction_is_refused(reduction):
    with pytest.raises(ConfigError, match=f"bad reduction, expected 1 to n_feats = 8, got {reduction}"):
        RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=8, reduction=reduction)
