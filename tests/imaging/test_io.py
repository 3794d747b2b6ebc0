"""Pictures that are well: what is written is read, in every format, mode and orientation."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from sparse_attn.errors import ConfigError
from sparse_attn.imaging import Photo, decode_image, read_image, write_image
from tests.tolerances import ABSOLUTE

LOSSLESS = [".png", ".bmp", ".tif", ".tiff", ".PNG"]
LOSSY = [".jpg", ".jpeg", ".webp"]
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(height: int, width: int, *, channels: int = 3) -> np.ndarray:
    """A gradient that lossy formats keep nearly."""
    down, across = np.mgrid[:height, :width]
    planes = [(down * (3 + c) + across * (5 - c)) % 256 for c in range(channels)]
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_formats_round_trip(tmp_path, suffix, channels):
    pixels = smooth(13, 29, channels=channels)
    write_image(tmp_path / f"a{suffix}", Photo(pixels))
    photo = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.pixels.flags.writeable
    assert photo.alpha is None
    assert photo.icc is None
    assert photo.size == (13, 29)


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_stay_close(tmp_path, suffix, channels):
    pixels = smooth(29, 31, channels=channels)
    write_image(tmp_path / f"a{suffix}", Photo(pixels))
    back = read_image(tmp_path / f"a{suffix}").pixels
    expected = np.stack([pixels] * 3, axis=-1) if (suffix, channels) == (".webp", 1) else pixels
    assert back.shape == expected.shape
    assert np.abs(back.astype(float) - expected).mean() < ABSOLUTE["lossy.mean_levels"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_quality_trades_size(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (31, 37, 3), np.uint8)
    for quality in (10, 95):
        write_image(tmp_path / f"{quality}{suffix}", Photo(noise), quality=quality)
    assert (tmp_path / f"10{suffix}").stat().st_size < (tmp_path / f"95{suffix}").stat().st_size


def test_jpeg_keeps_colour_at_full_resolution(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    write_image(tmp_path / "a.jpg", Photo(stripes))
    back = read_image(tmp_path / "a.jpg").pixels
    assert np.abs(back.astype(float) - stripes).mean() < ABSOLUTE["lossy.stripes"]


@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    channels=st.sampled_from([1, 3]),
    alpha=st.booleans(),
    icc=st.sampled_from([None, ICC]),
    seed=st.integers(0, 999),
)
def test_any_png_round_trips(tmp_path_factory, height, width, channels, alpha, icc, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3)[: 2 + (channels == 3)], np.uint8)
    opacity = rng.integers(0, 256, (height, width), np.uint8) if alpha else None
    path = tmp_path_factory.getbasetemp() / "any.png"
    write_image(path, Photo(pixels, opacity, icc))
    photo = read_image(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert (photo.alpha is None) == (opacity is None)
    if opacity is not None:
        np.testing.assert_array_equal(photo.alpha, opacity)
    assert photo.icc == icc


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_kept(tmp_path, suffix, channels):
    alpha = np.random.default_rng(0).integers(0, 256, (13, 17), np.uint8)
    write_image(tmp_path / f"a{suffix}", Photo(smooth(13, 17, channels=channels), alpha))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").alpha, alpha)


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_laid_on_white_where_there_is_none(tmp_path, channels):
    pixels = np.full((2, 3, 3)[: 2 + (channels == 3)], 100, np.uint8)
    alpha = np.array([[0, 255, 128], [1, 254, 51]], np.uint8)
    write_image(tmp_path / "a.bmp", Photo(pixels, alpha))
    photo = read_image(tmp_path / "a.bmp")
    expected = np.floor(255 + (100 - 255.0) * alpha / 255 + 0.5)
    np.testing.assert_array_equal(photo.pixels, expected if channels == 1 else np.stack([expected] * 3, axis=-1))
    assert photo.alpha is None

    write_image(tmp_path / "a.jpg", Photo(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)))
    assert read_image(tmp_path / "a.jpg").pixels.min() == 255


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_icc_is_kept(tmp_path, suffix):
    write_image(tmp_path / f"a{suffix}", Photo(smooth(13, 17), icc=ICC))
    assert read_image(tmp_path / f"a{suffix}").icc == ICC


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_orientation_is_applied(tmp_path, kind, orientation):
    upright = smooth(16, 24)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    stored.save(tmp_path / "a", kind, exif=exif, **lossless, **({"quality": 95} if kind == "JPEG" else {}))
    pixels = read_image(tmp_path / "a").pixels
    np.testing.assert_array_equal(decode_image((tmp_path / "a").read_bytes(), "a").pixels, pixels)
    assert pixels.shape == upright.shape
    allowed = 0.0 if kind != "JPEG" else ABSOLUTE["lossy.mean_levels"]
    assert np.abs(pixels.astype(float) - upright).mean() <= allowed


def test_orientation_reaches_alpha(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(smooth(5, 7, channels=2), "LA").save(tmp_path / "a.png", exif=exif)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, np.rot90(smooth(5, 7, channels=2)[..., 0], -1))
    np.testing.assert_array_equal(photo.alpha, np.rot90(smooth(5, 7, channels=2)[..., 1], -1))


@pytest.mark.parametrize(
    "exif", [b"nonsense" * 3, b"MM\0*\0\0", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0" + bytes(4)]
)
def test_damaged_exif_costs_the_orientation_only(tmp_path, exif):
    Image.fromarray(smooth(5, 7)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, smooth(5, 7))


def test_palette_becomes_rgb(tmp_path):
    image = Image.fromarray(smooth(13, 17)).quantize(16)
    image.save(tmp_path / "a.png")
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, np.array(image.convert("RGB")))
    assert photo.alpha is None


@pytest.mark.parametrize("key", [3, bytes([255, 0, 77, 255])])
def test_transparent_palette_entries_become_alpha(tmp_path, key):
    indices = np.arange(8, dtype=np.uint8).reshape(2, 4) % 4
    image = Image.fromarray(indices, "L").copy()
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    image.save(tmp_path / "a.png", transparency=key)
    photo = read_image(tmp_path / "a.png")
    table = np.array([255, 255, 255, 0] if key == 3 else list(key))
    np.testing.assert_array_equal(photo.alpha, table[indices])
    np.testing.assert_array_equal(photo.pixels[0], [[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]])


@pytest.mark.parametrize(("channels", "key"), [(1, 8), (3, (8, 8, 8))])
def test_colour_key_becomes_alpha(tmp_path, channels, key):
    pixels = np.zeros((3, 5, 3)[: 2 + (channels == 3)], np.uint8)
    pixels[1, 2] = 8
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=key)
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, pixels)
    np.testing.assert_array_equal(photo.alpha == 0, pixels.reshape(3, 5, -1)[..., 0] == 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_rounded_to_8(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    photo = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(photo.pixels, [[0, 0, 1, 1, 128, 255, 255]])
    assert photo.alpha is None


def test_16_bit_colour_key_becomes_alpha(tmp_path):
    Image.fromarray(np.array([[5, 6, 1000]], np.uint16)).save(tmp_path / "a.png", transparency=1000)
    assert read_image(tmp_path / "a.png").alpha.tolist() == [[255, 255, 0]]


def test_12_bit_grey_reaches_white(tmp_path):
    # Two 12-bit samples in three bytes, high bits first: 0, 4095, 2048, 0.
    tags = ImageFileDirectory_v2()
    for tag, value in {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 279: 6}.items():
        tags[tag] = value
    tags[273] = 0  # counted from the directory's end
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + bytes.fromhex("000fff800000"))
    assert read_image(tmp_path / "a.tif").pixels.tolist() == [[0, 255, 128, 0]]


def test_16_bit_rgb_png_is_read(tmp_path):
    chunk = PngImagePlugin.putchunk
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(file, b"IHDR", bytes([0, 0, 0, 1, 0, 0, 0, 1, 16, 2, 0, 0, 0]))
    chunk(file, b"IDAT", zlib.compress(b"\0" + bytes([10, 0, 20, 0, 255, 255])))
    chunk(file, b"IEND", b"")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert read_image(tmp_path / "a.png").pixels.tolist() == [[[10, 20, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_stays_grey(tmp_path, mode):
    image = Image.fromarray(smooth(13, 17)).convert(mode)
    image.save(tmp_path / "a.png")
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, np.array(image.convert("L")))
    assert (photo.alpha is not None) == (mode == "LA")


@pytest.mark.parametrize(("mode", "suffix"), [("YCbCr", ".tif"), ("YCbCr", ".jpg"), ("RGBX", ".tif"), ("RGBA", ".tif")])
def test_other_colour_modes_become_rgb(tmp_path, mode, suffix):
    image = Image.fromarray(smooth(29, 31)).convert(mode)
    image.save(tmp_path / f"a{suffix}", **({"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}))
    photo = read_image(tmp_path / f"a{suffix}")
    assert np.abs(photo.pixels.astype(float) - smooth(29, 31)).mean() < ABSOLUTE["lossy.mean_levels"]
    assert (photo.alpha is not None) == (mode == "RGBA")


@pytest.mark.parametrize("icc", [None, b"not a profile", ICC])
def test_cmyk_becomes_rgb_without_its_profile(tmp_path, icc):
    """A profile that is broken, or not of CMYK, falls back to the plain formula."""
    pixels = smooth(13, 17)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.tif", icc_profile=icc)
    photo = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.icc is None


def test_suffix_does_not_decide_how_a_file_is_read(tmp_path):
    Image.fromarray(smooth(13, 17)).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.jpg")).pixels, smooth(13, 17))


def test_first_frame_of_several(tmp_path):
    frames = [Image.fromarray(frame) for frame in (smooth(5, 7), 255 - smooth(5, 7))]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, smooth(5, 7))


def test_first_picture_of_a_phones_several(tmp_path):
    frames = [Image.fromarray(frame) for frame in (smooth(16, 24), 255 - smooth(16, 24))]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:], quality=95, subsampling=0)
    pixels = read_image(tmp_path / "a.jpg").pixels
    assert np.abs(pixels.astype(float) - smooth(16, 24)).mean() < ABSOLUTE["lossy.mean_levels"]


def test_views_are_written_as_they_look(tmp_path):
    base = smooth(13, 17)
    write_image(tmp_path / "a.png", Photo(base[::-1, ::2], base[::-1, ::2, 0]))
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, base[::-1, ::2])
    np.testing.assert_array_equal(photo.alpha, base[::-1, ::2, 0])


@pytest.mark.parametrize(
    ("pixels", "alpha", "message"),
    [
        (np.zeros((5, 7, 4), np.uint8), None, "not a photo's pixels"),
        (np.zeros((5, 7, 3)), None, "not a photo's pixels, expected .*uint8, got .*float64"),
        (np.zeros((0, 7), np.uint8), None, "not a photo's pixels"),
        (np.zeros((5, 7), np.uint8), np.zeros((7, 5), np.uint8), r"not this photo's alpha, expected \(5, 7\), uint8"),
        (np.zeros((5, 7), np.uint8), np.zeros((5, 7)), "not this photo's alpha"),
    ],
)
def test_a_photo_is_checked_when_made(pixels, alpha, message):
    with pytest.raises(ConfigError, match=message):
        Photo(pixels, alpha)
