"""Fetching one file from a server that is well, broken, or has something else by now."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_attn.data import transfer
from sparse_attn.data.catalogue import Archive
from sparse_attn.data.download import download
from sparse_attn.errors import DataError
from tests.data.server import Served, Server

CONTENT = bytes(range(256)) * 41
OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.files["file.zip"] = Served(CONTENT)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to" / "file.zip"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(server: Server, content: bytes = CONTENT, **changed: Any) -> Archive:
    known = {"size": len(content), "sha256": sha256(content), "md5": hashlib.md5(content).hexdigest()}
    return Archive(url=f"{server.url}/file.zip", **{**known, **changed})


def unknown(server: Server) -> Archive:
    return Archive(url=f"{server.url}/file.zip")


def leave_part(server: Server, target: Path, bytes_got: int = 1000) -> None:
    """As an interrupted download does."""
    server.files["file.zip"].broken, server.files["file.zip"].status = [bytes_got], [None, 404]
    with pytest.raises(DataError, match="404"):
        download(unknown(server), target)
    server.requests.clear()
    assert target.with_name("file.zip.part").stat().st_size == bytes_got


def test_a_file_is_fetched_and_nothing_else_is_left(server: Server, target: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    assert download(archive(server), target, progress=lambda *now: seen.append(now)) == sha256(CONTENT)
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["file.zip"]
    size = len(CONTENT)
    assert seen == [
        ("fetching file.zip", 0, size),
        ("fetching file.zip", size, size),
        ("checking file.zip", size, size),
    ]
    assert download(archive(server), target) == sha256(CONTENT)
    assert len(server.requests) == 1


@pytest.mark.parametrize("etag", ['"1"', None, 'W/"1"'])
def test_a_broken_line_is_gone_on_with(server: Server, target: Path, etag: str | None) -> None:
    server.files["file.zip"].broken = [700, 0, 300]
    server.files["file.zip"].etag = etag
    download(archive(server), target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=700-", "bytes=700-", "bytes=1000-"]


def test_a_server_without_ranges_starts_again(server: Server, target: Path) -> None:
    server.files["file.zip"].ranges = False
    server.files["file.zip"].broken = [700, 300]
    download(archive(server), target)
    assert target.read_bytes() == CONTENT


def test_without_a_length_the_end_is_the_end(server: Server, target: Path) -> None:
    server.files["file.zip"].length = False
    download(unknown(server), target)
    assert target.read_bytes() == CONTENT


def test_a_line_that_brings_nothing_more_is_given_up_and_what_it_brought_is_kept(server: Server, target: Path) -> None:
    server.files["file.zip"].broken = [700] + [0] * 5
    with pytest.raises(DataError, match=r"the line broke after 700 of 10496 bytes.*700 bytes are kept"):
        download(archive(server), target)
    assert len(server.requests) == 6
    server.requests.clear()
    download(archive(server), target)
    assert target.read_bytes() == CONTENT and server.requests == [("file.zip", "bytes=700-")]


def test_a_later_call_goes_on(server: Server, target: Path) -> None:
    leave_part(server, target)
    assert download(archive(server), target) == sha256(CONTENT)
    assert server.requests == [("file.zip", "bytes=1000-")]


def test_all_of_a_file_is_not_asked_for_again(server: Server, target: Path) -> None:
    leave_part(server, target)
    target.with_name("file.zip.part").write_bytes(CONTENT)
    download(archive(server), target)
    assert server.requests == []


@pytest.mark.parametrize(("etag", "content"), [('"2"', OTHER), ('"2"', OTHER[:-7]), (None, OTHER[:-7])])
def test_a_file_that_has_changed_is_fetched_from_its_start(
    server: Server, target: Path, etag: str | None, content: bytes
) -> None:
    leave_part(server, target)
    server.files["file.zip"] = Served(content, etag=etag)
    notes = target.with_name("file.zip.part.json")
    if etag is None:
        notes.write_text(json.dumps({**json.loads(notes.read_text()), "validator": None}))
    assert download(unknown(server), target) == sha256(content)


def test_a_file_that_has_become_shorter_than_what_was_got(server: Server, target: Path) -> None:
    leave_part(server, target)
    server.files["file.zip"] = Served(OTHER[:500])
    assert download(unknown(server), target) == sha256(OTHER[:500])
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]


def test_two_halves_of_different_files_do_not_pass(server: Server, target: Path) -> None:
    """Nothing but the checksum tells: same length, same ETag."""
    leave_part(server, target)
    server.files["file.zip"] = Served(OTHER)
    assert download(archive(server, OTHER), target) == sha256(OTHER)
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", None]


def test_another_place_goes_on_where_there_is_a_checksum(server: Server, target: Path) -> None:
    leave_part(server, target)
    server.files["mirror/file.zip"] = Served(CONTENT, etag='"of the mirror"')
    assert download(archive(server), target, url=f"{server.url}/mirror/file.zip") == sha256(CONTENT)
    assert server.requests == [("mirror/file.zip", "bytes=1000-")]


def test_another_place_starts_again_where_there_is_none(server: Server, target: Path) -> None:
    leave_part(server, target)
    server.files["mirror/file.zip"] = Served(OTHER)
    assert download(unknown(server), target, url=f"{server.url}/mirror/file.zip") == sha256(OTHER)
    assert server.requests == [("mirror/file.zip", None)]


def test_no_such_file_is_said_at_once(server: Server, target: Path) -> None:
    del server.files["file.zip"]
    with pytest.raises(DataError, match=r"cannot fetch http://.*/file\.zip: HTTP 404 Not Found; name a mirror"):
        download(archive(server), target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, target: Path, status: int) -> None:
    server.files["file.zip"].status = [status, status]
    download(archive(server), target)
    assert target.read_bytes() == CONTENT and len(server.requests) == 3


def test_no_server(target: Path) -> None:
    with Server() as gone:
        address = gone.url
    with pytest.raises(DataError, match=r"Connection refused; check the network, or name a mirror"):
        download(Archive(url=f"{address}/file.zip"), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum(server: Server, target: Path, kind: str) -> None:
    wanted = "0" * 64
    with pytest.raises(DataError, match=rf"file\.zip has the wrong {kind}, expected 0000.*, got [0-9a-f]{{32}}"):
        download(archive(server, **{kind: wanted}), target)
    assert list(target.parent.iterdir()) == [] and len(server.requests) == 1


def test_a_wrong_checksum_of_a_file_that_was_there(server: Server, target: Path) -> None:
    target.write_bytes(OTHER)
    with pytest.raises(DataError, match=r"wrong sha256.*; delete .*file\.zip to fetch it"):
        download(archive(server), target)
    assert target.read_bytes() == OTHER and server.requests == []
    target.write_bytes(OTHER[:-1])
    with pytest.raises(DataError, match=r"wrong size, expected 10496 bytes, got 10495"):
        download(archive(server), target)


def test_what_cannot_be_the_file_does_not_touch_what_was_got(server: Server, target: Path) -> None:
    leave_part(server, target)
    part = target.with_name("file.zip.part")
    server.files["file.zip"] = Served(OTHER[:99], etag='"2"')
    with pytest.raises(DataError, match=r"is not the file that is wanted, expected 10496 bytes, got 99 bytes"):
        download(archive(server), target)
    server.files["file.zip"] = Served(b"<html>log in first", kind="text/html; charset=utf-8", etag=None)
    with pytest.raises(DataError, match=r"expected an archive, got 18 bytes of text/html"):
        download(unknown(server), target)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(DataError, match=r"cannot write .*10496 bytes are missing, 10495 are free .*make room"):
        download(archive(server), target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_in_the_middle(server: Server, target: Path) -> None:
    target.with_name("file.zip.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"cannot write .*\.part: No space left"):
        download(archive(server), target)
    assert len(server.requests) == 1
