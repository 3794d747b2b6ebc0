"""PSNR and SSIM over benchmark folders, as the field reports them, with a record of how they were measured."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparse_attn.errors import ConfigError, DataError
from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, psnr_y, read_image, resize, ssim_y
from sparse_attn.imaging.io import SUFFIXES
from sparse_attn.inference import Upscaler

BICUBIC = "bicubic"
_METRIC = "luminance (BT.601, studio range, not rounded; grey images as they are), border = scale"

Enlarge = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image's figures.

    Args:
        name: of its file.
        psnr: dB; infinite for a perfect copy.
        ssim: at most 1.
        height: of the HR image, cropped to a multiple of the scale.
        width: likewise.
    """

    name: str
    psnr: float
    ssim: float
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What was measured, and everything needed to measure it again.

    Args:
        model: its name.
        scale: s.
        folder: as given.
        lr: where the LR images came from.
        images: their figures, sorted by name.
        ensemble: whether the eight flips and turns were averaged.
        tile: side of the LR tiles, 0 for whole images, None for as memory allowed.
        command: the command line, if that is what measured it.
        torch: version.
        device: what it ran on.
        date: when, UTC.
    """

    model: str
    scale: int
    folder: str
    lr: str
    images: tuple[ImageScore, ...]
    ensemble: bool
    tile: int | None
    command: str | None
    torch: str
    device: str
    date: str

    @property
    def psnr(self) -> float:
        """The mean of the images' PSNR, dB."""
        return sum(image.psnr for image in self.images) / len(self.images)

    @property
    def ssim(self) -> float:
        """The mean of the images' SSIM."""
        return sum(image.ssim for image in self.images) / len(self.images)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able record; an infinite PSNR is None, as JSON has no infinity."""
        record = {**asdict(self), "metric": _METRIC, "dtype": "float32"}
        images = [{**asdict(image), "psnr": _finite(image.psnr)} for image in self.images]
        return {"psnr": _finite(self.psnr), "ssim": self.ssim, **record, "images": images}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def evaluate(
    model: nn.Module | str,
    folder: Path | str,
    *,
    scale: int | None = None,
    make_lr: bool = False,
    ensemble: bool = False,
    tile: int | None = 0,
    device: torch.device | str | None = None,
    name: str | None = None,
    command: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResult:
    """Measures a model on a folder, in float32.

    Args:
        model: a float32 module with an attribute `scale`, the name of a model with weights, or "bicubic".
        folder: holds `HR/` and `LR/` with the same file names; with `make_lr` only `HR/`, or just images.
        scale: s; needed for "bicubic" only, checked against the model's otherwise.
        make_lr: make the LR images by `imaging.resize`, rounded as MATLAB does, instead of reading them.
        ensemble: average over the eight flips and turns.
        tile: as for `Upscaler`; 0, whole images, makes the result independent of the memory that is free.
        device: where; the module is moved there.
        name: what the result calls the model; by default its registered name or its class.
        command: recorded in the result.
        progress: called after each image with the number done and the number of all.

    Raises:
        ConfigError: no scale, or one that is not the model's.
        DataError: a folder without images, partners that are missing or of the wrong size.
        ImageError: a file that cannot be read.
    """
    factor, enlarge, used = _method(model, scale, ensemble=ensemble, tile=tile, device=device)
    found = _files(Path(folder), factor, make_lr=make_lr)
    scores = []
    for hr_path, lr_path in found:
        scores.append(_score(hr_path, lr_path, factor, enlarge))
        progress(len(scores), len(found))
    return EvaluationResult(
        model=name or (model if isinstance(model, str) else type(model).__name__),
        scale=factor,
        folder=str(folder),
        lr="made from HR by bicubic (imaging.resize, uint8)" if make_lr else "files",
        images=tuple(scores),
        ensemble=ensemble,
        tile=tile,
        command=command,
        torch=torch.__version__,
        device=_describe(used),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _method(
    model: nn.Module | str,
    scale: int | None,
    *,
    ensemble: bool,
    tile: int | None,
    device: torch.device | str | None,
) -> tuple[int, Enlarge, torch.device]:
    """The scale, what enlarges uint8 pixels, and where that runs."""
    if model == BICUBIC:
        if scale is None or scale < 1:
            raise ConfigError("bicubic needs a scale", expected="a positive integer", got=scale)
        return scale, lambda pixels: bicubic(pixels, scale), torch.device("cpu")
    if isinstance(model, str):
        model = create_model(model, pretrained=True)
    upscaler = Upscaler(model, ensemble=ensemble, tile=tile, device=device, dtype=torch.float32)
    if scale not in (None, upscaler.scale):
        raise ConfigError("the model has another scale", expected=f"scale {upscaler.scale}", got=scale)
    return upscaler.scale, lambda pixels: upscaler(Photo(pixels)).pixels, upscaler.device


def bicubic(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """What every model is compared with: MATLAB's bicubic, rounded once, at the end.

    Args:
        pixels: (H, W) or (H, W, 3), uint8.
        scale: s.

    Returns:
        (s*H, s*W) or (s*H, s*W, 3), uint8.
    """
    return np.clip(np.floor(resize(pixels.astype(np.float64), scale) + 0.5), 0, 255).astype(np.uint8)


def _files(folder: Path, scale: int, *, make_lr: bool) -> list[tuple[Path, Path | None]]:
    """The HR files and their LR partners, by name; every HR file has one unless LR is to be made."""
    hr, lr = folder / "HR", folder / "LR"
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", remedy="check the path")
    if make_lr:
        return [(path, None) for path in _images(hr if hr.is_dir() else folder)]
    if not (hr.is_dir() and lr.is_dir()):
        below = folder / f"x{scale}"
        remedy = f"did you mean {below}?" if (below / "HR").is_dir() else "make the LR images: make_lr=True, --make-lr"
        missing = " and no ".join(part.name for part in (hr, lr) if not part.is_dir())
        raise DataError(f"no {missing} in {folder}", expected="folders HR and LR", remedy=remedy)
    high, low = _images(hr), _images(lr)
    alone = sorted({path.name for path in high} ^ {path.name for path in low})
    if alone:
        raise DataError(
            f"HR and LR of {folder} differ",
            expected="the same file names",
            got=f"only in one: {', '.join(alone[:5])}{', ...' if len(alone) > 5 else ''}",
        )
    return [(path, lr / path.name) for path in high]


def _images(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(f"no images in {folder}", expected=f"files ending in {', '.join(SUFFIXES)}")
    return found


def _score(hr_path: Path, lr_path: Path | None, scale: int, enlarge: Enlarge) -> ImageScore:
    hr = read_image(hr_path).pixels
    height, width = (side - side % scale for side in hr.shape[:2])
    if min(height, width) < 2 * scale + 11:
        raise DataError(f"{hr_path} is too small to measure", expected=f"sides of {2 * scale + 11}", got=hr.shape[:2])
    hr = hr[:height, :width]
    lr = resize(hr, 1 / scale) if lr_path is None else read_image(lr_path).pixels
    if (lr.shape[0] * scale, lr.shape[1] * scale, *lr.shape[2:]) != hr.shape:
        raise DataError(
            f"{hr_path} and {lr_path} do not fit",
            expected=f"HR {scale} times as large as LR, both grey or both RGB",
            got=f"{_size(hr)} and {_size(lr)}",
        )
    sr = enlarge(lr)
    return ImageScore(
        name=hr_path.name,
        psnr=psnr_y(sr, hr, border=scale),
        ssim=ssim_y(sr, hr, border=scale),
        height=height,
        width=width,
    )


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]} {'grey' if pixels.ndim == 2 else 'RGB'}"


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type} ({platform.machine()}{threads})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
