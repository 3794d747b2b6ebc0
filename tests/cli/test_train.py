"""A tiny recipe from the command line: trained, resumed, interrupted, and its data found."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sparse_attn.cli.train import data_folder, with_data
from sparse_attn.errors import DataError
from sparse_attn.imaging import read_image
from sparse_attn.training import Trainer
from tests.cli.conftest import TINY, Command, picture


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two steps and three, on two pictures; the data is in `data/`, the recipe elsewhere."""
    monkeypatch.setenv("SPARSE_ATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPARSE_ATTN_DATA", raising=False)
    for seed in range(2):
        picture(tmp_path / "data" / "train" / f"{seed}.png", 48, 60, seed=seed)
        picture(tmp_path / "data" / "val" / f"{seed}.png", 32, 40, seed=seed)
    stages = [
        {"name": "one", "steps": 2, "lr": 1e-3, "batch": 2, "patch": 8},
        {"name": "two", "steps": 3, "lr": 1e-3, "batch": 2, "patch": 8},
    ]
    content = {"model": "nlsn_light_x2", "model_config": TINY, "train": "train", "val": "val", "stages": stages}
    path = tmp_path / "recipes" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({**content, "precision": "float32"}))
    return path


def test_a_recipe_is_trained_and_its_weights_enlarge(command: Command, recipe: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        outcome = command("train", recipe, "--threads", 1, "--device", "cpu")
    finally:
        torch.set_num_threads(threads)
    assert (outcome.code, outcome.errors) == (0, [])
    run = tmp_path / "runs" / "nlsn_light_x2"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    psnr = [line["val_psnr"] for line in log if "val_psnr" in line]
    assert [f"one 2: {psnr[0]:.3f} dB on 2 images", f"two 3: {psnr[1]:.3f} dB on 2 images"] == [
        line for line in outcome.out.splitlines() if " dB on " in line
    ]
    assert outcome.out.splitlines()[-1].startswith("trained 5 steps: weights in runs/nlsn_light_x2/nlsn_light_x2, ")
    weights = run / "nlsn_light_x2"
    assert command("upscale", "data/val/0.png", "up.png", "-m", "nlsn_light_x2", "--checkpoint", weights).code == 1
    picture(tmp_path / "a.png")
    config = json.loads((weights / "config.json").read_text())["config"]
    assert config["n_feats"] == TINY["n_feats"]
    (tmp_path / "zoo").mkdir()
    weights.rename(tmp_path / "zoo" / "nlsn_light_x2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_ATTN_ZOO", str(tmp_path / "zoo"))
        assert command("upscale", "a.png", "-s", 2).code == 0
    assert read_image(tmp_path / "a_x2.png").size == (22, 26)


def test_ctrl_c_saves_and_the_same_command_goes_on(
    command: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def interrupted(self: Trainer) -> Any:
        if self.total_step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    outcome = command("train", recipe, "--out", "run")
    assert outcome.code == 130
    assert outcome.errors == ["error: interrupted at step 3, saved; the same command goes on from there"]
    monkeypatch.setattr(Trainer, "train_step", step)
    again = command("train", recipe, "--out", "run")
    assert again.code == 0 and again.out.splitlines()[-1].startswith("trained 5 steps: ")
    assert "going on from step 3" in again.out
    third = command("train", recipe, "--out", "run")
    assert third.code == 0 and third.out.startswith("had been trained before: weights in run/nlsn_light_x2")


def test_fields_can_be_set(command: Command, recipe: Path, tmp_path: Path) -> None:
    words = ("--set", "stages.one.steps=1", "--set", "seed=3", "--max-minutes", 1e-4, "--device", "cpu")
    assert command("train", recipe, "--out", "run", *words).code == 0
    record = json.loads((tmp_path / "run" / "nlsn_light_x2" / "training.json").read_text())
    assert (record["seed"], record["stages"][0]["steps"], record["max_minutes"]) == (3, 1, 1e-4)
    assert command("train", recipe, "--set", "stages.ones.steps=1").errors == [
        "error: unknown stage 'ones'; did you mean one?"
    ]


def test_started_from_weights(command: Command, recipe: Path, tmp_path: Path) -> None:
    assert command("train", recipe, "--out", "first").code == 0
    assert command("train", recipe, "--out", "second", "--init", "first/nlsn_light_x2").code == 0
    log = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert log[0]["init"]["new"] == log[0]["init"]["dropped"] == []


def test_where_data_is_looked_for(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(
        DataError, match=r"^no data folder, got nothing at data or \.\./shared/data; pass --data or set"
    ):
        data_folder(None)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert data_folder(None) == Path("../shared/data")
    (tmp_path / "project" / "data").mkdir()
    assert data_folder(None) == Path("data")
    monkeypatch.setenv("SPARSE_ATTN_DATA", str(elsewhere))
    assert data_folder(None) == elsewhere
    assert data_folder(tmp_path / "data") == tmp_path / "data"
    with pytest.raises(DataError, match="no data folder, got nothing at nowhere"):
        data_folder(Path("nowhere"))
    found = with_data(recipe, tmp_path / "data")
    assert (found.train, found.val) == (str(tmp_path / "data" / "train"), str(tmp_path / "data" / "val"))


def test_data_beside_the_recipe_is_used_first(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "data").rename(recipe.parent / "here")
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**values, "train": "here/train", "val": "here/val"}))
    found = with_data(recipe, None)
    assert (found.train, found.val) == (str(recipe.parent / "here/train"), str(recipe.parent / "here/val"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modl": "edsr_x2"}, "error: unknown field of the recipe 'modl'; did you mean model"),
        ({"train": "nothing"}, "error: no folder of images, "),
        ({"model": "nlsm_light_x2"}, "error: unknown model 'nlsm_light_x2'; did you mean nlsn_light_x2"),
    ],
)
def test_bad_recipes_are_one_line(command: Command, recipe: Path, change: dict[str, str], said: str) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **change}))
    outcome = command("train", recipe)
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(said)
    assert command("train", "nowhere.yaml").errors == [
        "error: cannot read recipe nowhere.yaml, got No such file or directory; check the path"
    ]
