"""Training images, decoded once into flat uint8 files that are memory-mapped ever after.

A cache folder holds `hr.bin`, one `lr_x<scale>.bin` and `index.json` (source fingerprint, shapes, offsets). It is
built in a temporary folder and renamed, so a crash never leaves half a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_attn.errors import DataError, ImageError
from sparse_attn.imaging import decode_image, resize

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
ImageU8 = NDArray[np.uint8]


def cache_root() -> Path:
    """Where caches live: `$SPARSE_ATTN_CACHE`, or `sparse_attn` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparse_attn"
    return Path(os.environ.get("SPARSE_ATTN_CACHE", default))


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            "no training folder",
            expected="a folder of images or .tar shards",
            got=str(folder),
            remedy="check data.train",
        )
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | {".tar"})
    if not found:
        raise DataError(f"no images and no .tar shards in {folder}", remedy="put training images there")
    return found


def _decode(data: bytes, name: str) -> ImageU8:
    try:
        pixels = decode_image(data, name).pixels
    except ImageError as error:
        raise DataError(str(error), remedy="remove or replace it") from error
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def iter_images(folder: Path) -> Iterator[tuple[str, ImageU8]]:
    """Every image of a folder, and of the `.tar` shards in it, as (name, (H, W, 3) uint8), in sorted order.

    Raises:
        DataError: no such folder, nothing in it, or an image that cannot be decoded.
    """
    for path in _sources(folder):
        if path.suffix.lower() != ".tar":
            yield path.name, _decode(path.read_bytes(), str(path))
            continue
        try:
            with tarfile.open(path) as archive:
                for member in sorted(archive.getmembers(), key=lambda m: m.name):
                    handle = archive.extractfile(member) if Path(member.name).suffix.lower() in IMAGE_SUFFIXES else None
                    if handle is not None:
                        yield member.name, _decode(handle.read(), f"{path}:{member.name}")
        except tarfile.TarError as error:
            raise DataError(f"cannot read shard {path}", got=str(error), remedy="remove or replace it") from error


def _fingerprint(folder: Path, scale: int) -> str:
    facts = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in _sources(folder)]
    return hashlib.sha256(json.dumps([str(folder.resolve()), scale, facts]).encode()).hexdigest()


class TileCache:
    """Pairs of HR and LR images of one scale, memory-mapped.

    Args:
        root: a cache folder made by `build_cache`.
    """

    def __init__(self, root: Path) -> None:
        index = json.loads((root / "index.json").read_text())
        self.scale: int = index["scale"]
        self.names: list[str] = index["names"]
        self.shapes: list[tuple[int, int]] = [tuple(shape) for shape in index["lr_shapes"]]
        self._hr = np.memmap(root / "hr.bin", np.uint8, "r")
        self._lr = np.memmap(root / f"lr_x{self.scale}.bin", np.uint8, "r")
        pixels = np.array([h * w * 3 for h, w in self.shapes], np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(pixels)])

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, index: int) -> tuple[ImageU8, ImageU8]:
        """(h, w, 3) LR and (s*h, s*w, 3) HR views of image `index`."""
        h, w = self.shapes[index]
        start, stop = self._offsets[index], self._offsets[index + 1]
        s = self.scale
        lr = self._lr[start:stop].reshape(h, w, 3)
        hr = self._hr[start * s * s : stop * s * s].reshape(h * s, w * s, 3)
        return lr, hr


def build_cache(folder: Path, scale: int, *, progress: Callable[[str], None] = lambda _: None) -> TileCache:
    """Decodes a folder once, makes the LR images with MATLAB-compatible bicubic, and opens the result.

    A folder that has not changed since is not decoded again.

    Args:
        folder: images and `.tar` shards of images, searched recursively.
        scale: s; each HR image is cropped to multiples of s.
        progress: called with a line of text now and then.

    Raises:
        DataError: no images, or one that cannot be decoded.
    """
    key = _fingerprint(folder, scale)
    root = cache_root() / f"x{scale}-{key[:16]}"
    if (root / "index.json").is_file():
        return TileCache(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=root.parent, prefix="building-"))
    try:
        names, shapes = [], []
        with open(work / "hr.bin", "wb") as hr_file, open(work / f"lr_x{scale}.bin", "wb") as lr_file:
            for name, image in iter_images(folder):
                height, width = (side - side % scale for side in image.shape[:2])
                if min(height, width) < scale:
                    continue
                hr = np.ascontiguousarray(image[:height, :width])
                hr_file.write(hr.tobytes())
                lr_file.write(np.ascontiguousarray(resize(hr, 1 / scale)).tobytes())
                names.append(name)
                shapes.append((height // scale, width // scale))
                if len(names) % 200 == 0:
                    progress(f"decoded {len(names)} training images")
        if not names:
            raise DataError(f"no image in {folder} has {scale} pixels a side", remedy="put training images there")
        index = {"scale": scale, "source": str(folder), "names": names, "lr_shapes": shapes}
        (work / "index.json").write_text(json.dumps(index))
        try:
            os.replace(work, root)
        except OSError:
            # Another process may have built the same cache meanwhile.
            if not (root / "index.json").is_file():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return TileCache(root)
