"""Files, several, folders: what goes where, and nothing overwritten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, read_image
from sparse_attn.inference import upscale
from tests.cli.conftest import Command, files, picture


def test_a_file_goes_beside_itself(command: Command, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    outcome = command("upscale", "a.png")
    assert (outcome.code, outcome.errors) == (0, [])
    assert outcome.out.startswith("a.png -> a_x4.png (13x11 -> 52x44, ")
    assert files(tmp_path) == {"a.png", "a_x4.png"} and source.read_bytes() == before
    expected = upscale(create_model("nlsn_light_x4", pretrained=True), source)
    assert isinstance(expected, Photo)
    assert np.array_equal(read_image(tmp_path / "a_x4.png").pixels, expected.pixels)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["b.webp"], "b.webp"),
        (["-o", "b.webp"], "b.webp"),
        (["--output", "new/b.tif"], "new/b.tif"),
        (["new"], "new/a_x4.png"),
        (["-o", "old"], "old/a_x4.png"),
        (["--scale", 2], "a_x2.png"),
        (["--model", "nlsn_light_x2"], "a_x2.png"),
        (["--checkpoint", "weights", "--model", "edsr_baseline_x2"], None),
    ],
)
def test_where_and_with_what(command: Command, tmp_path: Path, words: list[object], made: str | None) -> None:
    (tmp_path / "old").mkdir()
    picture(tmp_path / "a.png")
    outcome = command("upscale", "a.png", *words)
    if made is None:
        assert outcome.code == 1 and outcome.errors == ["error: no weights at weights; check the path"]
        return
    assert (outcome.code, outcome.errors) == (0, [])
    assert files(tmp_path) == {"a.png", made}
    scale = 2 if "x2" in made else 4
    assert read_image(tmp_path / made).size == (11 * scale, 13 * scale)


def test_a_model_of_ones_own_folder(command: Command, zoo: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    shutil.copytree(zoo / "nlsn_light_x2", tmp_path / "mine")
    outcome = command("upscale", "a.png", "--model", "local-dir:mine")
    assert (outcome.code, outcome.errors) == (0, []) and files(tmp_path / "mine") >= {"config.json"}
    assert read_image(tmp_path / "a_x2.png").size == (22, 26)
    wrong = command("upscale", "a.png", "--model", "local-dir:mine", "--scale", 4)
    message = "error: local-dir:mine enlarges 2 times, expected scale 2, got 4; leave --scale out"
    assert (wrong.code, wrong.errors) == (1, [message])


def test_one_bad_file_does_not_stop_a_folder(command: Command, tmp_path: Path) -> None:
    good = picture(tmp_path / "in" / "good.png", 17, 19)
    (tmp_path / "in" / "cut.png").write_bytes(good.read_bytes()[:300])
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    (tmp_path / "in" / ".hidden").write_text("not tried")
    (tmp_path / "in" / "below").mkdir()
    outcome = command("upscale", "in")
    assert outcome.code == 1
    assert len(outcome.errors) == 2
    assert outcome.errors[0].startswith("error: cannot read 'in/cut.png': ")
    assert outcome.errors[1].startswith("error: cannot read 'in/notes.txt': not an image")
    assert [p.name for p in (tmp_path / "in_x4").iterdir()] == ["good_x4.png"]
    assert outcome.out.startswith("in/good.png -> ")


def test_several_files_and_folders(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "in" / "b.jpg")
    picture(tmp_path / "c.png", seed=1)
    outcome = command("upscale", "a.png", "missing.png", "c.png")
    assert outcome.code == 1
    assert outcome.errors == ["error: cannot read 'missing.png': no such file"]
    assert files(tmp_path) == {"a.png", "c.png", "in/b.jpg", "a_x4.png", "c_x4.png"}
    assert command("upscale", "a.png", "in", "-o", "out", "-s", 2).code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_x2.png", "b_x2.png"}


def test_the_same_command_twice_enlarges_nothing_it_has_made(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "in" / "b.png")
    for words in (["in", "out"], ["in"], ["a.png", "out"], ["a.png"], ["a.png", "c.png"]):
        assert command("upscale", *words).code == 0
    made = files(tmp_path)
    assert made == {"a.png", "in/b.png", "out/b_x4.png", "in_x4/b_x4.png", "out/a_x4.png", "a_x4.png", "c.png"}
    for words in (["in", "out"], ["in"], ["a.png", "out"], ["a.png"]):
        outcome = command("upscale", *words)
        assert outcome.code == 1
        assert len(outcome.errors) == 1 and outcome.errors[0].endswith("it exists; pass --overwrite")
    outcome = command("upscale", "a.png", "c.png")
    assert outcome.code == 1
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith("error: c.png exists and is 4 times as large as a.png: is it a second input")
    assert files(tmp_path) == made


def test_two_pictures_that_exist_are_two_inputs(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", 17, 19)
    assert command("upscale", "a.png", "b.png").code == 0
    assert files(tmp_path) == {"a.png", "b.png", "a_x4.png", "b_x4.png"}


def test_a_folder_and_a_picture_need_an_output(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "in" / "b.png")
    outcome = command("upscale", "in", "a.png")
    assert outcome.code == 1 and len(outcome.errors) == 1
    assert outcome.errors[0].startswith("error: folder in is among other paths, ") and " -o: " in outcome.errors[0]
    assert files(tmp_path) == {"a.png", "in/b.png"}


def test_a_folder_is_not_input_and_output(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    for words in (["in", "in/."], ["in", "-o", "in"]):
        outcome = command("upscale", *words)
        assert outcome.code == 1
        assert (
            len(outcome.errors) == 1 and " is an input and the output, expected another folder; " in outcome.errors[0]
        )
    assert files(tmp_path) == {"in/a.png"}


def test_a_folder_can_be_the_current_one(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path / "in")
    assert command("upscale", ".").code == 0
    assert files(tmp_path) == {"in/a.png", "in_x4/a_x4.png"}


def test_inputs_of_one_stem_get_outputs_of_two(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "a.jpg")
    assert command("upscale", "in").code == 0
    assert files(tmp_path / "in_x4") == {"a.png_x4.png", "a.jpg_x4.png"}
    picture(tmp_path / "other" / "a.png")
    outcome = command("upscale", "in/a.png", "other/a.png", "-o", "out", "--overwrite")
    assert outcome.code == 1
    assert (
        outcome.errors
        == ["error: cannot write 'out/a.png_x4.png': several inputs would go there; enlarge them one by one"] * 2
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["itself", "symlink", "hardlink", "other input"])
def test_an_input_is_never_overwritten(command: Command, tmp_path: Path, how: str) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    words = ["a.png", "-o", "b.png", "--overwrite"]
    if how == "itself":
        words[2] = "../" + tmp_path.name + "/a.png"
    elif how == "symlink":
        (tmp_path / "b.png").symlink_to("a.png")
    elif how == "hardlink":
        os.link(source, tmp_path / "b.png")
    else:
        other = picture(tmp_path / "a_x4.png", seed=1)
        before += other.read_bytes()
        words = ["a.png", "a_x4.png", "--overwrite"]
    outcome = command("upscale", *words)
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and "it is an input; choose another output" in outcome.errors[0]
    assert source.read_bytes() + (other.read_bytes() if how == "other input" else b"") == before


def test_an_output_is_replaced_only_when_told_to(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a_x4.png").write_text("mine")
    outcome = command("upscale", "a.png")
    assert (outcome.code, outcome.errors) == (1, ["error: cannot write 'a_x4.png': it exists; pass --overwrite"])
    assert (tmp_path / "a_x4.png").read_text() == "mine"
    assert command("upscale", "a.png", "--overwrite").code == 0
    assert read_image(tmp_path / "a_x4.png").size == (44, 52)


def test_tiles_and_ensemble_reach_the_upscaler(command: Command, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png", 31, 37)
    assert command("upscale", "a.png", "--tile", 24, "--ensemble").code == 0
    expected = upscale(create_model("nlsn_light_x4", pretrained=True), source, tile=24, ensemble=True)
    whole = upscale(create_model("nlsn_light_x4", pretrained=True), source)
    assert isinstance(expected, Photo) and isinstance(whole, Photo)
    made = read_image(tmp_path / "a_x4.png").pixels
    assert np.array_equal(made, expected.pixels) and not np.array_equal(made, whole.pixels)


def test_grey_stays_grey(command: Command, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", grey=True)
    assert command("upscale", "a.png").code == 0
    assert read_image(tmp_path / "a_x4.png").pixels.shape == (44, 52)
