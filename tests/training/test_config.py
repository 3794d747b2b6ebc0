"""Recipes are checked when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.training import Recipe, Stage, load_recipe
from sparse_attn.training.optimisation import make_optimizer, make_schedule

GOOD = """
model: nlsn_light_x4
train: train
val: val/kodak
betas: [0.9, 0.99]
stages:
  - {name: first, steps: 10, lr: 1e-4}
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, GOOD), val="/elsewhere")
    assert recipe.stages == (Stage(name="first", steps=10, lr=1e-4),)
    assert recipe.train == str(tmp_path / "train")
    assert recipe.val == "/elsewhere"
    assert recipe.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("model:", "modle:", UnknownNameError, "unknown field of the recipe 'modle'; did you mean model"),
        (
            "steps: 10",
            "stepz: 10",
            UnknownNameError,
            "unknown field of stage 1 of the recipe 'stepz'; did you mean steps",
        ),
        ("steps: 10, ", "", ConfigError, "stage 1 of the recipe lacks steps"),
        ("steps: 10", "steps: ten", ConfigError, "steps has the wrong type, expected int, got 'ten'"),
        ("steps: 10", "steps: 0", ConfigError, "bad steps, expected at least 1, got 0"),
        ("lr: 1e-4", "lr: fast", ConfigError, "lr has the wrong type, expected float"),
        ("lr: 1e-4", "lr: -1", ConfigError, "bad lr"),
        ("lr: 1e-4", "lr: 1, schedule: step", ConfigError, "expected cosine or halving, got 'step'"),
        ("lr: 1e-4", "lr: 1, schedule: halving", ConfigError, "halving needs halve_every"),
        ("lr: 1e-4", "lr: .inf", ConfigError, "bad lr"),
        ("lr: 1e-4", "lr: 1, warmup: -5", ConfigError, "bad warmup"),
        ("lr: 1e-4", "lr: 1, warmup: 10", ConfigError, "bad warmup, expected less than steps = 10"),
        ("lr: 1e-4", "lr: 1, share: 0", ConfigError, "bad share, expected a positive number"),
        ("lr: 1e-4", "lr: 1, optimizer: adamm", UnknownNameError, "unknown optimizer 'adamm'; did you mean"),
        ("lr: 1e-4", "lr: 1, optimizer_args: {a: 1}", ConfigError, "stage 'first': bad optimizer_args, expected key"),
        ("name: first", "name: a/b", ConfigError, "bad stage name"),
        ("stages:", "stages:\n  - {name: first, steps: 1, lr: 1}", ConfigError, "of distinct names"),
        ("[0.9, 0.99]", "0.9", ConfigError, "betas has the wrong type, expected a list of numbers"),
        ("[0.9, 0.99]", "[0.9, x]", ConfigError, "betas has the wrong type, expected float, got 'x'"),
        ("[0.9, 0.99]", "[0.9, 1.9]", ConfigError, "bad betas"),
        ("betas:", "model_config: 5\nbetas:", ConfigError, "bad model_config"),
        ("betas:", "save_minutes: -1\nbetas:", ConfigError, "bad save_minutes, expected a positive number, got -1"),
        ("betas:", "ema: 1.0\nbetas:", ConfigError, "bad ema"),
        ("betas:", "precision: fp8\nbetas:", ConfigError, "expected bf16 or float32, got 'fp8'"),
        ("betas:", "precision: float3\nbetas:", ConfigError, "did you mean float32"),
        ("betas:", "optimizer: adan2\nbetas:", UnknownNameError, "unknown optimizer 'adan2'; did you mean adan"),
        ("betas:", "optimizer_args: 3\nbetas:", ConfigError, "bad optimizer_args, expected key: value lines"),
        ("betas:", "weight_decay: -1\nbetas:", ConfigError, "bad weight_decay, expected at least 0"),
        (
            "lr: 1e-4",
            "lr: 1, share: 2}\n  - {name: second, steps: 3, lr: 1",
            ConfigError,
            "for each stage, or for none",
        ),
        (
            "betas:",
            "compile: reduce-overhead\naccumulate: 2\nbetas:",
            ConfigError,
            "compile: reduce-overhead keeps gradients in a CUDA graph, where they cannot be accumulated, got accum",
        ),
        ("betas:", "final_val_images: 1\nbetas:", ConfigError, "bad final_val_images, expected at least 6, got 1"),
        ("betas:", "clip_grad: 0\nbetas:", ConfigError, "bad clip_grad, expected a positive number"),
        ("betas:", "accumulate: 0\nbetas:", ConfigError, "bad accumulate, expected at least 1"),
        ("betas:", "max_skipped: 0\nbetas:", ConfigError, "bad max_skipped, expected at least 1"),
        ("betas:", "workers: -1\nbetas:", ConfigError, "bad workers, expected at least 0"),
        ("betas:", "compile: fast\nbetas:", ConfigError, "bad compile, expected default or reduce-overhead"),
        ("betas:", "compile: 3\nbetas:", ConfigError, r"compile has the wrong type, expected bool \| str, got 3"),
        ("betas:", "grad_checkpointing: yep\nbetas:", ConfigError, "grad_checkpointing has the wrong type"),
        ("betas:", "trackers: tensorboard\nbetas:", ConfigError, "trackers has the wrong type, expected a list"),
        ("betas:", "trackers: [tensorbord]\nbetas:", ConfigError, "did you mean tensorboard"),
    ],
)
def test_bad_recipes(tmp_path: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_recipe(_write(tmp_path, GOOD.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "not a mapping"), ("a: [", "not YAML"), ("model: x", "no stages"), ("stages: []", "lacks")],
)
def test_not_a_recipe(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(_write(tmp_path, text))


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read recipe"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_recipe_needs_a_stage() -> None:
    with pytest.raises(ConfigError, match="needs stages"):
        Recipe(model="x", stages=(), train="", val="")


def _rates(stage: Stage, *places: float) -> list[float]:
    recipe = Recipe(model="x", stages=(stage,), train="", val="")
    optimizer = make_optimizer(nn.Conv2d(3, 5, 1), recipe, stage)
    schedule = make_schedule(optimizer, stage)
    rates = []
    for place in places:
        schedule.step_update(place)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_cosine_schedule() -> None:
    stage = Stage(name="s", steps=110, lr=2.0, warmup=10)
    rates = _rates(stage, 0, 5, 10, 60, 109, 110)
    assert rates[:4] == pytest.approx([0.2, 1.1, 2.0, 1.0])
    assert 0 < rates[4] < 1e-3
    assert rates[5] == 0


def test_the_schedule_has_places_between_steps() -> None:
    stage = Stage(name="s", steps=100, lr=2.0)
    low, between, high = _rates(stage, 41, 40.5, 40)
    assert low < between < high


def test_halving_schedule() -> None:
    stage = Stage(name="s", steps=100, lr=2.0, schedule="halving", halve_every=40)
    assert _rates(stage, 0, 39, 40, 80) == pytest.approx([2.0, 2.0, 1.0, 0.5])


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "lion", "sgd"])
def test_optimizers_get_what_they_know(name: str) -> None:
    stage = Stage(name="s", steps=100, lr=2.0, optimizer=name)
    recipe = Recipe(model="x", stages=(stage,), train="", val="", betas=(0.5, 0.6), eps=1e-3)
    group = make_optimizer(nn.Conv2d(3, 5, 3), recipe, stage).param_groups[0]
    assert group["lr"] == 2.0
    assert group.get("betas", (0.5, 0.6)) == (0.5, 0.6)


def test_an_argument_the_optimizer_does_not_have() -> None:
    stage = Stage(name="s", steps=100, lr=2.0)
    recipe = Recipe(model="x", stages=(stage,), train="", val="", optimizer_args={"wings": 2})
    with pytest.raises(ConfigError, match=r"optimizer 'adam' cannot be made, got .*wings.*; check optimizer_args"):
        make_optimizer(nn.Conv2d(3, 5, 1), recipe, stage)


def test_arguments_go_with_their_optimizer() -> None:
    own = Stage(name="own", steps=100, lr=2.0, optimizer="muon", optimizer_args={"momentum": 0.5})
    other = Stage(name="other", steps=100, lr=2.0)
    recipe = Recipe(model="x", stages=(own, other), train="", val="", optimizer_args={"amsgrad": True})
    assert make_optimizer(nn.Conv2d(3, 5, 3), recipe, own).param_groups[0]["momentum"] == 0.5
    assert make_optimizer(nn.Conv2d(3, 5, 3), recipe, other).param_groups[0]["amsgrad"] is True


def test_settings_replace_fields(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD)
    settings = ["seed=7", "stages.first.lr=3e-3", "model_config.n_feats=32", "betas=[0.5, 0.6]", "train=/elsewhere"]
    recipe = load_recipe(path, settings=settings, val="/there")
    assert (recipe.seed, recipe.stages[0].lr, recipe.betas) == (7, 3e-3, (0.5, 0.6))
    assert (recipe.model_config, recipe.train, recipe.val) == ({"n_feats": 32}, "/elsewhere", "/there")


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("seed", ConfigError, "bad setting, expected field=value, got 'seed'"),
        ("sed=3", UnknownNameError, "unknown field of the recipe 'sed'; did you mean seed"),
        ("stages.frist.lr=3", UnknownNameError, "unknown stage 'frist'; did you mean first"),
        ("stages.first.stepz=3", UnknownNameError, "did you mean steps"),
        ("stages.first=3", ConfigError, "expected stages.<name>.<field>=value"),
        ("model.x=3", ConfigError, "model has no fields"),
        ("seed=[", ConfigError, "bad value of setting 'seed', expected YAML"),
        ("seed=one", ConfigError, "seed has the wrong type, expected int, got 'one'"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_recipe(_write(tmp_path, GOOD), settings=[setting])


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "zoo").glob("*/recipe.yaml")), ids=str)
def test_the_recipes_of_the_zoo_are_good(path: Path) -> None:
    assert load_recipe(path).model == path.parent.name
