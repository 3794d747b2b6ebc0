"""From an opened Pillow image, of whatever mode, to 8-bit grey or RGB and alpha."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]


def decode(image: Image) -> tuple[Pixels, Pixels | None, bytes | None]:
    """Loads an image, upright, as 8-bit pixels.

    Grey stays grey, everything else becomes RGB. Alpha, and a palette's or colour key's transparency, become an alpha
    plane. 16-bit grey is rounded to 8 bits (16-bit RGB comes from Pillow with the low byte cut off). CMYK goes through
    its ICC profile to sRGB where it has a usable one, else by the plain formula; its profile does not outlive it.

    Returns:
        pixels (H, W) or (H, W, 3), alpha (H, W) or None, ICC profile or None.

    Raises:
        Exception: whatever Pillow raises on a damaged file.
    """
    image.load()
    pixels, alpha = _planes(image)
    orientation = _orientation(image)
    icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
    return _upright(pixels, orientation), None if alpha is None else _upright(alpha, orientation), icc or None


def _planes(image: Image) -> tuple[Pixels, Pixels | None]:
    """Pixels and alpha as they are stored."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode == "CMYK":
        return np.array(_cmyk_to_rgb(image)), None
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        planes = np.array(image.convert("LA" if grey else "RGBA"))
        return planes[..., 0] if grey else planes[..., :3], planes[..., -1]
    return np.array(image.convert("L" if grey else "RGB")), None


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; a damaged record costs a photo its orientation, not its pixels."""
    from PIL.ExifTags import Base

    try:
        orientation: int = image.getexif().get(Base.Orientation, 1)
    except (SyntaxError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(plane: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) turned and mirrored as the EXIF orientation asks."""
    if orientation >= 5:
        plane = plane.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        plane = plane[::-1]
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return np.ascontiguousarray(plane)


def _from_16_bit(image: Image) -> tuple[Pixels, Pixels | None]:
    """Grey of more than 8 bits, scaled so that its white is 255; a colour key becomes alpha."""
    from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

    twelve = isinstance(image, TiffImageFile) and image.tag_v2.get(BITSPERSAMPLE) == (12,)
    white = 4095 if twelve else 65535
    values = np.array(image).astype(np.uint32)
    pixels = ((values * 255 + white // 2) // white).astype(np.uint8)
    key = image.info.get("transparency")
    return pixels, None if key is None else np.where(values == key, 0, 255).astype(np.uint8)


def _cmyk_to_rgb(image: Image) -> Image:
    """CMYK to sRGB, by its profile where that can be used."""
    from PIL import ImageCms

    icc = image.info.get("icc_profile")
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")
