"""From archives to folders: whole or not at all, and nothing that does not belong there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_attn.data import iter_images, transfer
from sparse_attn.data.catalogue import CATALOGUE, Archive, Dataset, Part, Pick, find_dataset
from sparse_attn.data.install import install
from sparse_attn.errors import ConfigError, DataError, UnknownNameError
from sparse_attn.evaluation import evaluate
from sparse_attn.imaging import resize
from tests.data.server import Served, Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)
    with Server() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def encoded(height: int = 34, width: int = 29, *, seed: int = 0, shrink: int = 1) -> bytes:
    """A smooth picture as PNG, cropped to a multiple of `shrink` and made smaller by it."""
    pixels = resize(np.random.default_rng(seed).integers(0, 256, (7, 5, 3), np.uint8), size=(height, width))
    pixels = pixels[: height - height % shrink, : width - width % shrink]
    file = io.BytesIO()
    Image.fromarray(pixels if shrink == 1 else resize(pixels, 1 / shrink)).save(file, "PNG")
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def serve(server: Server, name: str, content: bytes) -> Archive:
    server.files[name] = Served(content)
    return Archive(url=f"{server.url}/{name}", size=len(content), sha256=hashlib.sha256(content).hexdigest())


def dataset(*parts: Part) -> Dataset:
    return Dataset(name="toy", title="Toy", images="few", paper="none", terms="none", parts=parts)


def photos(server: Server, count: int = 3, members: dict[str, bytes] | None = None) -> Dataset:
    """A training set in a `.zip`."""
    if members is None:
        members = {f"Toy_HR/{i:04d}.png": encoded(seed=i) for i in range(3)}
    archive = serve(server, "toy.zip", zipped({"Toy_HR/": b"", **members}))
    return dataset(Part("Toy/train", archive, (Pick(r"Toy_HR/(\d{4})\.png", ".", count),)))


def pairs(server: Server) -> list[Dataset]:
    """Two benchmark sets in one `.tar`, as the catalogue describes it."""
    members = {"benchmark/readme.txt": b"hello"}
    for title, count in (("Set5", 5), ("Set14", 14)):
        for i in range(count):
            members[f"benchmark/{title}/HR/img-{i}.png"] = encoded(seed=i)
            for scale in (2, 3, 4):
                name = f"benchmark/{title}/LR_bicubic/X{scale}/img-{i}x{scale}.png"
                members[name] = encoded(seed=i, shrink=scale)
    archive = serve(server, "benchmark.tar", tarred(members))
    known = [CATALOGUE["set5"], CATALOGUE["set14"]]
    return [replace(one, parts=tuple(replace(part, archive=archive) for part in one.parts)) for one in known]


def below(folder: Path) -> set[str]:
    """All files, the lock left out."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {".downloads/lock"}


def test_a_training_set_becomes_a_folder_of_images(server: Server, root: Path) -> None:
    said: list[str] = []
    seen: list[tuple[str, int, int | None]] = []
    wanted = photos(server)
    install([wanted], root, say=said.append, progress=lambda *now: seen.append(now))
    assert below(root) == {f"Toy/train/{i:04d}.png" for i in range(3)}
    assert [name for name, _ in iter_images(root / "Toy" / "train")] == [f"{i:04d}.png" for i in range(3)]
    assert (root / "Toy/train/0001.png").read_bytes() == encoded(seed=1)
    assert said == [f"fetching {server.url}/toy.zip", f"{root}/Toy/train: 3 images"]
    assert seen[-1] == ("unpacking Toy/train", 3, 3)
    assert (root / "Toy/train").stat().st_mode & 0o777 == 0o755


def test_a_second_run_does_nothing(server: Server, root: Path) -> None:
    said: list[str] = []
    wanted = photos(server)
    install([wanted], root)
    before = {path: (root / path).stat().st_mtime_ns for path in below(root)}
    install([wanted], root, say=said.append)
    assert said == [f"{root}/Toy/train is complete"] and len(server.requests) == 1
    assert {path: (root / path).stat().st_mtime_ns for path in below(root)} == before


def test_benchmark_sets_are_laid_out_as_evaluate_reads_them(server: Server, root: Path) -> None:
    install(pairs(server), root)
    assert len(server.requests) == 1
    folders = {
        f"eval/{title}/x{scale}/{size}" for title in ("Set5", "Set14") for scale in (2, 3, 4) for size in ("HR", "LR")
    }
    assert {os.path.dirname(path) for path in below(root)} == folders
    assert len(below(root)) == (5 + 14) * 6
    for scale in (2, 3, 4):
        result = evaluate("bicubic", root / "eval" / "Set5" / f"x{scale}", scale=scale)
        made = evaluate("bicubic", root / "eval" / "Set5" / f"x{scale}", scale=scale, make_lr=True)
        assert [image.name for image in result.images] == [f"img-{i}.png" for i in range(5)]
        assert result.psnr == made.psnr


def test_what_is_missing_of_a_shared_archive_is_unpacked(server: Server, root: Path) -> None:
    one, other = pairs(server)
    install([one], root, keep=True)
    assert ".downloads/benchmark.tar" in below(root)
    install([one, other], root)
    assert len(server.requests) == 1
    assert (root / "eval/Set14/x4/LR").is_dir() and ".downloads/benchmark.tar" in below(root)


def test_an_archive_put_there_by_hand_is_used_and_stays(server: Server, root: Path) -> None:
    wanted = photos(server)
    (root / ".downloads").mkdir(parents=True)
    (root / ".downloads" / "toy.zip").write_bytes(server.files["toy.zip"].content)
    install([wanted], root)
    assert server.requests == [] and ".downloads/toy.zip" in below(root)


def test_a_mirror(server: Server, root: Path) -> None:
    wanted = photos(server)
    server.files = {"some/where/toy.zip": server.files["toy.zip"]}
    install([wanted], root, mirror=f"{server.url}/some/where/")
    assert len(below(root)) == 3
    with pytest.raises(ConfigError, match=r"bad mirror, expected an address: http"):
        install([wanted], root, mirror="/some/where")


def test_an_interrupted_download_is_gone_on_with(server: Server, root: Path) -> None:
    wanted = photos(server)
    server.files["toy.zip"].broken, server.files["toy.zip"].status = [100], [None, 404]
    with pytest.raises(DataError, match="404"):
        install([wanted], root)
    assert below(root) == {".downloads/toy.zip.part", ".downloads/toy.zip.part.json"}
    install([wanted], root)
    assert server.requests[-1] == ("toy.zip", "bytes=100-")
    assert len(below(root)) == 3


@pytest.mark.parametrize("count", [2, 4])
def test_a_wrong_count_leaves_the_archive_and_nothing_else(server: Server, root: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"toy\.zip does not hold what it should, expected {count} files .*, got 3"):
        install([photos(server, count)], root)
    assert below(root) == {".downloads/toy.zip"}


def test_a_damaged_archive_is_named(server: Server, root: Path) -> None:
    good = photos(server)
    content = server.files["toy.zip"].content
    damaged = content.replace(encoded(seed=1)[40:60], b"\0" * 20)
    for broken in (damaged, content[:-30], b"no archive"):
        server.files["toy.zip"].content = broken
        archive = replace(good.parts[0].archive, size=None, sha256=None)
        with pytest.raises(DataError, match=r"toy\.zip is damaged: .*; delete it to fetch it again"):
            install([dataset(replace(good.parts[0], archive=archive))], root)
        assert not (root / "Toy").exists()
        (root / ".downloads" / "toy.zip").unlink()
        (root / ".downloads" / "checksums.json").unlink()


def test_a_tar_that_was_cut_short_is_named(server: Server, root: Path) -> None:
    archive = serve(server, "toy.tar", tarred({"Toy/0001.png": encoded()})[:700])
    with pytest.raises(DataError, match=r"toy\.tar is damaged"):
        install([dataset(Part("Toy", archive, (Pick(r"Toy/(\d+)\.png", ".", 1),)))], root)
    assert below(root) == {".downloads/toy.tar"}


def test_nothing_leaves_the_folder(server: Server, root: Path, tmp_path: Path) -> None:
    """Whatever members are called, and whatever they point at."""
    evil = dict.fromkeys(("../evil.png", "/tmp/evil.png", "Toy_HR/../../0009.png", "Toy_HR/a/0008.png"), b"evil")
    install([photos(server, members={**evil, "Toy_HR/0001.png": encoded()}, count=1)], root)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (
            ("Two/0001.png", tarfile.SYMTYPE),
            ("Two/0002.png", tarfile.LNKTYPE),
            ("x", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../../../etc/passwd"
            archive.addfile(member)
        for name, content in {"../Two/0003.png": b"evil", "Two/0004.png": encoded()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    two = serve(server, "two.tar", file.getvalue())
    install([dataset(Part("Two", two, (Pick(r"Two/(\d+)\.png", ".", 1),)))], root)
    assert below(tmp_path) - {"data/.downloads/lock"} == {"data/Toy/train/0001.png", "data/Two/0004.png"}


def test_two_members_for_one_file(server: Server, root: Path) -> None:
    archive = serve(server, "toy.tar", tarred({"Toy/a/1.png": b"one", "Toy/b/1.png": b"two"}))
    with pytest.raises(DataError, match=r"two members for .*1\.png"):
        install([dataset(Part("Toy", archive, (Pick(r"Toy/./(\d+)\.png", ".", 2),)))], root)
    assert below(root) == {".downloads/toy.tar"}


def test_a_disk_that_is_full_keeps_the_archive(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    wanted = photos(server)
    with monkeypatch.context() as patched:
        patched.setattr("sparse_attn.data.install.shutil.copyfileobj", full)
        with pytest.raises(DataError, match=r"cannot unpack .*toy\.zip: No space left on device; make room"):
            install([wanted], root)
    assert below(root) == {".downloads/toy.zip"}
    install([wanted], root)
    assert len(server.requests) == 1


def test_until_its_last_step_a_folder_is_not_there(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file = os.replace

    def pressed(source: Path, target: Path) -> None:
        if target != root / "Toy" / "train":
            return replace_file(source, target)
        assert len(list(Path(source).iterdir())) == 3
        raise KeyboardInterrupt

    monkeypatch.setattr("sparse_attn.data.install.os.replace", pressed)
    with pytest.raises(KeyboardInterrupt):
        install([photos(server)], root)
    assert below(root) == {".downloads/toy.zip"}


def test_what_an_unpacking_that_was_killed_left_goes(server: Server, root: Path) -> None:
    (root / ".downloads" / "unpacking-abc" / "x2").mkdir(parents=True)
    (root / ".downloads" / "unpacking-abc" / "x2" / "half.png").touch()
    install([photos(server)], root)
    assert below(root) == {f"Toy/train/{i:04d}.png" for i in range(3)}


def test_a_folder_that_holds_something_else_is_not_touched(server: Server, root: Path) -> None:
    (root / "Toy" / "train").mkdir(parents=True)
    wanted = photos(server)
    (root / "Toy" / "train" / "mine.png").touch()
    with pytest.raises(DataError, match=r"Toy/train is there, but not complete, expected 3 .*, got 1; move it away"):
        install([wanted], root)
    assert below(root) == {"Toy/train/mine.png"} and server.requests == []
    (root / "Toy" / "train" / "mine.png").unlink()
    install([wanted], root)
    assert len(below(root)) == 3


def test_two_at_once(server: Server, root: Path) -> None:
    from filelock import FileLock

    (root / ".downloads").mkdir(parents=True)
    with FileLock(root / ".downloads" / "lock"), pytest.raises(DataError, match=r"another process is fetching data"):
        install([photos(server)], root)


def test_a_folder_that_cannot_be_made(server: Server, root: Path) -> None:
    root.touch()
    with pytest.raises(DataError, match=r"cannot make folder .*data/\.downloads"):
        install([photos(server)], root)


def test_without_a_published_checksum_the_first_one_is_recorded(server: Server, root: Path) -> None:
    known = photos(server)
    archive = replace(known.parts[0].archive, size=None, sha256=None)
    wanted, said = dataset(replace(known.parts[0], archive=archive)), []
    install([wanted], root, say=said.append)
    digest = known.parts[0].archive.sha256
    assert f"toy.zip has SHA-256 {digest}; none is published, so it is recorded" in said
    assert json.loads((root / ".downloads" / "checksums.json").read_text()) == {"toy.zip": digest}
    (root / "Toy").rename(root / "Old")
    install([wanted], root, say=said.append)
    assert said[-2] == f"toy.zip has SHA-256 {digest}; as recorded before"
    (root / "Toy").rename(root / "Older")
    server.files["toy.zip"].content += b"\0"
    with pytest.raises(DataError, match=rf"wrong sha256, expected {digest}"):
        install([wanted], root)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_the_catalogue_is_sound(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.name == name and entry.terms.endswith(".")
    for part in entry.parts:
        archive = part.archive
        assert re.fullmatch(r"https://.+\.(zip|tar)", archive.url) and (archive.sha256 or archive.md5)
        assert archive.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
        assert archive.md5 is None or re.fullmatch(r"[0-9a-f]{32}", archive.md5)
        assert all(re.compile(pick.members).groups == 1 for pick in part.picks)


def test_the_catalogue_has_what_the_field_has() -> None:
    counts = {pick.folder: pick.count for part in CATALOGUE["div2k"].parts for pick in part.picks}
    assert [part.picks[0].count for part in CATALOGUE["div2k"].parts] == [800, 100] and counts == {".": 100}
    assert CATALOGUE["flickr2k"].parts[0].picks[0].count == 2650
    for name, count in {"set5": 5, "set14": 14, "b100": 100, "urban100": 100}.items():
        (part,) = CATALOGUE[name].parts
        assert {pick.folder: pick.count for pick in part.picks} == {
            f"x{scale}/{size}": count for scale in (2, 3, 4) for size in ("HR", "LR")
        }


def test_names_are_found_in_any_case() -> None:
    assert find_dataset("DIV2K") is CATALOGUE["div2k"]
    with pytest.raises(UnknownNameError, match=r"unknown data set 'urban10'; did you mean urban100"):
        find_dataset("urban10")
