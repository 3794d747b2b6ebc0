"""EDSR against the authors' code."""

import pytest
import torch

from sparse_attn.backbones import EDSR
from sparse_attn.errors import ConfigError
from sparse_attn.weights import load_checkpoint
from tests.backbones.originals import assert_same_network, read_original


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["edsr_x2_b4_f16", "edsr_x3_b5_f16_res0.1"])
def test_equals_the_original(reference_dir, name, dtype):
    original = read_original(reference_dir, name)
    hyper = original.hyper
    model = EDSR(
        scale=hyper["scale"][0],
        n_resblocks=hyper["n_resblocks"],
        n_feats=hyper["n_feats"],
        res_scale=hyper["res_scale"],
        rgb_range=hyper["rgb_range"],
    )
    load_checkpoint(model, original.weights)
    assert_same_network(model, original, dtype)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_enlarges_any_number_of_channels(scale, channels):
    model = EDSR(scale=scale, n_resblocks=1, n_feats=8, in_chans=channels)
    assert model(torch.rand(2, channels, 5, 7)).shape == (2, channels, 5 * scale, 7 * scale)
    assert (model.scale, model.in_chans, model.rgb_range) == (scale, channels, 1.0)


def test_an_attention_at_every_position_is_run():
    model = EDSR(scale=2, n_resblocks=2, n_feats=8, attention="nla", attention_at=(0, 1, 2))
    seen = []
    for name, module in model.body.attention.items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(torch.rand(1, 3, 5, 7))
    assert seen == ["0", "1", "2"]


def test_the_attention_has_the_blocks_res_scale_unless_told():
    built = EDSR(scale=2, n_resblocks=1, n_feats=8, res_scale=0.3, attention="nla", attention_at=[1])
    told = EDSR(
        scale=2, n_resblocks=1, n_feats=8, attention="nla", attention_at=[1], attention_kwargs={"res_scale": 0.7}
    )
    assert built.body.attention["1"].res_scale == 0.3
    assert told.body.attention["1"].res_scale == 0.7


def test_attention_may_be_a_class():
    class Double(torch.nn.Module):
        def __init__(self, channels, *, res_scale):
            super().__init__()
            self.shape = (channels, res_scale)

        def forward(self, x):
            return 2 * x

    model = EDSR(scale=2, n_resblocks=1, n_feats=8, res_scale=0.5, attention=Double, attention_at=[0])
    assert model.body.attention["0"].shape == (8, 0.5)


@pytest.mark.parametrize("positions", [(-1,), (3,), (1, 1)])
def test_bad_positions_are_refused(positions):
    with pytest.raises(ConfigError, match="bad attention_at, expected distinct positions from 0 to 2"):
        EDSR(scale=2, n_resblocks=2, n_feats=8, attention="nla", attention_at=positions)


def test_bad_scale_is_refused():
    with pytest.raises(ConfigError, match="unsupported scale, expected 1, 3 or a power of two, got 5"):
        EDSR(scale=5, n_resblocks=1, n_feats=8)
