"""The table, the JSON file, and the command line that is recorded in it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sparse_attn.evaluation import evaluate
from sparse_attn.factory import create_model
from sparse_attn.imaging import Photo, resize, write_image
from tests.cli.conftest import Command, picture, pixels


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for part in ("HR", "LR"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png")):
        hr = pixels(32, 40, seed=seed)
        write_image(tmp_path / "set" / "HR" / name, Photo(hr))
        write_image(tmp_path / "set" / "LR" / name, Photo(resize(hr, 0.25)))
    return tmp_path / "set"


def test_table_and_json(command: Command, pairs: Path, tmp_path: Path) -> None:
    outcome = command("evaluate", "set", "--model", "nlsn_light_x4", "--json", "figures.json")
    assert (outcome.code, outcome.errors) == (0, [])
    expected = evaluate(create_model("nlsn_light_x4", pretrained=True), pairs)
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0] == ["image", "psnr", "ssim"]
    assert lines[1] == ["a.png", f"{expected.images[0].psnr:.4f}", f"{expected.images[0].ssim:.4f}"]
    assert lines[3] == ["mean", f"{expected.psnr:.4f}", f"{expected.ssim:.4f}"]
    record = json.loads((tmp_path / "figures.json").read_text())
    assert (record["psnr"], record["ssim"]) == (expected.psnr, expected.ssim)
    assert [image["name"] for image in record["images"]] == ["a.png", "b.png"]
    assert record["model"] == "nlsn_light_x4"
    assert record["command"] == "sparse-attn evaluate set --model nlsn_light_x4 --json figures.json"
    assert {path.name for path in tmp_path.iterdir()} == {"set", "figures.json"}


def test_the_recorded_command_measures_the_same_again(command: Command, pairs: Path, tmp_path: Path) -> None:
    words = ["evaluate", "set", "--scale", "4", "--make-lr", "--ensemble", "--tile", "24", "--device", "cpu"]
    outcome = command(*words, "--json", "a file.json")
    record = json.loads((tmp_path / "a file.json").read_text())
    assert (record["ensemble"], record["tile"], record["lr"]) == (
        True,
        24,
        "made from HR by bicubic (imaging.resize, uint8)",
    )
    again = command(*shlex.split(record["command"])[1:])
    assert again.code == 0 and again.out == outcome.out
    assert json.loads((tmp_path / "a file.json").read_text())["images"] == record["images"]


def test_bicubic_is_the_baseline(command: Command, pairs: Path) -> None:
    outcome = command("evaluate", "set", "--model", "bicubic", "--scale", 4)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1].split() == ["mean", *_mean(pairs)]


def _mean(pairs: Path) -> list[str]:
    result = evaluate("bicubic", pairs, scale=4)
    return [f"{result.psnr:.4f}", f"{result.ssim:.4f}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "error: no folder nowhere; check the path"),
        (["set/HR"], "error: no HR and no LR in set/HR, expected folders HR and LR; make the LR images"),
        (["empty", "--make-lr"], "error: no images in empty, "),
        (["set", "-m", "bicubic"], "error: bicubic needs a scale, "),
        (["set", "-m", "nlsn_light_x2"], "error: set/HR/a.png and set/LR/a.png do not fit, expected HR 2 times"),
        (["set", "-m", "nlsn_light_x2", "-s", 3], "error: nlsn_light_x2 enlarges 2 times, expected scale 2, got 3"),
        (["set", "--json", "no/where.json"], "error: cannot write no/where.json: no such folder; create it first"),
        (["set", "--json", "empty"], "error: cannot write empty: Is a directory"),
    ],
)
def test_bad_requests_are_one_line(
    command: Command, pairs: Path, tmp_path: Path, words: list[object], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    outcome = command("evaluate", *words)
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "empty"}


def test_a_damaged_image_is_named(command: Command, pairs: Path) -> None:
    whole = picture(pairs / "LR" / "b.png", 64, 64).read_bytes()
    (pairs / "LR" / "b.png").write_bytes(whole[:500])
    outcome = command("evaluate", "set")
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith("error: cannot read 'set/LR/b.png': ")
