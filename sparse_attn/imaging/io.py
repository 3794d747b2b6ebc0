"""Image files in and out: every failure is one ImageError, and no file is ever half written."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_attn.errors import ConfigError, ImageError
from sparse_attn.imaging.decode import decode
from sparse_attn.imaging.photo import Photo
from sparse_attn.imaging.pillow import quiet_stderr, reason, strict_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

# Below the size at which Pillow itself refuses (179 megapixels), so that the message is always ours.
MAX_PIXELS = 150_000_000
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
_OPAQUE = ("JPEG", "BMP")
_WIDE = ("I", "F")
_KINDS = "PNG, JPEG, WebP, BMP or TIFF"


def read_image(path: str | os.PathLike[str]) -> Photo:
    """Reads a PNG, JPEG, WebP, BMP or TIFF file, upright; of several frames or pages the first.

    Palette, 16-bit grey, CMYK and the rest become 8-bit grey or RGB, as `imaging.decode` says.

    Raises:
        ImageError: a file that is missing, empty, a folder, not an image, damaged or cut short anywhere in its
            pixels, of more than MAX_PIXELS pixels, or of an unsupported pixel format.
    """
    path = Path(path)
    problem = f"cannot read {str(path)!r}"
    with _one_error(problem):
        if path.is_dir():
            raise ImageError(f"{problem}: it is a folder")
        if path.stat().st_size == 0:
            raise ImageError(f"{problem}: the file is empty")
        return _load(path, problem)


def decode_image(data: bytes, name: str) -> Photo:
    """Reads an image file's content, exactly as `read_image` reads the file.

    Args:
        data: the whole content.
        name: what messages call it.

    Raises:
        ImageError: as `read_image`.
    """
    problem = f"cannot read {name!r}"
    with _one_error(problem):
        if not data:
            raise ImageError(f"{problem}: the file is empty")
        return _load(data, problem)


def write_image(path: str | os.PathLike[str], photo: Photo, *, quality: int = 95) -> None:
    """Writes a photo in the format of the path's suffix, replacing what is there only when all is written.

    Alpha is kept by PNG, WebP and TIFF and laid on white for JPEG and BMP; the ICC profile is kept by all but BMP;
    WebP has no grey, so grey is written as RGB. JPEG and WebP are lossy (colour at full resolution in JPEG).

    Args:
        path: a file in an existing folder, ending in one of SUFFIXES.
        photo: what to write.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ImageError: an unknown suffix, a folder that is missing or not writable, a picture the format cannot hold.
        ConfigError: a quality out of range.
    """
    path = Path(path)
    problem = f"cannot write {str(path)!r}"
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{problem}: unknown suffix {path.suffix!r}", expected=f"one of {', '.join(SUFFIXES)}")
    if not 1 <= quality <= 100:
        raise ConfigError("bad quality", expected="1 to 100", got=quality)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        if path.is_dir():
            raise ImageError(f"{problem}: it is a folder")
        # By way of memory: on a full disk some of Pillow's writers cut a file short without an error.
        encoded = io.BytesIO()
        with strict_pillow():
            _encodable(photo, kind).save(encoded, kind, **_options(photo, kind, quality))
        with temporary.open("xb") as file:
            file.write(encoded.getbuffer())
        temporary.replace(path)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{problem}: no such folder", remedy="create it first") from error
    except Exception as error:
        raise ImageError(f"{problem}: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _one_error(problem: str) -> Iterator[None]:
    """Turns whatever reading raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{problem}: no such file") from error
    # Decoders raise nearly anything on damaged bytes, so the type says nothing more than the message.
    except Exception as error:
        system = isinstance(error, OSError) and error.errno is not None
        remedy = None if system else "the file may be damaged or incomplete"
        raise ImageError(f"{problem}: {reason(error)}", remedy=remedy) from error


def _load(source: Path | bytes, problem: str) -> Photo:
    """The photo in an existing file, or in its content."""
    with strict_pillow():
        kind = _check_header(source, problem)
        quiet = quiet_stderr() if kind == "TIFF" else contextlib.nullcontext()
        with _open(source) as image, quiet:
            return Photo(*decode(image))


def _open(source: Path | bytes) -> Image:
    from PIL import Image

    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _check_header(source: Path | bytes, problem: str) -> str | None:
    """The file's format, once its header, and for PNG its checksums, are found good; this uses a Pillow image up."""
    from PIL import Image, UnidentifiedImageError

    too_large = f"{problem}: the image is too large"
    limit = f"at most {MAX_PIXELS // 1_000_000} megapixels"
    try:
        with _open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(too_large, expected=limit, got=f"{image.width}x{image.height}")
            if image.mode in _WIDE:
                raise ImageError(
                    f"{problem}: 32-bit and floating point pixels have no defined white",
                    expected="8 or 16 bits a channel",
                    remedy="convert it first",
                )
            if image.format == "PNG":
                image.verify()
            return image.format
    except UnidentifiedImageError as error:
        raise ImageError(f"{problem}: not an image, or cut off in its header", expected=_KINDS) from error
    except Image.DecompressionBombError as error:
        raise ImageError(too_large, expected=limit) from error


def _encodable(photo: Photo, kind: str) -> Image:
    """The photo as a Pillow image of a mode that the format holds."""
    from PIL import Image

    pixels, alpha = photo.pixels, photo.alpha
    if alpha is not None and kind in _OPAQUE:
        cover = alpha.astype(np.uint32) if pixels.ndim == 2 else alpha.astype(np.uint32)[..., None]
        pixels, alpha = ((pixels * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8), None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


def _options(photo: Photo, kind: str, quality: int) -> dict[str, Any]:
    """What Pillow's writer of this format is told."""
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_deflate"},
    }
    icc = {} if photo.icc is None or kind == "BMP" else {"icc_profile": photo.icc}
    return options.get(kind, {}) | icc
