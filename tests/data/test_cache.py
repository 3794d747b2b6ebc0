"""The cache of training images: what is in it, when it is built, and that it is never half built."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_attn.data import TileCache, build_cache, cache_root
from sparse_attn.data.sources import ImageU8, Source
from sparse_attn.errors import DataError
from sparse_attn.imaging import resize

PROCESSES = multiprocessing.get_context("fork")
forking = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def caches() -> list[Path]:
    """What is in the cache folder, locks left out."""
    return sorted(path for path in cache_root().iterdir() if path.suffix != ".lock")


class Builder:
    """A process that builds a folder's cache and says what it does; where it is slow, each image waits for `go`."""

    def __init__(self, folder: Path, *, slow: bool) -> None:
        self.here, there = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=self.build, args=(folder, there), kwargs={"slow": slow}, daemon=True)
        self.process.start()
        there.close()

    @staticmethod
    def build(folder: Path, there: Connection, *, slow: bool) -> None:
        decode = Source.decode

        def noted(source: Source) -> ImageU8:
            there.send("decodes")
            if slow:
                there.recv()
            return decode(source)

        Source.decode = noted  # type: ignore[method-assign]
        there.send(len(build_cache(folder, 2, progress=there.send)))

    def said(self) -> list[object]:
        """All until it has ended."""
        lines: list[object] = []
        with contextlib.suppress(EOFError):
            while True:
                lines.append(self.here.recv())
        self.process.join()
        return lines


def test_pairs_are_the_images_and_their_bicubic_halves(folder: Path, cache: TileCache) -> None:
    assert cache.names == ["a.png", "b.png", "inner/c.png"]
    assert cache.shapes == [(23, 30), (14, 15), (20, 18)]
    hr = np.asarray(Image.open(folder / "a.png"))[:46, :60]
    assert np.array_equal(cache.pair(0)[1], hr)
    assert np.array_equal(cache.pair(0)[0], resize(hr, 1 / 2))
    first = cache.offsets[1]
    assert np.array_equal(cache.storage.lr[:first].numpy(), cache.pair(0)[0].reshape(-1, 3))
    assert np.array_equal(cache.storage.hr[4 * first : 8 * first][: 28 * 30], cache.pair(1)[1].reshape(-1, 3))


def test_a_cache_is_built_once_and_again_when_the_folder_changes(
    folder: Path, cache: TileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = caches()
    with monkeypatch.context() as patched:
        patched.setattr(Source, "decode", None)
        assert len(build_cache(folder, 2)) == len(cache) == 3
    assert caches() == built
    Image.new("RGB", (32, 32)).save(folder / "d.png")
    assert len(build_cache(folder, 2)) == 4


def test_workers_build_the_same_cache(folder: Path, cache: TileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_ATTN_CACHE", os.environ["SPARSE_ATTN_CACHE"] + "2")
    other = build_cache(folder, 2, workers=2)
    assert other.root.parent != cache.root.parent
    assert (other.names, other.shapes) == (cache.names, cache.shapes)
    assert all((other.root / name).read_bytes() == (cache.root / name).read_bytes() for name in ("hr.bin", "lr_x2.bin"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_names_itself_and_leaves_nothing(folder: Path, workers: int) -> None:
    (folder / "bad.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DataError, match=r"^cannot read '.*bad\.png'"):
        build_cache(folder, 2, workers=workers)
    assert caches() == []


def test_images_of_a_pixel_are_no_training_data(tmp_path: Path) -> None:
    (tmp_path / "dots").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "dots" / "dot.png")
    with pytest.raises(DataError, match=r"no image in .*dots has 2 pixels a side"):
        build_cache(tmp_path / "dots", 2)
    assert caches() == []


def test_a_full_disk_is_said_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sparse_attn.data.cache.os.replace", full)
    with pytest.raises(DataError, match=r"cannot write the cache .* No space left .*SPARSE_ATTN_CACHE"):
        build_cache(folder, 2)
    assert caches() == []


def test_a_damaged_cache_is_named(folder: Path, cache: TileCache) -> None:
    with open(cache.root / "hr.bin", "r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"damaged: .*hr\.bin, expected \d+ bytes, got 100 bytes; delete .*x2-"):
        build_cache(folder, 2)
    (cache.root / "hr.bin").unlink()
    with pytest.raises(DataError, match=r"got no file"):
        TileCache(cache.root)


@forking
def test_of_two_processes_one_decodes_and_the_other_waits(folder: Path) -> None:
    first = Builder(folder, slow=True)
    assert first.here.recv() == "decodes"
    second = Builder(folder, slow=False)
    assert "waiting" in second.here.recv()
    for _ in range(3):
        first.here.send("go")
    assert first.said() == ["decodes", "decodes", 3]
    assert second.said() == [3]
    assert first.process.exitcode == second.process.exitcode == 0 and len(caches()) == 1


@forking
def test_a_builder_that_is_killed_leaves_its_place_to_the_next(folder: Path) -> None:
    first = Builder(folder, slow=True)
    assert first.here.recv() == "decodes"
    (left,) = caches()
    assert left.name.startswith("building-")
    first.process.kill()
    assert first.said() == []
    assert len(build_cache(folder, 2)) == 3
    assert [path.name.startswith("x2-") for path in caches()] == [True]


def test_without_locks_both_build_and_one_rename_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has none: the second finishes while the first is at work."""
    replace, calls = os.replace, []

    def racing(source: Path, target: Path) -> None:
        if not calls:
            calls.append(source)
            assert len(build_cache(folder, 2)) == 3
        replace(source, target)

    @contextlib.contextmanager
    def unlocked(*_: object) -> Iterator[bool]:
        yield False

    monkeypatch.setattr("sparse_attn.data.cache._alone", unlocked)
    monkeypatch.setattr("sparse_attn.data.cache.os.replace", racing)
    assert len(build_cache(folder, 2)) == 3
    assert len(calls) == 1 and len(caches()) == 1


def test_a_file_system_without_locks_is_no_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert len(build_cache(folder, 2)) == 3


def test_threads_of_one_process_wait_for_one_another(folder: Path) -> None:
    built: list[TileCache] = []
    threads = [threading.Thread(target=lambda: built.append(build_cache(folder, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(cache) for cache in built] == [3, 3, 3] and len(caches()) == 1
