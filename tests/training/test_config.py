"""Recipes are checked when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.training import Recipe, Stage, load_recipe
from sparse_attn.training.loop import learning_rate

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
        ("name: first", "name: last", ConfigError, "bad stage name"),
        ("name: first", "name: a/b", ConfigError, "bad stage name"),
        ("stages:", "stages:\n  - {name: first, steps: 1, lr: 1}", ConfigError, "of distinct names"),
        ("[0.9, 0.99]", "0.9", ConfigError, "betas has the wrong type, expected a list of numbers"),
        ("[0.9, 0.99]", "[0.9, x]", ConfigError, "betas has the wrong type, expected float, got 'x'"),
        ("[0.9, 0.99]", "[0.9, 1.9]", ConfigError, "bad betas"),
        ("betas:", "model_config: 5\nbetas:", ConfigError, "bad model_config"),
        ("betas:", "save_minutes: -1\nbetas:", ConfigError, "bad eps or save_minutes"),
        ("betas:", "ema: 1.0\nbetas:", ConfigError, "bad ema"),
        ("betas:", "precision: fp8\nbetas:", ConfigError, "expected bf16 or float32, got 'fp8'"),
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


def test_cosine_schedule() -> None:
    stage = Stage(name="s", steps=110, lr=2.0, warmup=10)
    assert learning_rate(stage, 0) == pytest.approx(0.2)
    assert learning_rate(stage, 9) == pytest.approx(2.0)
    assert learning_rate(stage, 10) == pytest.approx(2.0)
    assert learning_rate(stage, 60) == pytest.approx(1.0)
    assert learning_rate(stage, 109) < 1e-3


def test_halving_schedule() -> None:
    stage = Stage(name="s", steps=100, lr=2.0, schedule="halving", halve_every=40)
    assert [learning_rate(stage, step) for step in (0, 39, 40, 80)] == [2.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "zoo").glob("*/recipe.yaml")), ids=str)
def test_the_recipes_of_the_zoo_are_good(path: Path) -> None:
    assert load_recipe(path).model == path.parent.name
