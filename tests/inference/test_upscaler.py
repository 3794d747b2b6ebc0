"""Any size, tiles without seams, the authors' x8, dtypes, ranges, photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.backbones.edsr import EDSR
from sparse_attn.errors import ConfigError, ImageError
from sparse_attn.imaging import Photo, resize, write_image
from sparse_attn.inference import Upscaler, upscale
from sparse_attn.inference.memory import LiveBytes
from sparse_attn.inference.tiles import spans
from sparse_attn.weights import load_checkpoint
from tests.tolerances import ABSOLUTE


class Nearest(nn.Module):
    """Repeats pixels; remembers what it was given."""

    def __init__(self, scale: int = 2, *, rgb_range: float = 1.0, in_chans: int = 3) -> None:
        super().__init__()
        self.scale, self.rgb_range, self.in_chans = scale, rgb_range, in_chans
        self.gain = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []
        self.top = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        self.top = max(self.top, float(x.max()))
        return F.interpolate(x * self.gain, scale_factor=self.scale, mode="nearest")


class Blur(nn.Module):
    """Sees `radius` pixels far, without effects of its own at the border when `radius` pixels are cut off."""

    def __init__(self, radius: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3, 3 * scale * scale, 2 * radius + 1, padding=radius)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.scale)


def tiny(**config: object) -> EDSR:
    return EDSR(**{"scale": 2, "n_resblocks": 1, "n_feats": 8, "res_scale": 1.0, **config})  # type: ignore[arg-type]


def pixels(height: int, width: int, channels: int | None = 3, *, seed: int = 0) -> NDArray[np.uint8]:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_x8_equals_the_authors(reference_dir: Path) -> None:
    stored = load_file(reference_dir / "wrapper_chop_x8_edsr_x2.safetensors")
    model = tiny(n_resblocks=2)
    load_checkpoint(model, {k.removeprefix("param."): v for k, v in stored.items() if k.startswith("param.")})
    for ensemble, name in ((False, "output"), (True, "output_x8")):
        out = Upscaler(model, ensemble=ensemble)(stored["input"])
        assert (out - stored[name]).abs().max() < ABSOLUTE["network.float32"]
    assert (stored["output"] - stored["output_x8"]).abs().max() > 100 * ABSOLUTE["network.float32"]


def test_x8_of_a_model_that_turns_with_its_input_changes_nothing() -> None:
    x = torch.rand(2, 3, 17, 23)
    torch.testing.assert_close(Upscaler(Nearest(), ensemble=True)(x), Nearest()(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 29), (2, 3), (13, 1), (15, 16), (31, 37)])
def test_any_size(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    out = Upscaler(Nearest(3))(x)
    torch.testing.assert_close(out, F.interpolate(x, scale_factor=3.0), rtol=0, atol=0)
    assert Upscaler(tiny())(x).shape == (2, 3, 2 * size[0], 2 * size[1])


def test_small_pictures_are_padded_by_reflection() -> None:
    model = Blur(2)
    x = torch.rand(1, 3, 13, 29)
    padded = F.pad(x, (0, 0, 1, 2), mode="reflect")
    torch.testing.assert_close(Upscaler(model)(x), model(padded)[:, :, 2:28].detach())


@pytest.mark.parametrize(("tile", "overlap"), [(17, 1), (19, 16), (32, 7), (23, 0)])
def test_a_constant_stays_constant(tile: int, overlap: int) -> None:
    out = Upscaler(Nearest(), tile=tile, overlap=overlap)(torch.full((1, 3, 53, 41), 0.7))
    torch.testing.assert_close(out, torch.full((1, 3, 106, 82), 0.7), rtol=0, atol=1e-6)


def test_tiles_equal_the_whole_away_from_their_borders() -> None:
    radius, overlap, s = 3, 11, 2
    model = Blur(radius)
    x = torch.rand(1, 3, 67, 71)
    whole = Upscaler(model, tile=0)(x)
    tiled = Upscaler(model, tile=29, overlap=overlap)(x)
    wrong = (tiled - whole).abs().amax(dim=(0, 1)) > 1e-6
    near = torch.zeros_like(wrong)
    for axis, size in enumerate(x.shape[2:]):
        for span in spans(size, 29, overlap):
            for edge in set(span) - {0, size}:
                near.narrow(axis, s * (edge - radius), 2 * s * radius).fill_(True)
    assert not (wrong & ~near).any()
    assert wrong.any()


def test_one_tile_is_the_model_itself() -> None:
    """It is given in channels_last, the layout that convolutions are fastest in, and comes back contiguous."""
    model = tiny().eval()
    x = torch.rand(1, 3, 19, 23)
    for tile in (0, None, 23, 64):
        out = Upscaler(model, tile=tile)(x)
        assert out.is_contiguous()
        assert torch.equal(out, model(x.to(memory_format=torch.channels_last)))


def test_a_compiled_model_is_compiled_once_for_all_tiles() -> None:
    torch.compiler.reset()
    model = tiny(attention="nlsa", attention_at=[1], attention_kwargs={"bucket_size": 16}).eval()
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compiled = torch.compile(model, backend=backend, dynamic=False, fullgraph=True)
    x = torch.rand(1, 3, 47, 61)
    settings = {"tile": 29, "overlap": 11}
    out = Upscaler(compiled, **settings)(x)
    torch.testing.assert_close(out, Upscaler(model, **settings)(x), rtol=0, atol=ABSOLUTE["network.float32"])
    assert len(graphs) == 1


def test_progress_counts_tiles() -> None:
    seen: list[tuple[int, int]] = []
    Upscaler(Nearest(), tile=20, overlap=4)(torch.rand(1, 3, 36, 50), progress=lambda *a: seen.append(a))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_the_automatic_tile_keeps_to_the_memory_limit() -> None:
    model = tiny(n_feats=16)
    x = torch.rand(1, 3, 149, 163)
    with torch.no_grad(), LiveBytes() as whole:
        model(x)
    limit = whole.peak // 3
    sides: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, args: sides.append(tuple(args[0].shape)))
    upscaler = Upscaler(model, memory_limit=limit)
    out = upscaler(x)
    tiles = sides[2:]
    assert len(tiles) > 1 and len(set(tiles)) == 1
    with torch.no_grad(), LiveBytes() as one:
        model(torch.rand(tiles[0]))
    assert limit / 4 < one.peak <= limit
    assert torch.equal(out, upscaler(x))
    assert torch.equal(out, Upscaler(model, tile=tiles[0][2])(x))


def test_too_little_memory_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"^too little memory for a tile of 48x48, expected about \d+ MiB, got 0 MiB"):
        Upscaler(tiny(), memory_limit=1000)(torch.rand(1, 3, 61, 67))


def test_modes_and_global_randomness_are_left_alone() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Upsample(scale_factor=2))
    model.scale = 2  # type: ignore[assignment]
    model[1].eval()
    state = torch.get_rng_state()
    x = torch.rand(1, 3, 61, 67, generator=torch.Generator().manual_seed(1))
    first, second = Upscaler(model)(x), Upscaler(model)(x)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, False, True]


def test_the_result_can_be_used_in_training() -> None:
    out = Upscaler(Nearest())(torch.rand(1, 3, 17, 19, requires_grad=True))
    weight = torch.ones((), requires_grad=True)
    (out * weight).sum().backward()
    assert weight.grad is not None and not out.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_input_dtypes_come_back(dtype: torch.dtype) -> None:
    out = Upscaler(Nearest(), tile=17, overlap=5)(torch.full((1, 3, 31, 17), 0.7, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out, torch.full_like(out, 0.7), rtol=0, atol=1e-7 if dtype == torch.float64 else 0)


def test_compute_dtypes() -> None:
    model = tiny()
    x = torch.rand(1, 3, 17, 19)
    exact = Upscaler(model)(x)
    half = Upscaler(model, dtype=torch.bfloat16)(x)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.05
    double = Upscaler(tiny().double())(x.double())
    assert double.dtype == torch.float64
    with pytest.raises(ConfigError, match=r"cannot run in this dtype.*convert the model first"):
        Upscaler(model, dtype=torch.float64)


@pytest.mark.parametrize("rgb_range", [1.0, 255.0])
def test_photos_are_rounded_once_whatever_the_range(rgb_range: float) -> None:
    photo = Photo(pixels(17, 23))
    model = Nearest(rgb_range=rgb_range)
    out = upscale(model, photo)
    assert isinstance(out, Photo)
    assert np.array_equal(out.pixels, photo.pixels.repeat(2, 0).repeat(2, 1))
    assert model.top > 0.9 * rgb_range
    model.gain.data.fill_(0.5)
    halves = np.floor(photo.pixels.astype(np.float64) / 2 + 0.5).repeat(2, 0).repeat(2, 1)
    again = upscale(model, photo)
    assert isinstance(again, Photo)
    assert np.array_equal(again.pixels, halves.astype(np.uint8))


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("channels", [None, 3])
def test_grey_and_colour_alpha_and_profile(in_chans: int, channels: int | None) -> None:
    photo = Photo(pixels(5, 7, channels), pixels(5, 7, None, seed=1), b"profile")
    model = Nearest(3, in_chans=in_chans)
    out = upscale(model, photo)
    assert isinstance(out, Photo)
    assert np.array_equal(out.pixels, photo.pixels.repeat(3, 0).repeat(3, 1))
    assert photo.alpha is not None and out.alpha is not None
    assert np.array_equal(out.alpha, resize(photo.alpha, 3))
    assert out.icc == b"profile"
    assert {shape[1] for shape in model.seen} == {in_chans}


def test_a_file_is_read(tmp_path: Path) -> None:
    photo = Photo(pixels(5, 7))
    write_image(tmp_path / "a.png", photo)
    out = upscale(Nearest(), tmp_path / "a.png")
    assert isinstance(out, Photo) and out.size == (10, 14)
    with pytest.raises(ImageError, match="no such file"):
        upscale(Nearest(), tmp_path / "b.png")


def test_what_cannot_be_enlarged() -> None:
    with pytest.raises(
        ConfigError, match=r"expected a module with .* got Identity with scale None; build one: create_m"
    ):
        Upscaler(nn.Identity())
    with pytest.raises(ConfigError, match="bad tile, expected 0 or more than the overlap of 16, got 16"):
        Upscaler(Nearest(), tile=16)
    with pytest.raises(ConfigError, match="bad memory_limit"):
        Upscaler(Nearest(), memory_limit=0)
    with pytest.raises(ConfigError, match="expected 1 or 3 channels, got 4"):
        upscale(Nearest(in_chans=4), Photo(pixels(5, 7)))
    for bad in (torch.rand(3, 5, 7), torch.rand(1, 1, 5, 7), torch.ones(1, 3, 5, 7, dtype=torch.uint8)):
        with pytest.raises(ConfigError, match=r"cannot enlarge this tensor, expected \(B, 3, H, W\), floating point"):
            upscale(Nearest(), bad)
    liar = nn.Upsample(scale_factor=2)
    liar.scale = 3  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="output does not fit its scale"):
        upscale(liar, torch.rand(1, 3, 17, 19))
