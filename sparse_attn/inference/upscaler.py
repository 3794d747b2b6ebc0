"""The Upscaler: pad, cut into tiles, enlarge, blend, average over flips and turns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from sparse_attn.attention import draw_counts, restore_draws
from sparse_attn.errors import ConfigError
from sparse_attn.imaging import Photo, from_tensor, read_image, resize, to_tensor
from sparse_attn.inference.memory import PROBE_SIDES, PeakModel, free_memory
from sparse_attn.inference.tiles import MIN_SIDE, ramps, reflection, spans

Progress = Callable[[int, int], None]
_HALF = (torch.bfloat16, torch.float16)


class Upscaler:
    """Enlarges pictures of any size with a model, in bounded memory.

    Pictures with a side below 16 pixels are padded by reflection and the result is cropped. Tiles share at least
    `overlap` LR pixels, over which one fades linearly into the next; where only one tile lies, the result is that
    tile's. The result is deterministic, but an attention that would see the whole picture sees only its tile, so it
    depends on the tile's size: give `tile` for the same result whatever memory is free.

    All tiles of a picture have the same size, so a compiled model is compiled once for each size of tile:
    `Upscaler(torch.compile(model, mode="reduce-overhead", dynamic=False), tile=192)` replays it as a CUDA graph.

    Automatic tile size: the bytes of all live tensors are counted in two forward passes, on 24x24 and on 48x48 pixels
    of noise, and give the peak as `b N + c N²` for N LR pixels; a picture is cut into the largest tiles whose peak,
    times 1.5 for what is not counted, fits `memory_limit`. The picture and its enlargement themselves, at 4 bytes a
    value, come on top.

    Args:
        model: takes (B, C, H, W) to `(B, C, sH, sW)` and has an integer attribute `scale`; its `rgb_range` (the value
            of white) and `in_chans` are respected, 1.0 and 3 where it has none.
        tile: side of a tile in LR pixels; 0 never cuts; None cuts only as `memory_limit` demands.
        overlap: LR pixels shared by neighbouring tiles.
        ensemble: averages over the eight flips and quarter turns of each tile; eight times the work.
        device: moves the model there, in place; None leaves it where it is.
        dtype: bf16 or fp16 run a float32 model under autocast; None does so on CUDA devices, which are faster with it,
            and elsewhere takes the model's own. Without autocast TF32 is off.
        memory_limit: bytes that one tile's forward pass may take; None is half of what is free at the time.

    Raises:
        ConfigError: a model without a scale, a tile not larger than the overlap, a memory limit that is not positive,
            or a dtype that the model cannot run in.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tile: int | None = None,
        overlap: int = 16,
        ensemble: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
    ) -> None:
        scale = getattr(model, "scale", None)
        if not isinstance(scale, int) or scale < 1:
            raise ConfigError(
                "this is no model that enlarges",
                expected="a module with an integer attribute `scale`",
                got=f"{type(model).__name__} with scale {scale!r}",
                remedy="build one: create_model(name, pretrained=True)",
            )
        if overlap < 0 or (tile is not None and tile != 0 and tile <= overlap):
            raise ConfigError(
                "bad tile", expected=f"0 or more than the overlap of {overlap}", got=tile, remedy="enlarge the tile"
            )
        if memory_limit is not None and memory_limit < 1:
            raise ConfigError("bad memory_limit", expected="a positive number of bytes", got=memory_limit)
        self.model = model if device is None else model.to(device)
        self.scale = scale
        self.rgb_range = float(getattr(model, "rgb_range", 1.0))
        self.in_chans = int(getattr(model, "in_chans", 3))
        self.tile, self.overlap, self.ensemble, self.memory_limit = tile, overlap, ensemble, memory_limit
        values = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
        self.device = values[0].device if values else torch.device(device or "cpu")
        self.model_dtype = values[0].dtype if values else torch.float32
        self.dtype = dtype or _fastest(self.device, self.model_dtype)
        if self.dtype != self.model_dtype and (self.dtype not in _HALF or self.model_dtype != torch.float32):
            raise ConfigError(
                "the model cannot run in this dtype",
                expected=f"{self.model_dtype}, or bf16 or fp16 of a float32 model",
                got=self.dtype,
                remedy="convert the model first",
            )
        self._peak: PeakModel | None = None

    @overload
    def __call__(self, image: Photo, *, progress: Progress | None = None) -> Photo: ...
    @overload
    def __call__(self, image: Tensor, *, progress: Progress | None = None) -> Tensor: ...
    def __call__(self, image: Photo | Tensor, *, progress: Progress | None = None) -> Photo | Tensor:
        """Enlarges a picture `scale` times.

        Args:
            image: a Photo; or a (B, C, H, W) floating point tensor in [0, rgb_range].
            progress: called after each tile with the number done and the number of all.

        Returns:
            A Photo, rounded, grey where `image` is, its alpha enlarged by bicubic, its profile kept; or a
            `(B, C, sH, sW)` tensor of `image`'s dtype and device, neither clipped nor rounded.

        Raises:
            ConfigError: a tensor of another shape or dtype, a model whose output is not `scale` times its input, or
                too little memory for any tile.
        """
        if isinstance(image, Photo):
            return self._photo(image, progress)
        if image.ndim != 4 or image.shape[1] != self.in_chans or not image.is_floating_point() or image.numel() == 0:
            raise ConfigError(
                "cannot enlarge this tensor",
                expected=f"(B, {self.in_chans}, H, W), floating point, not empty",
                got=f"{tuple(image.shape)} {image.dtype}",
            )
        x = image.detach()
        (rows, top), (columns, left) = reflection(x.shape[2]), reflection(x.shape[3])
        out = self._tiles(x[:, :, rows.to(x.device)][:, :, :, columns.to(x.device)], progress)
        s, height, width = self.scale, *x.shape[2:]
        return out[:, :, s * top : s * (top + height), s * left : s * (left + width)].contiguous()

    def _photo(self, photo: Photo, progress: Progress | None) -> Photo:
        x = to_tensor(photo.pixels) * self.rgb_range
        grey = x.shape[1] == 1
        if self.in_chans == 1:
            x = rearrange(x, "1 c h w -> c 1 h w")
        elif self.in_chans != 3:
            raise ConfigError("the model takes no photos", expected="1 or 3 channels", got=self.in_chans)
        elif grey:
            x = repeat(x, "1 1 h w -> 1 c h w", c=3)
        out = self(x, progress=progress) / self.rgb_range
        if self.in_chans == 1:
            out = rearrange(out, "c 1 h w -> 1 c h w")
        elif grey:
            out = reduce(out, "1 c h w -> 1 1 h w", "mean")
        alpha = None if photo.alpha is None else resize(photo.alpha, self.scale)
        return Photo(from_tensor(out), alpha, photo.icc)

    def _tiles(self, x: Tensor, progress: Progress | None) -> Tensor:
        """Enlarges every tile and fades it into its neighbours."""
        batch, channels, height, width = x.shape
        s, tile = self.scale, self._tile_side(batch, height, width)
        rows, columns = spans(height, tile, self.overlap), spans(width, tile, self.overlap)
        # In half precision two fading tiles would not add up to a constant.
        wide = torch.promote_types(x.dtype, torch.float32)
        out = torch.zeros(batch, channels, s * height, s * width, dtype=wide, device=x.device)
        down, across = ramps(rows, s, like=out), ramps(columns, s, like=out)
        done = 0
        for (top, bottom), fade_y in zip(rows, down, strict=True):
            for (left, right), fade_x in zip(columns, across, strict=True):
                with torch.inference_mode():
                    piece = self._forward(x[:, :, top:bottom, left:right]).to(x.device, wide)
                    piece = piece * fade_y[:, None] * fade_x
                    out[:, :, s * top : s * bottom, s * left : s * right] += piece
                done += 1
                if progress is not None:
                    progress(done, len(rows) * len(columns))
        return out.to(x.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, s*h, s*w), on the model's device and at least in its precision."""
        x = x.to(self.device, self.model_dtype)
        half = self.dtype != self.model_dtype
        autocast = torch.autocast(self.device.type, self.dtype if half else None, enabled=half)
        with autocast, _exact(self.device, exact=not half), _evaluating(self.model):
            if not self.ensemble:
                return self._checked(x)
            total = torch.zeros((), dtype=self.model_dtype, device=self.device)
            for turns in range(4):
                for flip in (False, True):
                    turned = torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
                    back = torch.rot90(self._checked(turned), -turns, (2, 3))
                    total = total + (back.flip(3) if flip else back)
            return total / 8.0

    def _checked(self, x: Tensor) -> Tensor:
        """The model's output, once its shape is found to be what `scale` says."""
        # Convolutions of channels_last maps are the faster ones, on CPUs and on GPUs in half precision.
        out: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        expected = (*x.shape[:2], self.scale * x.shape[2], self.scale * x.shape[3])
        if tuple(out.shape) != expected:
            raise ConfigError("the model's output does not fit its scale", expected=expected, got=tuple(out.shape))
        return out

    def _tile_side(self, batch: int, height: int, width: int) -> int:
        """Side of a tile: of the whole picture, as asked for, or as large as memory allows."""
        whole = max(height, width)
        if self.tile is not None:
            return self.tile or whole
        if batch * height * width <= max(PROBE_SIDES) ** 2:
            return whole
        if self._peak is None:
            draws = draw_counts(self.model)
            self._peak = PeakModel.fit(self._noise)
            restore_draws(self.model, draws)
        limit = self.memory_limit or free_memory(self.device) // 2
        pixels = self._peak.pixels(limit / batch)
        if height * width <= pixels:
            return whole
        side = int(pixels**0.5) // 16 * 16
        smallest = 2 * self.overlap + MIN_SIDE
        if side < smallest:
            raise ConfigError(
                f"too little memory for a tile of {smallest}x{smallest}",
                expected=f"about {batch * self._peak.peak(smallest**2) / 2**20:.0f} MiB",
                got=f"{limit / 2**20:.0f} MiB",
                remedy="give more, or set a smaller tile and overlap",
            )
        return side

    def _noise(self, side: int) -> Tensor:
        noise = torch.rand(1, self.in_chans, side, side, generator=torch.Generator().manual_seed(0))
        return self._forward(noise * self.rgb_range)


def _fastest(device: torch.device, own: torch.dtype) -> torch.dtype:
    if device.type != "cuda" or own != torch.float32:
        return own
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else own


@contextlib.contextmanager
def _exact(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Float32 convolutions that are float32, and cuDNN algorithms that repeat themselves."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=not exact):
        yield


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; each of its modules is left as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def upscale(model: nn.Module, image: Photo | Tensor | str | os.PathLike[str], **settings: Any) -> Photo | Tensor:
    """Enlarges one picture: `Upscaler(model, **settings)` on a photo, a tensor, or an image file.

    Args:
        model: as for `Upscaler`.
        image: a Photo, a (B, C, H, W) tensor in the model's range, or the path of an image file.
        settings: those of `Upscaler`.

    Raises:
        ConfigError: as `Upscaler`.
        ImageError: a file that cannot be read.
    """
    picture = image if isinstance(image, Photo | Tensor) else read_image(image)
    return Upscaler(model, **settings)(picture)
