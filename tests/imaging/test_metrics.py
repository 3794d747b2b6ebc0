"""PSNR and SSIM against the references, a slow twin, and the field's published figures of bicubic interpolation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from sparse_attn.errors import ConfigError
from sparse_attn.imaging import psnr, psnr_y, read_image, resize, rgb_to_y, ssim, ssim_y
from tests.tolerances import ABSOLUTE

PAIRS = [("metrics_pair_a_x2", 2), ("metrics_pair_b_x3", 3)]

PUBLISHED = {
    ("Set5", 2): (33.66, 0.9299),
    ("Set5", 3): (30.39, 0.8682),
    ("Set5", 4): (28.42, 0.8104),
    ("Set14", 2): (30.24, 0.8688),
    ("Set14", 3): (27.55, 0.7742),
    ("Set14", 4): (26.00, 0.7027),
}
FROM_UINT8_LR = {2: (33.640, 0.9292), 3: (30.386, 0.8678), 4: (28.418, 0.8101)}


@pytest.mark.parametrize(("name", "scale"), PAIRS)
def test_luminance_equals_the_references(reference_dir, name, scale):
    tensors = load_file(reference_dir / f"{name}.safetensors")
    value = {key.removeprefix("value."): tensor.item() for key, tensor in tensors.items() if key.startswith("value.")}
    sr, hr = tensors["sr_rgb"], tensors["hr_rgb"]

    assert psnr_y(sr, hr, border=scale) == pytest.approx(
        value["derived_psnr_y_float64_norounding"], abs=ABSOLUTE["psnr.derived"]
    )
    assert ssim_y(sr, hr, border=scale) == pytest.approx(
        value["derived_ssim_y_float64_norounding"], abs=ABSOLUTE["ssim.derived"]
    )
    for border in (0, scale):
        expected = value[f"basicsr_psnr_y_crop{border}"], value[f"basicsr_ssim_y_crop{border}"]
        assert psnr_y(sr, hr, border=border) == pytest.approx(expected[0], abs=ABSOLUTE["psnr"])
        assert ssim_y(sr, hr, border=border) == pytest.approx(expected[1], abs=ABSOLUTE["ssim"])
    assert psnr_y(sr, hr, border=scale) == pytest.approx(value["authors_calc_psnr_benchmark"], abs=ABSOLUTE["psnr"])

    rounded = [np.floor(rgb_to_y(image) + 0.5) for image in (sr, hr)]
    assert psnr(*rounded, border=scale) == pytest.approx(
        value["derived_psnr_y_rounded_uint8"], abs=ABSOLUTE["psnr.derived"]
    )
    assert ssim(*rounded, border=scale) == pytest.approx(
        value["derived_ssim_y_rounded_uint8"], abs=ABSOLUTE["ssim.derived"]
    )


@pytest.mark.parametrize(("name", "scale"), PAIRS)
def test_rgb_equals_the_references(reference_dir, name, scale):
    tensors = load_file(reference_dir / f"{name}.safetensors")
    sr, hr = tensors["sr_rgb"], tensors["hr_rgb"]
    for border in (0, scale):
        expected = [tensors[f"value.basicsr_{metric}_rgb_crop{border}"].item() for metric in ("psnr", "ssim")]
        assert psnr(sr, hr, border=border) == pytest.approx(expected[0], abs=ABSOLUTE["psnr"])
        assert ssim(sr, hr, border=border) == pytest.approx(expected[1], abs=ABSOLUTE["ssim"])
    validation = tensors["value.authors_calc_psnr_val_rgb_shave_scale_plus_6"].item()
    assert psnr(sr, hr, border=scale + 6) == pytest.approx(validation, abs=ABSOLUTE["psnr"])


def test_ssim_equals_its_definition_written_out():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 17, 13)).astype(np.float64)
    g = np.array([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)])
    window = np.outer(g, g) / g.sum() ** 2
    values = []
    for i in range(17 - 10):
        for j in range(13 - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=ABSOLUTE["ssim.derived"])


def test_psnr_of_a_known_error():
    a = np.full((7, 5), 100, np.uint8)
    b = np.full((7, 5), 99, np.uint8)
    assert psnr(a, b) == pytest.approx(20 * math.log10(255), abs=ABSOLUTE["psnr.derived"])
    assert psnr(b, a) == psnr(a, b), "unsigned differences must not wrap"


@given(st.integers(11, 23), st.integers(11, 23), st.integers(0, 99), st.booleans())
def test_identical_and_symmetric(height, width, seed, colour):
    shape = (2, height, width, 3) if colour else (2, height, width)
    a, b = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    assert psnr(a, a) == psnr_y(a, a) == math.inf
    assert ssim(a, a) == ssim_y(a, a) == 1.0
    assert psnr(a, b) == psnr(b, a)
    assert ssim(a, b) == ssim(b, a) < 1.0


def test_border_is_cut_off_before_measuring():
    a = np.random.default_rng(0).integers(0, 256, (19, 23, 3), np.uint8)
    b = a.copy()
    b[:3], b[-3:], b[:, :3], b[:, -3:] = 0, 0, 0, 0
    assert psnr_y(a, b, border=2) < math.inf
    assert psnr_y(a, b, border=3) == psnr(a, b, border=3) == math.inf
    assert ssim_y(a, b, border=3) == ssim(a, b, border=3) == 1.0


def test_grey_is_luminance_already():
    a, b = np.random.default_rng(0).integers(0, 256, (2, 13, 17), np.uint8)
    assert psnr_y(a, b, border=1) == psnr(a, b, border=1)
    assert ssim_y(a, b, border=1) == ssim(a, b, border=1)


@pytest.mark.parametrize("metric", [psnr, ssim, psnr_y, ssim_y])
@pytest.mark.parametrize(
    ("a", "b", "border", "message"),
    [
        ((13, 17), (13, 19), 0, r"cannot compare these images, expected equal shapes, got \(13, 17\) and \(13, 19\)"),
        ((13, 17, 3), (13, 17), 0, "cannot compare these images"),
        ((13, 17, 4), (13, 17, 4), 0, r"not an image, expected \(H, W\) or \(H, W, 3\), got \(13, 17, 4\)"),
        ((13, 17), (13, 17), 7, "bad border, expected at least 0, and pixels left, got 7 of 13x17"),
        ((13, 17), (13, 17), -1, "bad border"),
    ],
)
def test_bad_arguments_are_named(metric, a, b, border, message):
    with pytest.raises(ConfigError, match=message):
        metric(np.zeros(a, np.uint8), np.zeros(b, np.uint8), border=border)


@pytest.mark.parametrize("metric", [ssim, ssim_y])
def test_too_small_for_the_window(metric):
    image = np.zeros((13, 17), np.uint8)
    with pytest.raises(ConfigError, match="too small for SSIM, expected at least 11x11 inside the border, got 9x13"):
        metric(image, image, border=2)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_luminance_wants_uint8(metric):
    image = np.zeros((13, 17, 3))
    with pytest.raises(ConfigError, match="measured on uint8 images, expected uint8, got float64 and float64; round"):
        metric(image, image)


def _matlab_y(image: np.ndarray) -> np.ndarray:
    """Luminance as MATLAB gives it for uint8: rounded. A single-channel image is luminance already."""
    return np.floor(rgb_to_y(image) + 0.5) if image.ndim == 3 else image.astype(np.float64)


@pytest.mark.parametrize(("name", "scale"), PUBLISHED)
def test_bicubic_reaches_its_published_figures(data_dir, name, scale):
    """The procedure: rounded luminance, down and up unquantised, rounded, in luminance's range 16..235.

    Set14's one single-channel image is used directly as luminance, so its range is 0..255.
    """
    scores = []
    for path in sorted((data_dir / "eval" / name / f"x{scale}" / "HR").glob("*.png")):
        pixels = read_image(path).pixels
        truth = _matlab_y(pixels)
        low, high = (16, 235) if pixels.ndim == 3 else (0, 255)
        result = np.clip(np.floor(resize(resize(truth, 1 / scale), scale) + 0.5), low, high)
        scores.append((psnr(result, truth, border=scale), ssim(result, truth, border=scale)))
    assert len(scores) == {"Set5": 5, "Set14": 14}[name]
    mean_psnr, mean_ssim = np.mean(scores, axis=0)
    assert mean_psnr == pytest.approx(PUBLISHED[name, scale][0], abs=ABSOLUTE["psnr.published"])
    assert mean_ssim == pytest.approx(PUBLISHED[name, scale][1], abs=ABSOLUTE["ssim.published"])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_of_the_uint8_files_reaches_its_known_figures(data_dir, scale):
    """The procedure: MATLAB's uint8 enlargement of the RGB files, rounded luminance of both."""
    folder = data_dir / "eval" / "Set5" / f"x{scale}"
    scores = []
    for path in sorted((folder / "HR").glob("*.png")):
        truth = _matlab_y(read_image(path).pixels)
        result = _matlab_y(resize(read_image(folder / "LR" / path.name).pixels, scale))
        scores.append((psnr(result, truth, border=scale), ssim(result, truth, border=scale)))
    mean_psnr, mean_ssim = np.mean(scores, axis=0)
    assert mean_psnr == pytest.approx(FROM_UINT8_LR[scale][0], abs=ABSOLUTE["psnr.published.uint8_lr"])
    assert mean_ssim == pytest.approx(FROM_UINT8_LR[scale][1], abs=ABSOLUTE["ssim.published.uint8_lr"])
