import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from sparse_attn.errors import ConfigError
from sparse_attn.imaging import read_image, resize
from tests.tolerances import ABSOLUTE

REFERENCES = [
    *[("imresize_a_48x36", key, 1 / int(key[-1])) for key in ("down2", "down3", "down4")],
    *[("imresize_b_50x43_nondiv", key, 1 / int(key[-1])) for key in ("down2", "down3", "down4")],
    *[("imresize_a_48x36", key, float(key[-1])) for key in ("up2", "up3", "up4")],
]


@pytest.mark.parametrize(("name", "key", "scale"), REFERENCES)
def test_float_form_equals_the_reference(reference_dir, name, key, scale):
    tensors = load_file(reference_dir / f"{name}.safetensors")
    image = tensors["img_rgb_up_crop" if key.startswith("up") else "img_rgb"] / 255.0
    expected = tensors[f"{key}.f64"]

    result = resize(image, scale)
    assert result.dtype == np.float64
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=ABSOLUTE["imresize.float64"])
    np.testing.assert_array_equal(np.clip(np.floor(255 * result + 0.5), 0, 255), tensors[f"{key}.u8"])

    single = resize(image.astype(np.float32), scale)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, tensors.get(f"{key}.f32", expected), rtol=0, atol=ABSOLUTE["imresize.float32"])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_uint8_form_reproduces_the_benchmark_files_bit_for_bit(data_dir, name, scale):
    folder = data_dir / "eval" / name / f"x{scale}"
    for path in sorted((folder / "HR").glob("*.png")):
        small = resize(read_image(path).pixels, 1 / scale)
        np.testing.assert_array_equal(small, read_image(folder / "LR" / path.name).pixels, err_msg=path.name)


@pytest.mark.parametrize("size", [(7, 5), (13, 29), (3, 11), (1, 1), (31, 2)])
def test_size_and_scale_say_the_same(size):
    image = np.random.default_rng(0).random((13, 11, 3))
    assert resize(image, size=size).shape == (*size, 3)
    if size == (1, 1):
        # One pixel is the whole image's weighted mean: it lies inside the image's range.
        assert image.min() < resize(image, size=size).min() <= resize(image, size=size).max() < image.max()


def test_scale_is_the_exact_ratio_of_sizes():
    image = np.random.default_rng(0).random((11, 7, 3))
    np.testing.assert_array_equal(resize(image, 3), resize(image, size=(33, 21)))


def test_channels_do_not_mix():
    image = np.random.default_rng(0).integers(0, 256, (13, 11, 3), np.uint8)
    whole = resize(image, 1 / 2)
    for channel in range(3):
        np.testing.assert_array_equal(whole[..., channel], resize(image[..., channel], 1 / 2))


def test_uint8_clips_where_bicubic_overshoots():
    edge = np.zeros((7, 11), np.uint8)
    edge[:, 5:] = 255
    smooth = resize(edge.astype(np.float64), 3)
    assert smooth.min() < -1
    assert smooth.max() > 256
    sharp = resize(edge, 3)
    assert sharp.min() == 0
    assert sharp.max() == 255


@given(
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    scale=st.sampled_from([1, 2, 3, 4, 7]),
    seed=st.integers(0, 99),
)
def test_enlarging_commutes_with_mirrors_and_keeps_constants(height, width, scale, seed):
    image = np.random.default_rng(seed).random((height, width))
    tolerance = {"rtol": 0, "atol": ABSOLUTE["imresize.float64"]}
    np.testing.assert_allclose(resize(image[::-1], scale), resize(image, scale)[::-1], **tolerance)
    np.testing.assert_allclose(resize(image[:, ::-1], scale), resize(image, scale)[:, ::-1], **tolerance)
    np.testing.assert_allclose(resize(image.T, scale), resize(image, scale).T, **tolerance)
    np.testing.assert_allclose(resize(np.full((height, width), 0.3), scale), 0.3, **tolerance)
    if scale == 1:
        np.testing.assert_allclose(resize(image, 1), image, **tolerance)


@pytest.mark.parametrize(
    ("image", "arguments", "message"),
    [
        (np.zeros((5, 7)), {}, "resize needs one target, expected scale or size, got neither"),
        (np.zeros((5, 7)), {"scale": 2, "size": (3, 3)}, "expected scale or size, got both"),
        (np.zeros((5, 7)), {"scale": 0}, "bad scale, expected a positive number, got 0"),
        (np.zeros((5, 7)), {"scale": -2.0}, "bad scale"),
        (np.zeros((5, 7)), {"scale": float("nan")}, "bad scale"),
        (np.zeros((5, 7)), {"scale": float("inf")}, "bad scale"),
        (np.zeros((5, 7)), {"size": (0, 3)}, "bad size, expected at least 1x1, got 5x7 -> 0x3"),
        (np.zeros((0, 7)), {"scale": 2}, "bad size"),
        (np.zeros(7), {"scale": 2}, r"expected \(H, W\) or \(H, W, C\), uint8 or floating, got \(7,\) float64"),
        (np.zeros((5, 7), np.int32), {"scale": 2}, r"got \(5, 7\) int32"),
    ],
)
def test_bad_arguments_are_named(image, arguments, message):
    with pytest.raises(ConfigError, match=message):
        resize(image, **arguments)
