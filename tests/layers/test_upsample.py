"""Sub-pixel enlargement."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_attn.errors import ConfigError
from sparse_attn.layers import Upsampler


@pytest.mark.parametrize(("scale", "stages"), [(1, []), (2, [2]), (3, [3]), (4, [2, 2]), (8, [2, 2, 2])])
def test_stages(scale, stages):
    layer = Upsampler(scale, 5)
    assert [m.upscale_factor for m in layer if isinstance(m, nn.PixelShuffle)] == stages
    assert [m.out_channels for m in layer if isinstance(m, nn.Conv2d)] == [5 * s * s for s in stages]
    assert layer(torch.rand(2, 5, 3, 7)).shape == (2, 5, 3 * scale, 7 * scale)


def test_a_pixel_becomes_a_square_of_its_channels():
    layer = Upsampler(2, 1)
    x = torch.rand(1, 1, 3, 5)
    maps = F.conv2d(x, layer[0].weight, layer[0].bias, padding=1)
    out = layer(x)
    for row in range(2):
        for column in range(2):
            torch.testing.assert_close(out[0, 0, row::2, column::2], maps[0, 2 * row + column])


@pytest.mark.parametrize("scale", [0, -2, 5, 6, "4", 2.0, True, None])
def test_other_scales_are_refused(scale):
    with pytest.raises(ConfigError, match=f"unsupported scale, expected 1, 3 or a power of two, got {scale!r};"):
        Upsampler(scale, 4)
