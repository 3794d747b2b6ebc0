"""What a model costs, against hand counts."""

import pytest
import torch
from torch import nn

from sparse_attn.attention import create_attention, list_attention
from sparse_attn.backbones import EDSR
from sparse_attn.errors import ConfigError
from sparse_attn.factory import create_model
from sparse_attn.summary import summary


def _conv_flops(model, height, width):
    """Two for each multiply-add: every convolution of a network whose maps are all (H, W)."""
    return sum(2 * height * width * m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))


def test_a_single_convolution():
    result = summary(nn.Conv2d(3, 5, 3, padding=1), (2, 3, 7, 11))
    assert (result.parameters, result.buffers) == (3 * 5 * 9 + 5, 0)
    assert result.flops == 2 * result.multiply_adds == 2 * (2 * 7 * 11) * (3 * 5 * 9)


def test_a_network_counts_its_mean_shift_as_buffers_and_its_arithmetic():
    model = EDSR(scale=1, n_resblocks=3, n_feats=8)
    result = summary(model, (1, 3, 7, 11))
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.buffers == 24
    assert result.flops == _conv_flops(model, 7, 11) + 2 * (2 * 7 * 11 * 9)


def test_attentions_matrix_products_are_counted():
    model = EDSR(scale=1, n_resblocks=1, n_feats=8, attention="nla", attention_at=[0])
    tokens = 7 * 11
    scores_and_values = 2 * tokens * tokens * (2 + 8)
    result = summary(model, (1, 3, 7, 11))
    assert result.flops == _conv_flops(model, 7, 11) + 2 * (2 * tokens * 9) + scores_and_values


def test_the_report_says_it_all():
    result = summary(EDSR(scale=2, n_resblocks=1, n_feats=8), (1, 3, 7, 11))
    report = str(result)
    assert report.startswith(result.table)
    assert "ResBlock" in result.table
    for part in ("1 x 3 x 7 x 11", f"{result.parameters:,} (and 24 in buffers)", f"{result.flops:,} (a multiply-add"):
        assert part in report


def test_sparse_attentions_matrix_products_are_counted():
    settings = {"bucket_size": 7, "rounds": 3, "reduction": 2}
    model = create_attention("nlsa", 8, **settings)
    tokens = 7 * 11
    attended = 3 * tokens * 3 * 7
    hashing = 2 * tokens * 4 * 3 * (12 // 2)
    assert summary(model, (1, 8, 7, 11)).flops == _conv_flops(model, 7, 11) + hashing + 2 * attended * (4 + 8)


class Count(nn.Module):
    def forward(self, x):
        return x.shape[0]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.count = nn.Conv2d(3, 5, 1), Count()

    def forward(self, x):
        return self.conv(x) * self.count(x)


def test_a_module_that_returns_no_tensor_costs_the_table_its_sizes_only():
    result = summary(Counting(), (1, 3, 7, 11))
    assert result.flops == 2 * 7 * 11 * 15
    assert "Count" in result.table
    assert "[1, 5, 7, 11]" in summary(Counting().conv, (1, 3, 7, 11)).table


def test_an_error_of_the_model_is_not_hidden():
    with pytest.raises(RuntimeError):
        summary(EDSR(scale=2, n_resblocks=1, n_feats=8), (1, 4, 7, 11))


@pytest.mark.parametrize("attention", list_attention())
def test_every_attention_has_a_summary(attention):
    model = EDSR(scale=2, n_resblocks=1, n_feats=8, attention=attention, attention_at=[1])
    assert summary(model, (1, 3, 13, 17)).flops > summary(EDSR(scale=2, n_resblocks=1, n_feats=8), (1, 3, 13, 17)).flops


def test_the_model_and_the_random_state_are_left_alone():
    kwargs = {"rehash": "always", "bucket_size": 4}
    model = EDSR(scale=2, n_resblocks=2, n_feats=8, attention="nlsa", attention_at=[1], attention_kwargs=kwargs)
    model.body.eval()
    before = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    draws = int(model.body.attention["1"].draw.count)
    summary(model, (1, 3, 5, 7))
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert int(model.body.attention["1"].draw.count) == draws
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_dtype(dtype):
    model = EDSR(scale=2, n_resblocks=1, n_feats=8)
    wanted = summary(model, (1, 3, 5, 7)).flops
    assert summary(model.to(dtype), (1, 3, 5, 7)).flops == wanted > 0


def test_the_meta_device_has_nothing_to_run():
    with pytest.raises(ConfigError, match="the model is on the meta device; build it on a real one"):
        summary(create_model("nlsn_light_x2", device="meta"))


@pytest.mark.parametrize("size", [(3, 48, 48), (1, 3, 0, 48), (1, 3, 4.5, 4)])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ConfigError, match="bad size, expected four positive integers"):
        summary(nn.Identity(), size)
