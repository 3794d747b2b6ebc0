"""One file over HTTP into a `.part` file that survives: a later request goes on where it ends.

`Range` asks for the rest, and `If-Range` for the whole where the file has changed; what is known of it lies beside the
part as `.part.json`.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparse_attn.data.catalogue import Archive
from sparse_attn.errors import DataError

Progress = Callable[[str, int, int | None], None]

_CHUNK = 2**20
_TIMEOUT = 30.0
# Without a byte more, one after another; each pause is twice as long as the one before.
_TRIES = 5
_PAUSE = 0.25
_LATER = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
_ELSEWHERE = "name a mirror with --mirror, or get the file elsewhere and put it into .downloads/"


def fetch(archive: Archive, url: str, part: Path, progress: Progress) -> None:
    """Gets what is missing of an archive; after a line that broke, tries again as long as that brings something.

    Args:
        archive: what; a response of another size than its is refused.
        url: where from.
        part: the file that it is saved in, or its beginning has been.
        progress: called with what is done, bytes done and bytes of all, if that is known.

    Raises:
        DataError: no such server or file, a broken line, a full disk; the part is kept.
    """
    tries, most = 0, _length(part)
    while True:
        try:
            _get(archive, url, part, progress)
            return
        except DataError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in _LATER:
                raise DataError(f"cannot fetch {url}: {reason}", remedy=_ELSEWHERE) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        have = _length(part)
        tries, most = (0, have) if have > most else (tries + 1, most)
        if tries == _TRIES:
            kept = f"; {have} bytes are kept, and the same command goes on from there" if have else ""
            raise DataError(f"cannot fetch {url}: {reason}", remedy=f"check the network, or {_ELSEWHERE}{kept}")
        time.sleep(_PAUSE * 2**tries)


def _get(archive: Archive, url: str, part: Path, progress: Progress) -> None:
    """One request, and all that it brings."""
    notes = part.with_name(part.name + ".json")
    known = _read_notes(notes, url, archive) if part.is_file() else None
    have = _length(part) if known is not None else 0
    if known is not None and known["size"] == have:
        return
    headers = {"User-Agent": "sparse-attn"}
    if known is not None and have:
        headers["Range"] = f"bytes={have}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        discard(part)
        raise ConnectionError("the file there has changed") from error
    with response:
        start, total = _extent(response)
        _check_kind(archive, url, response, total)
        if start and (start != have or known is None or known["size"] not in (None, total)):
            discard(part)
            raise ConnectionError("the file there has changed")
        _check_room(part, (total or 0) - start)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = response.headers.get("Last-Modified")
        with _writing(part):
            notes.write_text(json.dumps({"url": url, "validator": validator, "size": total}))
        done = _save(response, part, start, lambda done: progress(f"fetching {archive.name}", done, total))
    if total is not None and done < total:
        raise ConnectionError(f"the line broke after {done} of {total} bytes")


def _check_kind(archive: Archive, url: str, response: Any, total: int | None) -> None:
    """Refuses what cannot be the archive before anything is overwritten: a log-in page may have any address."""
    kind = response.headers.get_content_type()
    if kind == "text/html" or (archive.size is not None and total not in (None, archive.size)):
        raise DataError(
            f"{url} is not the file that is wanted",
            expected="an archive" if archive.size is None else f"{archive.size} bytes",
            got=f"{total} bytes of {kind}",
            remedy=_ELSEWHERE,
        )


def _save(response: Any, part: Path, start: int, progress: Callable[[int], None]) -> int:
    """Writes what comes from byte `start` on; returns the length of the file."""
    done = start
    with contextlib.ExitStack() as stack:
        with _writing(part):
            file = stack.enter_context(open(part, "ab" if start else "wb"))
        progress(done)
        while chunk := response.read(_CHUNK):
            with _writing(part):
                file.write(chunk)
                file.flush()
            done += len(chunk)
            progress(done)
    return done


def _extent(response: Any) -> tuple[int, int | None]:
    """Where in the file a response begins, and how long the file is."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None:
            raise ConnectionError("the server's Content-Range makes no sense")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _read_notes(notes: Path, url: str, archive: Archive) -> dict[str, Any] | None:
    """What is known of the file that a part is of; None if that is nothing.

    Of another place only the size is, and nothing if there is no checksum that could tell two files apart.
    """
    try:
        known: dict[str, Any] = json.loads(notes.read_text())
        if known["url"] == url:
            return {"validator": known["validator"], "size": known["size"]}
        return {"validator": None, "size": known["size"]} if archive.sha256 or archive.md5 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_room(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        with _writing(part):
            raise OSError(errno.ENOSPC, f"{missing} bytes are missing, {free} are free on the disk")


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Tells this machine's troubles from the network's."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write {part}: {error.strerror or error}",
            remedy="make room, or use another folder; what has been got is kept",
        ) from error


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def discard(part: Path) -> None:
    """Removes a part, and what is known of it."""
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".json").unlink(missing_ok=True)
