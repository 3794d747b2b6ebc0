"""Pictures that are not well: one clear ImageError line each, and nothing half written."""

import errno
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from sparse_attn.errors import ConfigError, ImageError
from sparse_attn.imaging import Photo, decode_image, read_image, write_image
from sparse_attn.imaging.io import MAX_PIXELS

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
VARIANTS = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
}


def encoded(name: str) -> bytes:
    file = io.BytesIO()
    kind, options = VARIANTS[name]
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def tiff_with_its_directory_first() -> bytes:
    """A deflated TIFF as other software writes it: Pillow's own has the directory last, where any cut removes it."""
    data = zlib.compress(PIXELS.tobytes())
    tags = [(256, 17), (257, 13), (258, 8), (259, 8), (262, 1), (273, 0), (277, 1), (278, 13), (279, len(data))]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def png_header(width: int, height: int) -> bytes:
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(bytes(99)))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read {str(path)!r}: ")
    assert "\n" not in message
    return message


def content_refused(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(content, "pictures.tar:a.png")
    message = str(caught.value)
    assert message.startswith("cannot read 'pictures.tar:a.png': ")
    assert "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert refused(tmp_path / "a.png").endswith(": no such file")


def test_folder(tmp_path):
    assert refused(tmp_path).endswith(": it is a folder")


def test_file_inside_a_file(tmp_path):
    (tmp_path / "a").touch()
    assert refused(tmp_path / "a" / "b.png").endswith(": Not a directory")


def test_zero_bytes(tmp_path):
    (tmp_path / "a.png").touch()
    assert refused(tmp_path / "a.png").endswith(": the file is empty")
    assert content_refused(b"").endswith(": the file is empty")


@pytest.mark.parametrize(
    "content", [b"a text\nof two lines\n", b"\0", b"GIF89a" + bytes(99), b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert refused(tmp_path / "a.png").endswith(
        ": not an image, or cut off in its header, expected PNG, JPEG, WebP, BMP or TIFF"
    )


@pytest.mark.parametrize("pad_truncated", [False, True])
@pytest.mark.parametrize("name", [*VARIANTS, "directory first.tif"])
def test_truncated_anywhere(tmp_path, monkeypatch, capfd, name, pad_truncated):
    """Cut at any byte a file is refused, unless nothing but padding or a final checksum is lost."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", pad_truncated)
    path = tmp_path / name
    content = tiff_with_its_directory_first() if name == "directory first.tif" else encoded(name)
    path.write_bytes(content)
    whole = read_image(path).pixels
    spare = {"png": 4, "bmp": 1}.get(name, 0)
    for length in [*range(1, len(content), 7), *range(len(content) - 25, len(content))]:
        path.write_bytes(content[:length])
        if length >= len(content) - spare:
            np.testing.assert_array_equal(read_image(path).pixels, whole)
            np.testing.assert_array_equal(decode_image(content[:length], name).pixels, whole)
        else:
            refused(path)
            content_refused(content[:length])
    assert capfd.readouterr() == ("", "")
    assert pad_truncated == ImageFile.LOAD_TRUNCATED_IMAGES


def test_threads_leave_the_process_as_it_was(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = tiff_with_its_directory_first()
    (tmp_path / "whole.tif").write_bytes(content)
    (tmp_path / "cut.tif").write_bytes(content[:-50])
    filters = warnings.filters.copy()

    def read(name: str) -> bool:
        try:
            return read_image(tmp_path / name).size == (13, 17)
        except ImageError:
            return False

    with ThreadPoolExecutor(7) as pool:
        results = list(pool.map(read, ["whole.tif", "cut.tif"] * 53))
    assert results == [True, False] * 53
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters == filters
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_damaged_png_data(tmp_path):
    content = bytearray(encoded("png"))
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    assert refused(tmp_path / "a.png").endswith("; the file may be damaged or incomplete")


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)])
def test_huge_header(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    assert "the image is too large, expected at most 150 megapixels" in refused(tmp_path / "a.png")
    assert "the image is too large, expected at most 150 megapixels" in content_refused(png_header(width, height))


def test_large_header_is_not_a_warning(tmp_path):
    """Between Pillow's own warning and our limit the size is accepted; here the data are missing."""
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "too large" not in refused(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_white(tmp_path, mode):
    Image.new(mode, (7, 5)).save(tmp_path / "a.tif")
    assert refused(tmp_path / "a.tif").endswith(
        "32-bit and floating point pixels have no defined white, expected 8 or 16 bits a channel; convert it first"
    )


def test_odd_names_stay_on_one_line(tmp_path):
    refused(tmp_path / "two\nlines.png")
    refused(tmp_path / "nul\0.png")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(ImageError, match=r"unknown suffix '.*', expected one of \.png, \.jpg, \.jpeg, \.webp"):
        write_image(tmp_path / name, Photo(PIXELS))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_bad_quality(tmp_path, quality):
    with pytest.raises(ConfigError, match=f"bad quality, expected 1 to 100, got {quality}"):
        write_image(tmp_path / "a.jpg", Photo(PIXELS), quality=quality)


def test_missing_folder(tmp_path):
    with pytest.raises(ImageError, match=r"cannot write '.*': no such folder; create it first"):
        write_image(tmp_path / "b" / "a.png", Photo(PIXELS))


def test_folder_in_the_way(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match=r"cannot write '.*': it is a folder"):
        write_image(tmp_path / "a.png", Photo(PIXELS))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_file_for_a_folder(tmp_path):
    (tmp_path / "b").touch()
    with pytest.raises(ImageError, match=r"cannot write '.*': Not a directory"):
        write_image(tmp_path / "b" / "a.png", Photo(PIXELS))


def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(ImageError, match=r"cannot write '.*': Permission denied"):
            write_image(tmp_path / "a.png", Photo(PIXELS))
    finally:
        tmp_path.chmod(0o700)


def test_what_a_format_cannot_hold(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"before")
    with pytest.raises(ImageError, match=r"cannot write '.*a\.webp': .*16383"):
        write_image(tmp_path / "a.webp", Photo(np.zeros((1, 16_384), np.uint8)))
    assert (tmp_path / "a.webp").read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.webp"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_no_room_leaves_what_was_there(tmp_path, capfd, suffix):
    resource = pytest.importorskip("resource", reason="limits of file size are a POSIX thing")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(ImageError) as caught:
            write_image(path, Photo(PIXELS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"cannot write {str(path)!r}: File too large"
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, os.strerror(errno.EACCES)), KeyboardInterrupt()])
def test_interrupted_at_the_last_moment(tmp_path, monkeypatch, error):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def fail(self, target):
        assert read_image(self).pixels.shape == PIXELS.shape, "all is written by then"
        raise error

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ImageError if isinstance(error, OSError) else KeyboardInterrupt):
        write_image(path, Photo(PIXELS))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_replaces_what_was_there_with_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    (tmp_path / "a.png").write_bytes(b"before")
    write_image(tmp_path / "a.png", Photo(PIXELS))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, PIXELS)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "plain"]
