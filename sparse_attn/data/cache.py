"""Training images, decoded once into flat uint8 files that are memory-mapped ever after.

A cache folder holds `hr.bin`, one `lr_x<scale>.bin` and `index.json` (shapes, in the files' order). It is built in a
temporary folder and renamed, so a crash never leaves half a cache; of several processes that want it, one builds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from sparse_attn.data.sources import ImageU8, Source, list_files, list_sources
from sparse_attn.data.storage import Storage
from sparse_attn.data.workers import in_processes
from sparse_attn.errors import DataError
from sparse_attn.imaging import resize

# Of source files; below this one process is done before others have started.
_WORTH_WORKERS = 512 * 2**20
_MOST_WORKERS = 16


def cache_root() -> Path:
    """Where caches live: `$SPARSE_ATTN_CACHE`, or `sparse_attn` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparse_attn"
    return Path(os.environ.get("SPARSE_ATTN_CACHE", default))


class TileCache:
    """Pairs of HR and LR images of one scale, memory-mapped.

    Args:
        root: a cache folder made by `build_cache`.

    Raises:
        DataError: a file of it is not as long as its index says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        index = json.loads((root / "index.json").read_text())
        self.scale: int = index["scale"]
        self.names: list[str] = index["names"]
        self.shapes: list[tuple[int, int]] = [tuple(shape) for shape in index["lr_shapes"]]
        self.offsets = np.concatenate([[0], np.cumsum([h * w for h, w in self.shapes], dtype=np.int64)])
        self._lr = self._map(f"lr_x{self.scale}.bin", 1)
        self._hr = self._map("hr.bin", self.scale)

    def _map(self, name: str, scale: int) -> np.memmap[tuple[int], np.dtype[np.uint8]]:
        file, expected = self.root / name, int(self.offsets[-1]) * scale**2 * 3
        if not file.is_file() or file.stat().st_size != expected:
            raise DataError(
                f"the cache of training images is damaged: {file}",
                expected=f"{expected} bytes",
                got=f"{file.stat().st_size} bytes" if file.is_file() else "no file",
                remedy=f"delete {self.root}, and it is made again",
            )
        # Copy-on-write, because torch warns of memory that it could write to and must not; nothing is ever written.
        return np.memmap(file, np.uint8, "c")

    def __reduce__(self) -> tuple[type[TileCache], tuple[Path]]:
        # A process that is handed a cache maps it again instead of getting its content.
        return TileCache, (self.root,)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def storage(self) -> Storage:
        """All pixels, memory-mapped; image i begins at `offsets[i]` in LR and at s * s times that in HR."""
        lr, hr = (torch.from_numpy(part).view(-1, 3) for part in (self._lr, self._hr))
        return Storage(lr, hr)

    def pair(self, index: int) -> tuple[ImageU8, ImageU8]:
        """(h, w, 3) LR and (s*h, s*w, 3) HR views of image `index`."""
        h, w = self.shapes[index]
        start, stop = 3 * self.offsets[index], 3 * self.offsets[index + 1]
        s = self.scale
        lr = self._lr[start:stop].reshape(h, w, 3)
        hr = self._hr[start * s * s : stop * s * s].reshape(h * s, w * s, 3)
        return lr, hr


def build_cache(
    folder: Path, scale: int, *, progress: Callable[[str], None] = lambda _: None, workers: int | None = None
) -> TileCache:
    """Decodes a folder once, makes the LR images with MATLAB-compatible bicubic, and opens the result.

    A folder that has not changed since is not decoded again. A process that finds another one at it waits for it.

    Args:
        folder: images and `.tar` shards of images, searched recursively.
        scale: s; each HR image is cropped to multiples of s.
        progress: called with a line of text now and then.
        workers: processes that decode; None for one per core where there is much to do; 0 for this one.

    Raises:
        DataError: no images, one that cannot be decoded, or no room for the cache.
    """
    root = cache_root() / f"x{scale}-{_fingerprint(folder, scale)[:16]}"
    if not _is_there(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with _alone(root, progress) as alone:
            if not _is_there(root):
                _build(root, folder, scale, progress, workers, alone=alone)
    return TileCache(root)


def _is_there(root: Path) -> bool:
    return (root / "index.json").is_file()


def _fingerprint(folder: Path, scale: int) -> str:
    facts = [(str(p.relative_to(folder)), *_size_and_time(p)) for p in list_files(folder)]
    return hashlib.sha256(json.dumps([str(folder.resolve()), scale, facts]).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror}", remedy="remove or replace it") from error
    return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _alone(root: Path, progress: Callable[[str], None]) -> Iterator[bool]:
    """Holds other processes back; where the file system has no locks, all of them build, and one's rename wins."""
    from filelock import FileLock, Timeout

    lock = FileLock(root.with_name(f".{root.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("another process is decoding the training images: waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class _Pairs:
    """Item i is (name, LR shape, LR bytes, HR bytes) of source i; the shape is None where it is smaller than a pixel.

    Bytes go through pipes; tensors would take shared memory, of which containers have little.
    """

    def __init__(self, sources: list[Source], scale: int) -> None:
        self.sources, self.scale = sources, scale

    def __getitem__(self, index: int) -> tuple[str, tuple[int, int] | None, bytes, bytes]:
        source = self.sources[index]
        image = source.decode()
        height, width = (side - side % self.scale for side in image.shape[:2])
        if min(height, width) < self.scale:
            return source.name, None, b"", b""
        hr = np.ascontiguousarray(image[:height, :width])
        lr = np.ascontiguousarray(resize(hr, 1 / self.scale))
        return source.name, (height // self.scale, width // self.scale), lr.tobytes(), hr.tobytes()


def _build(
    root: Path,
    folder: Path,
    scale: int,
    progress: Callable[[str], None],
    workers: int | None,
    *,
    alone: bool,
) -> None:
    sources = list_sources(folder)
    if workers is None:
        total = sum(_size_and_time(source.file)[0] if source.size is None else source.size for source in sources)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, _MOST_WORKERS) if total > _WORTH_WORKERS and cores > 1 else 0
    prefix = f"building-{root.name}-"
    if alone:
        for left in root.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=root.parent, prefix=prefix))
    try:
        names, shapes = [], []
        with open(work / "hr.bin", "wb") as hr_file, open(work / f"lr_x{scale}.bin", "wb") as lr_file:
            for name, shape, lr, hr in in_processes(_Pairs(sources, scale), range(len(sources)), workers=workers):
                if shape is None:
                    continue
                hr_file.write(hr)
                lr_file.write(lr)
                names.append(name)
                shapes.append(shape)
                if len(names) % 200 == 0:
                    progress(f"decoded {len(names)} of {len(sources)} training images")
        if not names:
            raise DataError(f"no image in {folder} has {scale} pixels a side", remedy="put training images there")
        index = {"scale": scale, "source": str(folder), "names": names, "lr_shapes": shapes}
        (work / "index.json").write_text(json.dumps(index))
        try:
            os.replace(work, root)
        except OSError:
            # Another process may have built the same cache meanwhile.
            if not _is_there(root):
                raise
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"cannot write the cache of training images in {root.parent}: {error.strerror or error}",
            remedy="set SPARSE_ATTN_CACHE to a folder with room for the decoded images",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
