import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_attn.errors import ConfigError
from sparse_attn.imaging import rgb_to_y
from tests.tolerances import ABSOLUTE


@pytest.mark.parametrize(
    ("rgb", "luminance"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 235.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
    ],
)
def test_corners_of_the_colour_cube(rgb, luminance):
    result = rgb_to_y(np.array([[rgb]], np.uint8))
    assert result.dtype == np.float64
    assert result.shape == (1, 1)
    assert result[0, 0] == pytest.approx(luminance, abs=1e-12)


@pytest.mark.parametrize("name", ["metrics_pair_a_x2", "metrics_pair_b_x3"])
def test_equals_the_reference_plane(reference_dir, name):
    tensors = load_file(reference_dir / f"{name}.safetensors")
    np.testing.assert_allclose(
        rgb_to_y(tensors["sr_rgb"]), tensors["y_basicsr_sr"], rtol=0, atol=ABSOLUTE["luminance.float32"]
    )


def test_float_and_uint8_agree():
    image = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
    np.testing.assert_array_equal(rgb_to_y(image), rgb_to_y(image.astype(np.float64)))


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((5, 7)), r"\(5, 7\) float64"),
        (np.zeros((5, 7, 4)), r"\(5, 7, 4\) float64"),
        (np.zeros((5, 7, 3), np.int64), "int64"),
    ],
)
def test_bad_arrays_are_named(image, got):
    with pytest.raises(ConfigError, match=rf"no luminance of this array, expected .* got .*{got}"):
        rgb_to_y(image)
