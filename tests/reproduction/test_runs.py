"""A run is its settings: who shares one, what it starts from, and what it has used up."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_attn.errors import DataError
from sparse_attn.reproduction import Effort
from sparse_attn.reproduction.runs import Run, fingerprint, initial_weights, make_run, spent_minutes, train
from sparse_attn.training import Recipe, Stage
from sparse_attn.weights import read_weights
from tests.reproduction.support import TOY

NLSA = {**TOY, "attention": "nlsa", "attention_kwargs": {"bucket_size": 144, "rounds": 2}}


def run_of(recipe: Recipe, **changes: Any) -> Run:
    settings: dict[str, Any] = {"config": NLSA, "seed": 0, "minutes": None, "data": "abc", "out": Path("out")}
    return make_run(recipe, **{**settings, **changes})


def test_what_decides_the_weights_decides_the_folder(effort: Effort) -> None:
    recipe = effort.recipe
    same = run_of(recipe).folder
    assert same.parent == Path("out/runs")
    assert same.name.startswith("nlsa-seed0-")
    for alike in (
        replace(
            recipe,
            train="elsewhere",
            val="elsewhere",
            val_every=1,
            val_images=1,
            final_val_images=1,
            save_minutes=9.0,
            workers=2,
        ),
        replace(recipe, model_config={}, seed=7),
    ):
        assert run_of(alike).folder == same
    others = [
        run_of(recipe, seed=1),
        run_of(recipe, minutes=1.0),
        run_of(recipe, minutes=2.0),
        run_of(recipe, data="abd"),
        run_of(recipe, config={**NLSA, "attention_kwargs": {"bucket_size": 144, "rounds": 4}}),
        run_of(replace(recipe, ema=0.25)),
        run_of(replace(recipe, stages=(replace(recipe.stages[0], steps=4),))),
    ]
    assert len({same, *(other.folder for other in others)}) == 1 + len(others)


def test_a_new_field_of_recipes_does_not_make_old_runs_new(effort: Effort) -> None:
    @dataclass(frozen=True, kw_only=True)
    class LaterStage(Stage):
        news: int = 3

    @dataclass(frozen=True, kw_only=True)
    class LaterRecipe(Recipe):
        news: str = "none"

    values = {f.name: getattr(effort.recipe, f.name) for f in fields(effort.recipe)}
    stages = tuple(LaterStage(**{f.name: getattr(s, f.name) for f in fields(s)}) for s in effort.recipe.stages)
    later = LaterRecipe(**{**values, "stages": stages})
    assert run_of(later).folder == run_of(effort.recipe).folder
    assert run_of(replace(later, news="some")).folder != run_of(effort.recipe).folder


def test_rotations_are_of_the_seed_too(effort: Effort) -> None:
    configs = [run_of(effort.recipe, seed=seed).recipe.model_config for seed in (0, 1)]
    assert [config["attention_kwargs"]["seed"] for config in configs] == [0, 1]
    assert NLSA["attention_kwargs"] == {"bucket_size": 144, "rounds": 2}
    local = {**TOY, "attention": "local_window"}
    assert run_of(effort.recipe, config=local).recipe.model_config == local


def test_every_variant_starts_from_the_same_trunk(effort: Effort) -> None:
    configs = {
        "none": {**TOY, "attention": None},
        "local": {**TOY, "attention": "local_window"},
        "nlsa": NLSA,
        "two embeddings": {**TOY, "attention": "nla", "attention_kwargs": {"shared_qk": False}},
    }
    before = torch.get_rng_state()
    weights = {name: initial_weights(run_of(effort.recipe, config=c, seed=3).recipe) for name, c in configs.items()}
    assert torch.equal(torch.get_rng_state(), before)
    for own in weights.values():
        assert all(torch.equal(tensor, own[name]) for name, tensor in weights["none"].items())
    attention = {name for name in weights["nlsa"] if name not in weights["none"]}
    assert len(attention) == 4
    assert all(torch.equal(weights["nlsa"][name], weights["local"][name]) for name in attention)
    assert weights["nlsa"]["body.attention.1.value.weight"].abs().min() > 0
    other = initial_weights(run_of(effort.recipe, config=configs["none"], seed=4).recipe)
    assert not torch.equal(other["head.weight"], weights["none"]["head.weight"])


def test_minutes_spent_are_those_up_to_the_newest_checkpoint(tmp_path: Path) -> None:
    assert spent_minutes(tmp_path) == 0.0
    lines = [
        {"total_step": 0, "start": {}},
        {"total_step": 20, "seconds": 30.0},
        {"total_step": 40, "seconds": 66.0},
        {"total_step": 60, "seconds": 90.0},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert spent_minutes(tmp_path) == 0.0
    (tmp_path / "checkpoints").mkdir()
    for step in (20, 45):
        (tmp_path / "checkpoints" / f"step-{step:09d}.pt").touch()
    (tmp_path / "checkpoints" / "best.pt").touch()
    assert spent_minutes(tmp_path) == pytest.approx(1.1)


def test_a_resumed_run_gets_what_is_left_of_its_minutes(
    effort: Effort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    class Idle:
        def __init__(self, recipe: Recipe, out: Path, **options: Any) -> None:
            given.append(options)

        def run(self) -> None:
            pass

    monkeypatch.setattr("sparse_attn.reproduction.runs.Trainer", Idle)
    for minutes in (None, 2.0):
        run = run_of(effort.recipe, minutes=minutes, out=tmp_path)
        for seconds in (30.0, 600.0):
            train(run, device=torch.device("cpu"), report=lambda _: None, command=None)
            (run.folder / "log.jsonl").write_text(json.dumps({"total_step": 20, "seconds": seconds}) + "\n")
            (run.folder / "checkpoints").mkdir(exist_ok=True)
            (run.folder / "checkpoints" / "step-000000020.pt").touch()
        train(run, device=torch.device("cpu"), report=lambda _: None, command=None)
        assert json.loads((run.folder / "settings.json").read_text()) == run.settings
        assert set(read_weights(run.folder / "init.pt")) == set(initial_weights(run.recipe))
    assert ["max_minutes" in options for options in given] == [False] * 3 + [True] * 3
    assert [options["max_minutes"] for options in given[3:]] == [2.0, 1.5, pytest.approx(1e-3)]


def test_data_may_move_but_not_change(data: Path, tmp_path: Path) -> None:
    before = fingerprint(data / "train")
    (data / "train").rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == before
    (tmp_path / "moved" / "0.png").unlink()
    assert fingerprint(tmp_path / "moved") != before
    with pytest.raises(DataError, match=r"nothing in .*train, expected a folder of images"):
        fingerprint(data / "train")
