"""The pictures are what they say, and so are the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparse_attn.cli.demo import BUNDLED
from sparse_attn.cli.panels import Panel, most_gained, side_by_side
from sparse_attn.evaluation import bicubic
from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, psnr_y, read_image, resize
from sparse_attn.inference import upscale
from tests.cli.conftest import Command, picture, pixels


def test_the_bundled_photo() -> None:
    photo = read_image(BUNDLED)
    assert photo.pixels.ndim == 3 and photo.alpha is None
    assert all(side % 12 == 0 and side <= 512 for side in photo.size)
    assert BUNDLED.stat().st_size < 500_000
    assert f"`{BUNDLED.name}`" in (BUNDLED.parent / "README.md").read_text()


def test_the_demonstration(command: Command, tmp_path: Path) -> None:
    outcome = command("demo")
    assert (outcome.code, outcome.errors) == (0, [])
    folder = tmp_path / "demo-output"
    made = {path.stem: read_image(path).pixels for path in folder.iterdir()}
    assert set(made) == {"input", "bicubic", "ours", "side_by_side"}
    original = read_image(BUNDLED).pixels
    assert np.array_equal(made["input"], resize(original, 0.25))
    assert np.array_equal(made["bicubic"], bicubic(made["input"], 4))
    expected = upscale(create_model("nlsn_light_x4", pretrained=True), folder / "input.png")
    assert isinstance(expected, Photo) and np.array_equal(made["ours"], expected.pixels)
    baseline, ours = (psnr_y(made[name], original, border=4) for name in ("bicubic", "ours"))
    lines = outcome.out.splitlines()
    assert [line.split()[-3] for line in lines[1:3]] == ["demo-output/bicubic.png", "demo-output/ours.png"]
    assert lines[1].endswith(f"{baseline:.2f} dB") and lines[2].endswith(f"{ours:.2f} dB")
    assert lines[4].startswith(f"gain over bicubic: {ours - baseline:+.2f} dB")


@pytest.mark.parametrize("grey", [False, True])
def test_a_photo_of_one_s_own(command: Command, tmp_path: Path, grey: bool) -> None:
    picture(tmp_path / "mine.png", 79, 101, grey=grey)
    assert command("demo", "mine.png", "-o", "out", "--scale", 2).code == 0
    assert read_image(tmp_path / "out" / "input.png").size == (39, 50)
    assert read_image(tmp_path / "out" / "ours.png").pixels.shape == ((78, 100) if grey else (78, 100, 3))
    again = command("demo", "out/ours.png", "-o", "out")
    assert again.code == 1
    assert again.errors == ["error: cannot write into 'out': out/ours.png is there; choose another --output"]


def test_what_cannot_be_shown(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "small.png", 61, 101)
    assert command("demo", "small.png").errors == [
        "error: small.png is too small for a demonstration, expected sides of 64 pixels"
    ]
    assert command("demo", "missing.png").errors == ["error: cannot read 'missing.png': no such file"]
    (tmp_path / "file").write_text("in the way")
    picture(tmp_path / "mine.png", 79, 101)
    outcome = command("demo", "mine.png", "-o", "file")
    assert outcome.code == 1 and outcome.errors == ["error: cannot make folder 'file': File exists"]


def test_the_detail_is_where_most_is_gained() -> None:
    original = pixels(53, 61)
    before, after = original.copy(), original.copy()
    before[30:37, 40:47] ^= 64
    before[3:9, 3:9] ^= 64
    after[3:9, 3:9] ^= 64
    top, left = most_gained(before, after, original, side=7)
    assert (top, left) == (30, 40)


@pytest.mark.parametrize("size", [(53, 61), (700, 600), (64, 900)])
def test_panels_of_any_size(size: tuple[int, int]) -> None:
    versions = [pixels(*size, seed=seed) for seed in range(4)]
    sheet = side_by_side([Panel(f"version {i}", version) for i, version in enumerate(versions)])
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    if size == (53, 61):
        cell, x = 53 * 5, 12 + 3 * (53 * 5 + 12)
        left = x + cell // 2 - 61 // 2
        top = sheet.shape[0] - 53 * 5 - 2 * 12 - 53
        shown = sheet[top : top + 53, left : left + 61]
        same = (shown == versions[3]).all(axis=2)
        # All but the frame around the detail.
        assert same.mean() > 0.85
