"""The field's known figures, the pairing of files, and what the record says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.errors import ConfigError, DataError, ImageError, UnknownNameError
from sparse_attn.evaluation import evaluate
from sparse_attn.imaging import Photo, psnr_y, read_image, resize, ssim_y, write_image
from tests.conftest import CHECKOUT
from tests.tolerances import ABSOLUTE

# Set14 has a grey picture.
BICUBIC = {
    ("Set5", 2): (33.6786, 0.93042),
    ("Set5", 3): (30.4058, 0.86895),
    ("Set5", 4): (28.4318, 0.81126),
    ("Set14", 4): (25.9983, 0.70303),
}


class Nearest(nn.Module):
    """Repeats pixels."""

    scale = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0)


def pixels(height: int, width: int, *, grey: bool = False, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9) if grey else (7, 9, 3)).astype(np.float64)
    return np.clip(resize(noise, size=(height, width)), 0, 255).astype(np.uint8)


def write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Photo(image))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """One colour image whose HR has a pixel too many, one grey; beside them what is to be ignored."""
    for name, grey in (("b.png", False), ("a.png", True)):
        hr = pixels(35, 44, grey=grey)
        write(tmp_path / "HR" / name, hr)
        write(tmp_path / "LR" / name, resize(hr[:34], 0.5))
    (tmp_path / "HR" / "notes.txt").write_text("no image")
    (tmp_path / "LR" / ".hidden.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize(("name", "scale"), BICUBIC)
def test_bicubic_reaches_what_it_did(data_dir: Path, name: str, scale: int) -> None:
    """How these differ from the published figures, which `tests/imaging/test_metrics.py` reaches: docs/zoo.md."""
    result = evaluate("bicubic", data_dir / "eval" / name / f"x{scale}", scale=scale)
    assert len(result.images) == {"Set5": 5, "Set14": 14}[name]
    assert result.psnr == pytest.approx(BICUBIC[name, scale][0], abs=ABSOLUTE["psnr.measured"])
    assert result.ssim == pytest.approx(BICUBIC[name, scale][1], abs=ABSOLUTE["ssim.measured"])


def test_the_documentation_has_these_figures() -> None:
    cells = [f"{psnr:.2f} / {ssim:.4f}" for (name, _), (psnr, ssim) in BICUBIC.items() if name == "Set5"]
    row = f"`sparse-attn evaluate` | {' | '.join(cells)} |"
    assert row in (CHECKOUT / "docs" / "zoo.md").read_text(encoding="utf-8")


def test_lr_made_on_the_spot_gives_the_same(data_dir: Path) -> None:
    folder = data_dir / "eval" / "Set5" / "x4"
    assert evaluate("bicubic", folder, scale=4).images == evaluate("bicubic", folder, scale=4, make_lr=True).images


def test_images_are_measured_on_luminance_inside_the_border(pairs: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(Nearest(), pairs, progress=lambda *a: seen.append(a))
    assert seen == [(1, 2), (2, 2)]
    assert [image.name for image in result.images] == ["a.png", "b.png"]
    for image in result.images:
        hr = read_image(pairs / "HR" / image.name).pixels[:34]
        sr = read_image(pairs / "LR" / image.name).pixels.repeat(2, 0).repeat(2, 1)
        assert (image.psnr, image.ssim) == (psnr_y(sr, hr, border=2), ssim_y(sr, hr, border=2))
        assert (image.height, image.width) == (34, 44)
    assert result.psnr == sum(image.psnr for image in result.images) / 2
    assert result.ssim == sum(image.ssim for image in result.images) / 2


def test_the_record(pairs: Path) -> None:
    result = evaluate(Nearest(), pairs, command="sparse-attn evaluate this")
    record = json.loads(result.to_json())
    assert record["psnr"] == result.psnr and record["ssim"] == result.ssim
    assert record["images"][1] == {
        "name": "b.png",
        "psnr": result.images[1].psnr,
        "ssim": result.images[1].ssim,
        "height": 34,
        "width": 44,
    }
    assert record["command"] == "sparse-attn evaluate this"
    assert (record["model"], record["scale"], record["folder"]) == ("Nearest", 2, str(pairs))
    assert (record["torch"], record["dtype"], record["lr"]) == (torch.__version__, "float32", "files")
    assert record["device"].startswith("cpu") and record["date"].endswith("+00:00")


def test_a_perfect_copy_has_no_number_in_json(tmp_path: Path) -> None:
    image = pixels(17, 19)
    write(tmp_path / "LR" / "a.png", image)
    write(tmp_path / "HR" / "a.png", image.repeat(2, 0).repeat(2, 1))
    result = evaluate(Nearest(), tmp_path)
    assert result.psnr == math.inf
    assert json.loads(result.to_json())["psnr"] is None
    assert json.loads(result.to_json())["images"][0]["psnr"] is None


def test_plain_images_can_be_measured(tmp_path: Path) -> None:
    write(tmp_path / "a.png", pixels(35, 45))
    result = evaluate(Nearest(), tmp_path, make_lr=True)
    assert (result.images[0].height, result.images[0].width) == (34, 44)
    assert result.lr.startswith("made from HR by bicubic")


def test_what_is_wrong_with_a_folder_is_said(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no folder .*nowhere; check the path$"):
        evaluate(Nearest(), tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"^no HR and no LR in .*, expected folders HR and LR; make the LR images"):
        evaluate(Nearest(), pairs / "HR")
    (tmp_path / "set").mkdir()
    with pytest.raises(DataError, match=r"^no images in .*set, expected files ending in \.png, "):
        evaluate(Nearest(), tmp_path / "set", make_lr=True)
    (tmp_path / "set" / "x2" / "HR").mkdir(parents=True)
    with pytest.raises(DataError, match=r"did you mean .*x2\?$"):
        evaluate(Nearest(), tmp_path / "set")
    write(pairs / "HR" / "alone.png", pixels(34, 44))
    with pytest.raises(DataError, match=r"differ, expected the same file names, got only in one: alone\.png$"):
        evaluate(Nearest(), pairs)


@pytest.mark.parametrize(("grey", "size"), [(False, (17, 21)), (True, (17, 22)), (False, (18, 22))])
def test_partners_that_do_not_fit_are_named(pairs: Path, grey: bool, size: tuple[int, int]) -> None:
    write(pairs / "LR" / "b.png", pixels(*size, grey=grey))
    with pytest.raises(DataError, match=r"HR/b\.png and .*LR/b\.png do not fit, .* got 34x44 RGB and 1[78]x2"):
        evaluate(Nearest(), pairs)


def test_images_too_small_or_damaged_are_named(pairs: Path) -> None:
    write(pairs / "HR" / "a.png", pixels(13, 44))
    with pytest.raises(DataError, match=r"a\.png is too small to measure, expected sides of 15, got \(13, 44\)"):
        evaluate(Nearest(), pairs)
    (pairs / "HR" / "a.png").write_bytes((pairs / "HR" / "b.png").read_bytes()[:200])
    with pytest.raises(ImageError, match=r"HR/a\.png"):
        evaluate(Nearest(), pairs)


def test_scales_and_names_are_checked(pairs: Path) -> None:
    with pytest.raises(ConfigError, match="the model has another scale, expected scale 2, got 3"):
        evaluate(Nearest(), pairs, scale=3)
    with pytest.raises(ConfigError, match="bicubic needs a scale"):
        evaluate("bicubic", pairs)
    with pytest.raises(UnknownNameError, match=r"did you mean .*nlsn_light_x4"):
        evaluate("nlsn_ligth_x4", pairs)
