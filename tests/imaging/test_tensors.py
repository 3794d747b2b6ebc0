import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_attn.errors import ConfigError
from sparse_attn.imaging import from_tensor, to_tensor


def test_colour_becomes_planes():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor[0, 2, 3, 4].item() == np.float32(pixels[3, 4, 2] / 255)


def test_grey_becomes_one_plane():
    pixels = np.array([[0, 51, 255]], np.uint8)
    torch.testing.assert_close(to_tensor(pixels), torch.tensor([[[[0.0, 0.2, 1.0]]]]))


@given(st.integers(1, 13), st.integers(1, 13), st.booleans(), st.integers(0, 99))
def test_round_trip_is_exact(height, width, colour, seed):
    shape = (height, width, 3) if colour else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    back = from_tensor(to_tensor(pixels))
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, pixels)


def test_every_level_survives():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(from_tensor(to_tensor(levels)), levels)
    np.testing.assert_array_equal(from_tensor(to_tensor(levels).double()), levels)


def test_rounds_half_up_and_clamps():
    # 0.5 is 127.5 levels exactly: half to even would also give 128, so 1.5 / 255 and 2.5 / 255 tell the rules apart.
    values = [-1.0, 0.0, 1.4 / 255, 1.5 / 255, 2.5 / 255, 0.5, 1.0, 7.0, math.inf, -math.inf, math.nan]
    levels = from_tensor(torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1))
    assert levels.tolist() == [[0, 0, 1, 2, 3, 128, 255, 255, 255, 0, 0]]


def test_half_precision_is_rounded_once():
    values = torch.linspace(0, 1, 997, dtype=torch.bfloat16).reshape(1, 1, 1, -1)
    expected = np.floor(255 * values.double().numpy() + 0.5)[0, 0]
    np.testing.assert_array_equal(from_tensor(values), expected)


def test_leaves_its_input_alone():
    pixels = np.zeros((3, 5), np.uint8)
    pixels.flags.writeable = False
    tensor = to_tensor(pixels[::-1]).requires_grad_()
    with torch.no_grad():
        tensor += 1
    assert pixels.max() == 0
    assert from_tensor(tensor).min() == 255


@pytest.mark.parametrize("pixels", [np.zeros((5, 7, 3)), np.zeros(7, np.uint8), np.zeros((1, 5, 7, 3), np.uint8)])
def test_bad_arrays_are_named(pixels):
    with pytest.raises(ConfigError, match=r"expected \(H, W\) or \(H, W, C\), uint8, got \("):
        to_tensor(pixels)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 5, 7), torch.zeros(2, 3, 5, 7), torch.zeros(1, 3, 5, 7).byte()])
def test_bad_tensors_are_named(tensor):
    with pytest.raises(ConfigError, match=r"expected \(1, C, H, W\), floating point, got \("):
        from_tensor(tensor)
