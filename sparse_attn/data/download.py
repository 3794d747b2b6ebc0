"""Archives, fetched and held to their checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sparse_attn.data.catalogue import Archive
from sparse_attn.data.transfer import Progress, discard, fetch
from sparse_attn.errors import DataError

_CHUNK = 2**20


def download(
    archive: Archive, target: Path, *, url: str | None = None, progress: Progress = lambda what, done, total: None
) -> str:
    """Fetches an archive to `target`, unless it is there, and checks it.

    Until it is whole it is `target` with `.part` added. The next call goes on with that, if the server can and still
    has the same file (`Range`, `If-Range`), and starts again otherwise.

    Args:
        archive: what, with the size and checksums it must have.
        target: a file; its folder exists.
        url: where from, if not the official place.
        progress: called with what is done, bytes done and bytes of all, if that is known.

    Returns:
        The file's SHA-256.

    Raises:
        DataError: no such server or file, a broken line, a full disk; a file of another size or checksum.
    """
    if target.is_file():
        return _check(archive, target, progress, remedy=f"delete {target} to fetch it")
    part = target.with_name(target.name + ".part")
    # A part of before may be the beginning of another file: then once more, from the start.
    for again in (part.is_file(), False):
        fetch(archive, url or archive.url, part, progress)
        try:
            digest = _check(archive, part, progress, remedy="the file there may have changed, or the line be bad")
        except DataError:
            discard(part)
            if not again:
                raise
        else:
            break
    part.replace(target)
    discard(part)
    return digest


def _check(archive: Archive, file: Path, progress: Progress, *, remedy: str) -> str:
    """The SHA-256 of a file that has the size and the checksums it must have."""
    size = file.stat().st_size
    if archive.size not in (None, size):
        raise DataError(f"{archive.name} has the wrong size", expected=f"{archive.size} bytes", got=size, remedy=remedy)
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    wanted = {"sha256": archive.sha256, "md5": archive.md5}
    used = {name: digest for name, digest in digests.items() if name == "sha256" or wanted[name] is not None}
    done = 0
    with open(file, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            for digest in used.values():
                digest.update(chunk)
            done += len(chunk)
            progress(f"checking {archive.name}", done, size)
    for name, digest in used.items():
        if wanted[name] not in (None, digest.hexdigest()):
            raise DataError(
                f"{archive.name} has the wrong {name}", expected=wanted[name], got=digest.hexdigest(), remedy=remedy
            )
    return digests["sha256"].hexdigest()
