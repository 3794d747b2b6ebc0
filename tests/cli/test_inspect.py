"""`sparse-attn inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_attn.factory import create_model
from sparse_attn.weights import write_zoo_folder
from tests.cli.conftest import Command, files, picture

SMALL = {"n_resblocks": 2, "n_feats": 8, "attention": "nlsa", "attention_at": [0, 1]}
SMALL["attention_kwargs"] = {"bucket_size": 16, "rounds": 2}


@pytest.fixture
def zoo(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the usual one, whose models have no attention."""
    root = tmp_path_factory.mktemp("zoo")
    for name, config in {"nlsn_light_x4": SMALL, "edsr_baseline_x2": {"n_resblocks": 1, "n_feats": 8}}.items():
        write_zoo_folder(root / name, create_model(name, **config).state_dict(), model=name, config=config)
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(root))
    return root


def test_a_page_and_a_figure(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "photo.png")
    outcome = command("inspect", "photo.png", "--at", "5,7", "-o", "out/a.html")
    assert outcome.code == 0
    layer, pixel, written = outcome.out.splitlines()
    assert layer == (
        "layer  body.attention.1, nlsa (bucket_size=16, rounds=2, neighbors=2, boundary=mask, center=False)"
        " (others: body.attention.0)"
    )
    assert pixel.startswith("pixel  5,7: ") and pixel.endswith(" % of dense attention's mass is kept")
    assert written == "written to out/a.html"
    page = (tmp_path / "out" / "a.html").read_text(encoding="utf-8")
    assert "nlsn_light_x4 on photo.png" in page
    assert command("inspect", "photo.png", "--at", "5, 7", "-o", "a.png", "--layer", "0").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert files(tmp_path) == {"photo.png", "out/a.html", "a.png"}


@pytest.mark.parametrize(
    ("crop", "part"), [((), "128x16 pixels at 72,0"), (("--crop", 8), "8x8 pixels at 132,5"), (("--crop", 0), None)]
)
def test_parts(command: Command, tmp_path: Path, crop: tuple[object, ...], part: str | None) -> None:
    picture(tmp_path / "photo.png", 16, 200)
    outcome = command("inspect", "photo.png", "--at", "136,9", "-o", "a.html", *crop)
    assert outcome.code == 0
    told = [line for line in outcome.out.splitlines() if line.startswith("part")]
    assert told == ([] if part is None else [f"part   {part}: all that the model was given"])


def test_nothing_is_overwritten_unasked(command: Command, tmp_path: Path) -> None:
    photo = picture(tmp_path / "photo.png")
    before = photo.read_bytes()
    (tmp_path / "a.html").write_text("mine")
    words = ("inspect", "photo.png", "--at", "5,7", "-o")
    outcome = command(*words, "a.html")
    assert (outcome.code, outcome.errors) == (1, ["error: cannot write a.html: it exists; pass --overwrite"])
    assert (tmp_path / "a.html").read_text() == "mine"
    assert command(*words, "a.html", "--overwrite").code == 0
    outcome = command(*words, "photo.png", "--overwrite")
    assert outcome.errors == ["error: cannot write photo.png: it is the input; choose another output"]
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--at", "5"), "bad --at, expected two whole numbers, X,Y, got '5'"),
        (("--at", "-1,2"), "bad --at"),
        (("--at", "13,0"), "the pixel is outside, expected 0,0 to 12,10, got 13,0"),
        (("--layer", "head"), "unknown attention 'head'; there are: 0 body.attention.0, 1 body.attention.1"),
        (("--layer", "2"), "unknown attention '2'; there are: 0 body.attention.0, 1 body.attention.1"),
        (("-o", "a.svg"), "cannot draw a.svg, expected a name ending in .html or .png"),
        (("--model", "edsr_baseline_x2"), "nothing to look at, expected a model with attention, got EDSR"),
        (("--model", "nlsn_lite_x4"), "did you mean"),
    ],
)
def test_bad_input(command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    picture(tmp_path / "photo.png")
    outcome = command("inspect", "photo.png", "--at", "5,7", "-o", "a.html", *arguments)
    assert outcome.code == 1
    assert message in outcome.errors[0]
    assert files(tmp_path) == {"photo.png"}


def test_a_picture_that_is_not_there(command: Command) -> None:
    outcome = command("inspect", "none.png", "--at", "5,7", "-o", "a.html")
    assert outcome.errors == ["error: cannot read 'none.png': no such file"]
