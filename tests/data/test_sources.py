"""A folder of any images: what is found in it, how it is read, and what is said of what cannot be."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sparse_attn.data import iter_images
from sparse_attn.errors import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def colours(height: int = 11, width: int = 13, planes: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, planes), np.uint8)


def only(folder: Path) -> NDArray[np.uint8]:
    ((_, image),) = iter_images(folder)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return image


def test_nested_folders_other_files_and_hidden_ones(pictures: Path) -> None:
    image = Image.fromarray(colours())
    for name in ("b.PNG", "a/b.png", "a/c/d.bmp", ".trash/e.png", "a/._b.png", "folder.png/f.tiff"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(pictures / name)
    for name in ("notes.txt", "a/source.json", "noending"):
        (pictures / name).write_text("no image")
    names = [name for name, _ in iter_images(pictures)]
    assert names == ["a/b.png", "a/c/d.bmp", "b.PNG", "folder.png/f.tiff"]


def test_links_are_followed_once(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(colours()).save(tmp_path / "elsewhere" / "a.png")
    (pictures / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(pictures)
    assert [name for name, _ in iter_images(pictures)] == ["linked/a.png"]


def test_a_link_to_nothing_is_named(pictures: Path) -> None:
    (pictures / "gone.png").symlink_to(pictures / "nowhere")
    with pytest.raises(DataError, match=r"cannot read '.*gone\.png': No such file"):
        list(iter_images(pictures))


def test_grey_is_repeated(pictures: Path) -> None:
    grey = colours(planes=1)[..., 0]
    Image.fromarray(grey).save(pictures / "grey.png")
    assert np.array_equal(only(pictures), np.stack([grey] * 3, axis=2))


def test_alpha_is_left_out(pictures: Path) -> None:
    pixels = colours(planes=4)
    Image.fromarray(pixels).save(pictures / "alpha.png")
    assert np.array_equal(only(pictures), pixels[..., :3])


def test_sixteen_bits_are_rounded_to_eight(pictures: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (11, 13), np.uint16)
    Image.fromarray(values).save(pictures / "deep.png")
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(only(pictures)[..., 1], expected)


def test_exif_turns_the_image(pictures: Path) -> None:
    pixels = colours()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(pictures / "turned.png", exif=exif)
    assert np.array_equal(only(pictures), np.rot90(pixels, -1))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n not really", b"plain text"])
def test_an_unreadable_image_is_named(pictures: Path, content: bytes) -> None:
    Image.fromarray(colours()).save(pictures / "a.png")
    (pictures / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg.*; remove or replace it"):
        list(iter_images(pictures))


def test_members_of_a_shard(pictures: Path, tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.fromarray(colours()).save(encoded, "PNG")
    with tarfile.open(pictures / "shard.tar", "w") as shard:
        for name in ("z/a.png", "b.png", "._b.png", "notes.txt", "inner.tar"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded.getvalue())
            shard.addfile(member, io.BytesIO(encoded.getvalue()))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../../etc/passwd"
        shard.addfile(link)
    found = dict(iter_images(pictures))
    assert list(found) == ["b.png", "z/a.png"]
    assert all(np.array_equal(image, colours()) for image in found.values())


def test_a_bad_member_is_named_with_its_shard(pictures: Path) -> None:
    with tarfile.open(pictures / "shard.tar", "w") as shard:
        member = tarfile.TarInfo("bad.png")
        member.size = 4
        shard.addfile(member, io.BytesIO(b"text"))
    with pytest.raises(DataError, match=r"shard\.tar:bad\.png"):
        list(iter_images(pictures))


def test_a_shard_without_images_and_one_that_is_none(pictures: Path) -> None:
    tarfile.open(pictures / "empty.tar", "w").close()
    with pytest.raises(DataError, match=r"no images .* in .*pictures"):
        list(iter_images(pictures))
    with tarfile.open(pictures / "packed.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"cannot read shard .*packed\.tar, expected an uncompressed tar"):
        list(iter_images(pictures))


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder of images.*nowhere"):
        list(iter_images(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images .* in .*empty"):
        list(iter_images(tmp_path / "empty"))
