"""The images of a folder, wherever in it they are: files, and members of `.tar` shards."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import DataError, ImageError
from sparse_attn.imaging import decode_image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
SHARD = ".tar"
ImageU8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """One image.

    Args:
        name: its path below the folder, or within its shard.
        file: the file that holds it.
        start: where in that file it begins, bytes.
        size: bytes; None for the whole file.
    """

    name: str
    file: Path
    start: int = 0
    size: int | None = None

    def decode(self) -> ImageU8:
        """(H, W, 3) uint8: upright, grey repeated, alpha left out, 16 bits rounded to 8.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        name = str(self.file) if self.size is None else f"{self.file}:{self.name}"
        try:
            with open(self.file, "rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
            pixels = decode_image(content, name).pixels
        except (OSError, ImageError) as error:
            text = str(error) if isinstance(error, ImageError) else f"cannot read {name!r}: {error.strerror}"
            raise DataError(text, remedy="remove or replace it") from error
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def list_files(folder: Path) -> list[Path]:
    """The image files and shards below a folder, links followed, hidden ones left out, sorted.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise DataError(
            "no folder of images",
            expected="a folder of images or .tar shards",
            got=str(folder),
            remedy="check the path",
        )
    found, visited = [], set()
    for place, folders, names in os.walk(folder, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(place)
        # A link to a folder above would be followed forever.
        folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
        if real not in visited:
            found += [Path(place, name) for name in names if _is_wanted(name)]
        visited.add(real)
    if not found:
        raise _nothing(folder)
    return sorted(found)


def list_sources(folder: Path) -> list[Source]:
    """Every image of a folder and of the shards in it, shard by shard in the order of names.

    Raises:
        DataError: no such folder, no image in it, or a shard that cannot be read.
    """
    sources = []
    for file in list_files(folder):
        if file.suffix.lower() == SHARD:
            sources += _members(file)
        else:
            sources.append(Source(str(file.relative_to(folder)), file))
    if not sources:
        raise _nothing(folder)
    return sources


def iter_images(folder: Path) -> Iterator[tuple[str, ImageU8]]:
    """Every image of a folder, and of the `.tar` shards in it, as (name, (H, W, 3) uint8), in sorted order.

    Raises:
        DataError: no such folder, nothing in it, or an image that cannot be decoded.
    """
    for source in list_sources(folder):
        yield source.name, source.decode()


def _members(shard: Path) -> list[Source]:
    """The images of an uncompressed tar; links to others of its files are those once more, and are left out."""
    try:
        with tarfile.open(shard, "r:") as archive:
            found = [
                Source(member.name, shard, member.offset_data, member.size)
                for member in archive
                if member.isreg() and _is_wanted(Path(member.name).name, IMAGE_SUFFIXES)
            ]
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"cannot read shard {shard}", expected="an uncompressed tar", got=str(error), remedy="remove or replace it"
        ) from error
    return sorted(found, key=lambda source: source.name)


def _is_wanted(name: str, suffixes: frozenset[str] = IMAGE_SUFFIXES | {SHARD}) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _nothing(folder: Path) -> DataError:
    return DataError(f"no images and no .tar shards with images in {folder}", remedy="put training images there")


def _cannot_list(error: OSError) -> None:
    raise DataError(f"cannot read folder {error.filename}: {error.strerror}") from error
