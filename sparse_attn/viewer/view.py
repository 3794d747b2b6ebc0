"""Looking at one attention of a model on one picture."""

from __future__ import annotations

import operator
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_attn.attention import Probe, attentions, probe
from sparse_attn.errors import ConfigError, DataError, unknown_name
from sparse_attn.imaging import Photo, from_tensor, read_image, to_tensor
from sparse_attn.viewer.figure import figure
from sparse_attn.viewer.page import page

Kind = Literal["html", "png"]
_HIDDEN = ("backend", "seed", "rehash")


@dataclass(frozen=True, eq=False)
class View:
    """What `inspect` found; `save` draws it.

    Args:
        probe: the call of the attention.
        layer: its dotted name.
        layers: of all that were called, in module order.
        picture: (h, w) or (h, w, 3), what the model was given.
        at: (x, y) of the pixel looked at, in the whole picture.
        corner: (x, y) there of the first pixel of `picture`.
        whole: (width, height) of the whole picture.
        title: what the picture and the model are called.
    """

    probe: Probe
    layer: str
    layers: tuple[str, ...]
    picture: NDArray[np.uint8]
    at: tuple[int, int]
    corner: tuple[int, int]
    whole: tuple[int, int]
    title: str

    @property
    def place(self) -> tuple[int, int]:
        """(x, y) of the pixel in the feature map."""
        (high, wide), (height, width) = self.picture.shape[:2], self.probe.size
        return (self.at[0] - self.corner[0]) * width // wide, (self.at[1] - self.corner[1]) * height // high

    @property
    def query(self) -> Tensor:
        """(1,), the pixel's token."""
        x, y = self.place
        return torch.tensor([y * self.probe.size[1] + x])

    @property
    def attended(self) -> Tensor:
        """(N,) whether each token is attended to."""
        return self.probe.counts(self.query)[0, :, 0].sum(0) > 0

    @property
    def kept(self) -> float:
        """The share of dense attention's mass that lies on the attended pixels."""
        return float(self.probe.dense_weights(self.query)[0, 0][self.attended].sum())

    @property
    def attention(self) -> str:
        """The attention's registered name and the settings that say who is attended to."""
        block = self.probe.attention
        name = next((n for n in attentions if attentions.get(n) is type(block)), type(block).__name__)
        values = {key: getattr(block, key) for key in block.settings if key not in _HIDDEN}
        settings = [f"{key}={value}" for key, value in values.items() if value is not None]
        return f"{name} ({', '.join(settings)})" if settings else name

    def render(self, kind: Kind) -> bytes:
        """The content of a file: `html`, a page on its own without a network, or `png`, a figure for a paper.

        Raises:
            ConfigError: another kind, a page that would be too large, or no matplotlib for a figure.
        """
        if kind == "html":
            return page(self).encode()
        if kind == "png":
            return figure(self)
        raise ConfigError("cannot draw this", expected="html or png", got=repr(kind))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an .html or .png file, replacing what is there when all is written.

        Raises:
            ConfigError: as `render`.
            DataError: it cannot be written.
        """
        path = Path(path)
        content = self.render(kind_of(path))
        temporary = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()


def kind_of(path: Path) -> Kind:
    """What a file's suffix asks for.

    Raises:
        ConfigError: neither .html nor .png.
    """
    suffix = path.suffix.lower()
    if suffix == ".html":
        return "html"
    if suffix == ".png":
        return "png"
    raise ConfigError(f"cannot draw {path}", expected="a name ending in .html or .png")


def inspect(
    model: nn.Module,
    image: Photo | Tensor | str | os.PathLike[str],
    *,
    at: tuple[int, int],
    layer: str | int | None = None,
    crop: int | None = None,
    title: str | None = None,
) -> View:
    """Runs a model on a picture and looks at one of its attentions.

    Args:
        model: takes (1, C, H, W); its `rgb_range` and `in_chans` are respected, 1.0 and 3 where it has none.
        image: a Photo, an image file, or a (1, C, H, W) tensor that the model takes as it is.
        at: (x, y) of a pixel of the picture, from the top left.
        layer: dotted name of an attention, or its index among those of the model; None is the last.
        crop: cut the picture to at most this side, around the pixel: the model then sees only that part.
        title: what to call picture and model; by default the model's class.

    Raises:
        ConfigError: no module or no picture, a pixel outside, a crop that is not positive, a model without attention,
            other than one picture, numbers that are not whole, or an attention of values that are not finite.
        UnknownNameError: no such layer; the message lists those there are.
        ImageError: a file that cannot be read.
    """
    _check(model, image)
    given = image if isinstance(image, Photo | Tensor) else read_image(image)
    pixels = given.pixels if isinstance(given, Photo) else _shown(given, float(getattr(model, "rgb_range", 1.0)))
    height, width = pixels.shape[:2]
    x, y = _pair(at)
    crop = None if crop is None else _whole("crop", crop)
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError("the pixel is outside", expected=f"0,0 to {width - 1},{height - 1}", got=f"{x},{y}")
    if crop is not None and crop < 1:
        raise ConfigError("bad crop", expected="a positive number of pixels", got=crop)
    rows, columns = _part(y, height, crop), _part(x, width, crop)
    pixels = pixels[rows, columns]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    inputs = given[..., rows, columns] if isinstance(given, Tensor) else _as_input(model, pixels)
    found = probe(model, inputs.to(like))
    name = choose_layer(list(found), layer)
    if not (found[name].queries.isfinite().all() and found[name].keys.isfinite().all()):
        raise ConfigError(f"cannot look at {name or 'this'}", expected="finite queries and keys", got="NaN or infinity")
    return View(
        probe=found[name],
        layer=name,
        layers=tuple(found),
        picture=pixels,
        at=(x, y),
        corner=(columns.start, rows.start),
        whole=(width, height),
        title=type(model).__name__ if title is None else title,
    )


def choose_layer(names: list[str], wanted: str | int | None) -> str:
    """The name that a name, an index or None, the last, means.

    Raises:
        UnknownNameError: no such layer.
    """
    if wanted is None:
        return names[-1]
    if isinstance(wanted, int) and -len(names) <= wanted < len(names):
        return names[wanted]
    if isinstance(wanted, str) and wanted in names:
        return wanted
    known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    error = unknown_name("attention", str(wanted), names)
    error.args = (f"{error.problem}; there are: {known}",)
    raise error


def _check(model: object, image: object) -> None:
    if not isinstance(model, nn.Module):
        remedy = "build it first: create_model(name, pretrained=True)" if isinstance(model, str) else None
        raise ConfigError("cannot look into this", expected="a module", got=type(model).__name__, remedy=remedy)
    if not isinstance(image, Photo | Tensor | str | os.PathLike):
        raise ConfigError(
            "cannot look at this",
            expected="a Photo, a tensor or a path",
            got=type(image).__name__,
            remedy="Photo(pixels) takes an array",
        )


def _pair(at: tuple[int, int]) -> tuple[int, int]:
    try:
        x, y = at
    except (TypeError, ValueError) as error:
        raise ConfigError("bad pixel", expected="two whole numbers, (x, y)", got=repr(at)) from error
    return _whole("pixel", x), _whole("pixel", y)


def _whole(what: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ConfigError(f"bad {what}", expected="whole numbers", got=repr(value)) from error


def _part(middle: int, length: int, side: int | None) -> slice:
    """`side` pixels around one, moved to lie inside."""
    if side is None or side >= length:
        return slice(0, length)
    start = min(max(0, middle - side // 2), length - side)
    return slice(start, start + side)


def _as_input(model: nn.Module, pixels: NDArray[np.uint8]) -> Tensor:
    x = to_tensor(pixels) * float(getattr(model, "rgb_range", 1.0))
    channels = int(getattr(model, "in_chans", 3))
    if channels == x.shape[1]:
        return x
    return repeat(x.mean(1), "b h w -> b c h w", c=channels)


def _shown(x: Tensor, white: float) -> NDArray[np.uint8]:
    """A tensor as a picture; stretched to the range of pixels where it does not keep to it."""
    if x.ndim != 4 or len(x) != 1 or x.numel() == 0 or not x.is_floating_point():
        raise ConfigError("cannot look at this", expected="one picture, (1, C, H, W)", got=tuple(x.shape))
    plain = x.detach() if x.shape[1] == 3 else x.detach().mean(1, keepdim=True)
    low, high = float(plain.min()), float(plain.max())
    if low < 0 or high > white:
        plain, white = plain - low, max(high - low, 1e-12)
    return from_tensor(plain / white)
