"""The colour shift: its arithmetic, its place in the state dict, and its distance from autocast and the optimizer."""

import pytest
import torch

from sparse_attn.layers import MeanShift
from sparse_attn.layers.mean_shift import DIV2K_RGB_MEAN


@pytest.mark.parametrize("rgb_range", [1.0, 255.0])
def test_subtracts_and_adds_the_mean_colour(rgb_range):
    x = torch.rand(2, 3, 5, 7) * rgb_range
    mean = rgb_range * torch.tensor(DIV2K_RGB_MEAN).view(3, 1, 1)
    below = MeanShift(3, rgb_range=rgb_range, sign=-1)(x)
    torch.testing.assert_close(below, x - mean)
    torch.testing.assert_close(MeanShift(3, rgb_range=rgb_range, sign=1)(below), x)


def test_other_numbers_of_channels_share_the_average():
    shifted = MeanShift(5, rgb_range=1.0, sign=1)(torch.zeros(1, 5, 1, 1))
    torch.testing.assert_close(shifted.flatten(), torch.full((5,), sum(DIV2K_RGB_MEAN) / 3))


def test_it_travels_in_the_state_dict_and_is_not_trained():
    layer = MeanShift(3, rgb_range=1.0, sign=1)
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {"weight": (3, 3, 1, 1), "bias": (3,)}
    assert list(layer.parameters()) == []


def test_autocast_does_not_round_the_picture():
    x = torch.rand(1, 3, 5, 7)
    layer = MeanShift(3, rgb_range=1.0, sign=-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.float()(x))
        assert layer(x.bfloat16()).dtype == torch.float32
