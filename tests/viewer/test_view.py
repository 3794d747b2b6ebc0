"""Which attention of which model is looked at, on which part of which picture."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparse_attn.errors import ConfigError, DataError, ImageError, UnknownNameError
from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, write_image
from sparse_attn.viewer import inspect
from tests.attention.support import make
from tests.viewer.support import view_of

NAMES = ("body.attention.0", "body.attention.1", "body.attention.2")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    settings = {"bucket_size": 16, "rounds": 2}
    return create_model(
        "nlsn_light_x2", n_resblocks=2, n_feats=8, attention_at=[0, 1, 2], attention_kwargs=settings
    ).train()


@pytest.fixture(scope="module")
def photo() -> Photo:
    return Photo(np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8))


@pytest.mark.parametrize(("wanted", "name"), [(None, NAMES[2]), (0, NAMES[0]), (-2, NAMES[1]), (NAMES[1], NAMES[1])])
def test_layers(model: nn.Module, photo: Photo, wanted: str | int | None, name: str) -> None:
    view = inspect(model, photo, at=(4, 5), layer=wanted)
    assert view.layer == name and view.layers == NAMES
    assert view.probe.attention is model.get_submodule(name)
    assert model.training


@pytest.mark.parametrize("wanted", [3, -4, "body.attention.7", "head"])
def test_unknown_layers(model: nn.Module, photo: Photo, wanted: str | int) -> None:
    with pytest.raises(UnknownNameError) as error:
        inspect(model, photo, at=(4, 5), layer=wanted)
    assert str(error.value) == (
        f"unknown attention '{wanted}'; there are: 0 body.attention.0, 1 body.attention.1, 2 body.attention.2"
    )


def test_what_is_kept(model: nn.Module, photo: Photo) -> None:
    view = inspect(model, photo, at=(4, 5))
    query = torch.tensor([5 * 23 + 4])
    assert torch.equal(view.query, query)
    weights = view.probe.weights(query)[0, 0]
    assert torch.equal(view.attended, weights > 0)
    assert view.kept == pytest.approx(float(view.probe.dense_weights(query)[0, 0][weights > 0].sum()))
    assert 0 < view.kept < 1
    assert view.attention == "nlsa (bucket_size=16, rounds=2, neighbors=2, boundary=mask, center=False)"


@pytest.mark.parametrize(
    ("at", "crop", "corner", "size"),
    [
        ((11, 9), 8, (7, 5), (8, 8)),
        ((0, 0), 8, (0, 0), (8, 8)),
        ((22, 18), 8, (15, 11), (8, 8)),
        ((11, 9), 20, (1, 0), (20, 19)),
        ((11, 9), 99, (0, 0), (23, 19)),
        ((11, 9), 1, (11, 9), (1, 1)),
    ],
)
def test_parts(
    model: nn.Module, photo: Photo, at: tuple[int, int], crop: int, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    view = inspect(model, photo, at=at, crop=crop)
    assert view.corner == corner and view.whole == (23, 19)
    assert view.picture.shape[1::-1] == view.probe.size[::-1] == size
    x, y = view.place
    assert (view.picture[y, x] == photo.pixels[at[1], at[0]]).all()
    alone = inspect(model, Photo(view.picture), at=(x, y))
    assert alone.kept == view.kept


@pytest.mark.parametrize("at", [(23, 0), (0, 19), (-1, 0)])
def test_pixels_outside(model: nn.Module, photo: Photo, at: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=rf"outside, expected 0,0 to 22,18, got {at[0]},{at[1]}"):
        inspect(model, photo, at=at)


def test_pictures_of_all_kinds(model: nn.Module, photo: Photo, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", photo)
    kept = inspect(model, photo, at=(4, 5)).kept
    assert inspect(model, tmp_path / "photo.png", at=(4, 5)).kept == kept
    tensor = torch.from_numpy(photo.pixels / 255.0).permute(2, 0, 1)[None].float()
    view = inspect(model, tensor, at=(4, 5))
    assert view.kept == pytest.approx(kept, rel=1e-5)
    assert (view.picture == photo.pixels).all()
    grey = Photo(photo.pixels[..., 0])
    assert inspect(model, grey, at=(4, 5)).picture.ndim == 2
    with pytest.raises(ImageError, match="no such file"):
        inspect(model, tmp_path / "none.png", at=(4, 5))


def test_networks_of_one_channel_take_the_mean(photo: Photo) -> None:
    settings = {"n_resblocks": 1, "n_feats": 8, "attention_at": [0], "in_chans": 1}
    view = inspect(create_model("nlsn_light_x2", **settings), photo, at=(4, 5))
    assert view.picture.shape == (19, 23, 3)


def test_a_coarser_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), make("nlsa", 8, bucket_size=16))
    view = inspect(model, torch.randn(1, 3, 44, 52), at=(51, 43))
    assert view.probe.size == (11, 13) and view.place == (12, 10)
    assert view.picture.shape == (44, 52, 3) and view.picture.min() == 0 and view.picture.max() == 255


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        (nn.Conv2d(3, 3, 1), torch.rand(1, 3, 5, 5), "with attention"),
        (make("nlsa"), torch.rand(2, 6, 5, 5), "one picture"),
        (make("nlsa"), torch.rand(6, 5, 5), "one picture"),
    ],
    ids=["no attention", "two pictures", "no batch"],
)
def test_what_cannot_be_looked_at(model: nn.Module, image: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inspect(model, image, at=(1, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "nlsn_light_x4"}, "expected a module, got str; build it first"),
        ({"image": np.zeros((5, 5, 3), np.uint8)}, r"got ndarray; Photo\(pixels\) takes an array"),
        ({"at": 5}, r"bad pixel, expected two whole numbers, \(x, y\), got 5"),
        ({"at": (1, 2, 3)}, r"bad pixel, expected two whole numbers, \(x, y\), got \(1, 2, 3\)"),
    ],
)
def test_what_is_no_model_or_picture_or_pixel(
    model: nn.Module, photo: Photo, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        inspect(**{"model": model, "image": photo, "at": (1, 1), **given})


def test_bad_crop(model: nn.Module, photo: Photo) -> None:
    with pytest.raises(ConfigError, match="bad crop"):
        inspect(model, photo, at=(1, 1), crop=0)


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    view = view_of("nlsa")
    view.save(tmp_path / "a.HTML")
    assert (tmp_path / "a.HTML").read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"ending in \.html or \.png"):
        view.save(tmp_path / "a.svg")
    with pytest.raises(DataError, match="cannot write"):
        view.save(tmp_path / "none" / "a.html")
    (tmp_path / "b.html").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        view.save(tmp_path / "b.html")
    assert {path.name for path in tmp_path.iterdir()} == {"a.HTML", "b.html"}


def test_whole_numbers_of_any_kind(model: nn.Module, photo: Photo) -> None:
    view = inspect(model, photo, at=(np.int64(3), np.uint8(4)), crop=np.int32(8))
    assert view.at == (3, 4) and {type(value) for value in view.at} == {int}
    assert view.picture.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"at": (3.0, 4.0)}, "bad pixel, expected whole numbers, got 3.0"),
        ({"at": (3, "4")}, "bad pixel, expected whole numbers, got '4'"),
        ({"at": (3, 4), "crop": 4.5}, "bad crop, expected whole numbers, got 4.5"),
    ],
)
def test_numbers_that_are_not_whole(model: nn.Module, photo: Photo, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inspect(model, photo, **given)


def test_a_model_of_no_finite_values(model: nn.Module, photo: Photo) -> None:
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.head.weight, torch.nan)
    with pytest.raises(ConfigError, match=r"cannot look at body\.attention\.2, expected finite queries and keys"):
        inspect(broken, photo, at=(3, 4))


def test_a_title_that_is_no_text(model: nn.Module, photo: Photo, tmp_path: Path) -> None:
    view = inspect(model, photo, at=(3, 4), title=os.fsdecode(b"caf\xe9.png"))
    view.save(tmp_path / "a.html")
    assert "<title>caf?.png: what body" in (tmp_path / "a.html").read_text(encoding="utf-8")
