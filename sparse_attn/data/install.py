"""From archives to folders of images: whole or not at all, and only what belongs there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from sparse_attn.data.catalogue import Archive, Dataset, Part
from sparse_attn.data.download import download
from sparse_attn.data.transfer import Progress
from sparse_attn.errors import ConfigError, DataError

DOWNLOADS = ".downloads"
_CHECKSUMS = "checksums.json"
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError)


def install(
    datasets: list[Dataset],
    root: Path,
    *,
    mirror: str | None = None,
    keep: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Fetches, checks and unpacks what is not there yet.

    Archives are in `.downloads/` until all that is made of them is; one that was there before, however it got there,
    is checked and used, and stays.

    Args:
        datasets: which.
        root: the data folder; made where there is none.
        mirror: the address of a folder that holds the archives by their names, instead of the official places.
        keep: whether archives stay.
        say: called with a line of text now and then.
        progress: called with what is done, bytes or files done, and of how many, if that is known.

    Raises:
        ConfigError: a mirror that is no HTTP address.
        DataError: a folder of that name that holds something else; whatever `download` raises; an archive that is
            damaged or does not hold what it should; a full disk.
    """
    if mirror is not None and not re.match(r"https?://.", mirror):
        raise ConfigError("bad mirror", expected="an address: http://... or https://...", got=repr(mirror))
    missing = []
    for part in (part for dataset in datasets for part in dataset.parts):
        if _is_complete(part, root):
            say(f"{root / part.folder} is complete")
        else:
            missing.append(part)
    if not missing:
        return
    with _alone(root) as downloads:
        for archive in dict.fromkeys(part.archive for part in missing):
            file = downloads / archive.name
            keep_this = keep or file.is_file()
            _download(archive, file, mirror, say, progress)
            for part in missing:
                if part.archive == archive and not _is_complete(part, root):
                    _unpack(part, file, root, progress)
                    say(f"{root / part.folder}: {_described(part)}")
            if keep_this:
                say(f"{file} is kept")
            else:
                file.unlink()


def _described(part: Part) -> str:
    return ", ".join(f"{pick.count} images{'' if pick.folder == '.' else f' in {pick.folder}'}" for pick in part.picks)


def _is_complete(part: Part, root: Path) -> bool:
    """Whether a part is there.

    Raises:
        DataError: a folder of its name is, and holds something else.
    """
    place = root / part.folder
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    for pick in part.picks:
        found = len(list((place / pick.folder).glob("*.png")))
        if found != pick.count:
            raise DataError(
                f"{place} is there, but not complete",
                expected=f"{pick.count} .png files in {place / pick.folder}",
                got=found,
                remedy="move it away, and it is fetched again",
            )
    return True


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[Path]:
    """The folder for downloads, for this process only."""
    from filelock import FileLock, Timeout

    downloads = root / DOWNLOADS
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make folder {downloads}: {error.strerror}") from error
    lock = FileLock(downloads / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"another process is fetching data into {root}", remedy="wait for it") from error
    try:
        for left in downloads.glob("unpacking-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield downloads
    finally:
        lock.release()


def _download(archive: Archive, file: Path, mirror: str | None, say: Callable[[str], None], progress: Progress) -> None:
    """Fetches an archive; where no SHA-256 is published, the one of the first time is held against later ones."""
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"
    say(f"{file} is there" if file.is_file() else f"fetching {url}")
    notes = file.with_name(_CHECKSUMS)
    recorded: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        recorded = json.loads(notes.read_text())
    wanted = archive.sha256 or recorded.get(archive.name)
    digest = download(replace(archive, sha256=wanted), file, url=url, progress=progress)
    if archive.sha256 is None:
        held = "as recorded before" if wanted else "none is published, so it is recorded"
        say(f"{archive.name} has SHA-256 {digest}; {held}")
        notes.write_text(json.dumps({**recorded, archive.name: digest}, indent=2) + "\n")


def _unpack(part: Part, file: Path, root: Path, progress: Progress) -> None:
    """Makes a part's folder: beside the archive first, then renamed, so that it is whole or not there.

    Names of folders are never taken from the archive, and of files only what a pick's group matches.
    """
    work = Path(tempfile.mkdtemp(dir=file.parent, prefix="unpacking-"))
    expected, done = sum(pick.count for pick in part.picks), 0
    try:
        # A temporary folder is its owner's only; this one becomes data that others may read.
        work.chmod(0o755)
        for pick in part.picks:
            (work / pick.folder).mkdir(parents=True, exist_ok=True)
        for name, content in _members(file):
            for pick in part.picks:
                found = re.fullmatch(pick.members, name)
                if found is not None:
                    with content() as source, open(work / pick.folder / f"{found[1]}.png", "xb") as target:
                        shutil.copyfileobj(source, target, 2**20)
                    done += 1
                    progress(f"unpacking {part.folder}", done, expected)
        _check_counts(part, work, file)
        place = root / part.folder
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(work, place)
    except DataError:
        raise
    except FileExistsError as error:
        raise _damaged(file, f"two members for {error.filename}") from error
    except OSError as error:
        raise DataError(
            f"cannot unpack {file}: {error.strerror or error}", remedy="make room; the archive is kept"
        ) from error
    except _BROKEN as error:
        raise _damaged(file, str(error) or type(error).__name__) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _members(file: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Names and contents of a `.zip` or `.tar` file's regular files; links and devices are none."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: zipped.open(info)  # type: ignore[misc]
        return
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                # Each opening begins at the start, so that a member may be picked several times.
                yield member.name, lambda member=member: archive.extractfile(member)  # type: ignore[misc]


def _check_counts(part: Part, work: Path, file: Path) -> None:
    for pick in part.picks:
        found = len(list((work / pick.folder).iterdir()))
        if found != pick.count:
            raise DataError(
                f"{file.name} does not hold what it should",
                expected=f"{pick.count} files like {pick.members}",
                got=found,
                remedy=f"delete {file} to fetch it again, or name a mirror",
            )


def _damaged(file: Path, reason: str) -> DataError:
    return DataError(f"{file} is damaged: {reason}", remedy="delete it to fetch it again")
