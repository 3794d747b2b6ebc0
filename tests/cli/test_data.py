"""`sparse-attn data`: what it lists, and how fetching ends."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_attn.data import transfer
from sparse_attn.data.catalogue import CATALOGUE, Archive, Dataset, Part, Pick
from tests.cli.conftest import Command
from tests.data.server import Served, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With the data set `toy`, which is in the catalogue for the time being."""
    for variable in ("SPARSE_ATTN_DATA", "SPARSE_ATTN_DATA_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("Toy/1.png", b"one")
        archive.writestr("Toy/2.png", b"two")
    content = file.getvalue()
    with Server() as server:
        server.files["toy.zip"] = Served(content)
        known = Archive(url=f"{server.url}/toy.zip", size=len(content), sha256=hashlib.sha256(content).hexdigest())
        parts = (Part("Toy", known, (Pick(r"Toy/(\d)\.png", ".", 2),)),)
        toy = Dataset(name="toy", title="Toy", images="2", paper="none", terms="None.", parts=parts)
        monkeypatch.setitem(CATALOGUE, "toy", toy)
        yield server


def test_list(command: Command) -> None:
    outcome = command("data", "list")
    assert (outcome.code, outcome.errors) == (0, [])
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == list(CATALOGUE)
    assert lines[1].endswith("3.98 GB") and lines[2].endswith("not published")
    for entry in CATALOGUE.values():
        assert f"  {entry.terms}" in lines and f"  {entry.parts[0].archive.url}" in lines


def test_list_as_json(command: Command) -> None:
    records = json.loads(command("data", "list", "--json").out)
    assert [record["name"] for record in records] == list(CATALOGUE)
    assert records[0]["parts"][1]["archive"]["size"] == 448_993_893


def test_get(command: Command, server: Server, tmp_path: Path) -> None:
    outcome = command("data", "get", "TOY", "toy")
    assert (outcome.code, outcome.errors) == (0, [])
    assert outcome.out.splitlines() == [f"fetching {server.url}/toy.zip", "data/Toy: 2 images"]
    assert (tmp_path / "data" / "Toy" / "2.png").read_bytes() == b"two"
    assert command("data", "get", "toy").out == "data/Toy is complete\n"
    assert len(server.requests) == 1


def test_folder_and_mirror_from_the_environment_and_by_option(
    command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["mirror/toy.zip"] = server.files.pop("toy.zip")
    monkeypatch.setenv("SPARSE_ATTN_DATA_MIRROR", f"{server.url}/mirror")
    monkeypatch.setenv("SPARSE_ATTN_DATA", str(tmp_path / "one"))
    assert command("data", "get", "toy").code == 0
    server.files["other/toy.zip"] = server.files.pop("mirror/toy.zip")
    assert command("data", "get", "toy", "--to", "two", "--mirror", f"{server.url}/other", "--keep").code == 0
    assert (tmp_path / "one/Toy/1.png").is_file() and (tmp_path / "two/Toy/1.png").is_file()
    assert (tmp_path / "two/.downloads/toy.zip").is_file() and not (tmp_path / "one/.downloads/toy.zip").exists()


def test_failures_are_one_line_and_a_code(command: Command, server: Server, tmp_path: Path) -> None:
    assert command("data", "get", "set6").errors[0].startswith("error: unknown data set 'set6'; did you mean set5")
    server.files["toy.zip"].content = b"x" * len(server.files["toy.zip"].content)
    wrong = command("data", "get", "toy")
    assert wrong.code == 1 and len(wrong.errors) == 1 and "toy.zip has the wrong sha256" in wrong.errors[0]
    del server.files["toy.zip"]
    missing = command("data", "get", "toy")
    assert missing.code == 1 and len(missing.errors) == 1 and "HTTP 404" in missing.errors[0]
    assert command("data", "get", "toy", "--mirror", "ftp://x").errors[0].startswith("error: bad mirror")
    assert not (tmp_path / "data" / "Toy").exists()


def test_an_interruption_keeps_what_was_got(
    command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    server.files["toy.zip"].broken = [50]
    with monkeypatch.context() as patched:
        patched.setattr("sparse_attn.data.transfer.time.sleep", pressed)
        outcome = command("data", "get", "toy")
    assert (outcome.code, outcome.errors) == (130, ["error: interrupted"])
    assert command("data", "get", "toy").code == 0
    assert server.requests[-1] == ("toy.zip", "bytes=50-")
